"""The command register."""

import pytest

from tests.pci.spaces import endpoint
from vioblk.pci.command import Command, change_command, decoding_off, read_command


def test_bits_are_changed_and_the_others_stay() -> None:
    space = endpoint(command=Command.IO | Command.BUS_MASTER)
    before = change_command(space, set_bits=Command.MEMORY, clear_bits=Command.BUS_MASTER)
    assert before == Command.IO | Command.BUS_MASTER
    assert read_command(space) == Command.IO | Command.MEMORY


def test_the_status_register_beside_it_is_not_written() -> None:
    """Some of its bits are cleared by writing ones."""
    space = endpoint()
    change_command(space, clear_bits=Command.BUS_MASTER)
    assert space.writes() == [(4, 2, 3)]


def test_nothing_is_written_where_nothing_changes() -> None:
    space = endpoint(command=Command.MEMORY)
    change_command(space, set_bits=Command.MEMORY)
    assert not space.writes()


@pytest.mark.parametrize("command", [0, 1, 2, 4, 7])
def test_decoding_comes_back_as_it_was(command: int) -> None:
    space = endpoint(command=command)
    with decoding_off(space):
        assert read_command(space) == command & Command.BUS_MASTER
    assert read_command(space) == command


def test_decoding_comes_back_after_an_error() -> None:
    space = endpoint(command=7)
    with pytest.raises(OSError, match="inside"), decoding_off(space):
        raise OSError("inside")
    assert read_command(space) == 7


def test_bits_without_a_name_stay_too() -> None:
    space = endpoint(command=0xF807)
    space.writable[4:6] = b"\xff\xff"
    change_command(space, set_bits=Command.INTX_DISABLE, clear_bits=Command.IO)
    assert int(read_command(space)) == 0xFC06
