"""The names that everything else is built on, and what `open` takes."""

import inspect
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import vioblk
from vioblk.block.driver import QueueOptions
from vioblk.block.features import BlockFeature
from vioblk.features import Feature


def test_every_public_name_exists_and_is_documented() -> None:
    for name in vioblk.__all__:
        assert inspect.getdoc(getattr(vioblk, name)), name


def test_every_error_is_public_and_also_a_built_in_one() -> None:
    import vioblk.errors

    for name, error in vars(vioblk.errors).items():
        if not inspect.isclass(error) or not issubclass(error, vioblk.VioblkError):
            continue
        assert getattr(vioblk, name) is error
        if error is not vioblk.VioblkError:
            built_in = [base for base in error.__mro__ if base.__module__ == "builtins"]
            assert built_in[0] is not Exception or len(built_in) > 3, f"{name}: {built_in}"


@pytest.mark.parametrize(
    ("error", "caught_as"),
    [
        (vioblk.ReadOnlyError, PermissionError),
        (vioblk.RequestFailedError, OSError),
        (vioblk.RequestTimeoutError, TimeoutError),
        (vioblk.DeviceGoneError, ConnectionError),
        (vioblk.DiskBusyError, BlockingIOError),
        (vioblk.UnalignedError, ValueError),
        (vioblk.AddressError, ValueError),
    ],
)
def test_errors_are_caught_as_a_python_programmer_would(
    error: type[Exception], caught_as: type[Exception]
) -> None:
    assert issubclass(error, caught_as)


def test_the_version_is_that_of_the_package() -> None:
    assert vioblk.__version__ == version("vioblk")


def test_the_first_lines_of_the_documentation_work() -> None:
    assert vioblk.__doc__ is not None
    program = vioblk.__doc__.partition("    import vioblk\n")[2]
    exec(inspect.cleandoc("import vioblk\n" + program), {})


def test_options_stand_in_the_address_or_beside_it() -> None:
    with vioblk.open("mem:1M?timeout_s=7&ring_size=16&event_idx=off") as disk:
        assert disk.timeout_s == 7
        assert disk.info.queues[0].size == 16
        assert not disk.device.has(Feature.EVENT_IDX)
    with vioblk.open("mem:1M?timeout_s=7", timeout_s=8.5, ring="reference", mq=False) as disk:
        assert disk.timeout_s == 8.5
        assert disk.info.ring == "reference"
        assert not disk.device.has(BlockFeature.MQ)


def test_the_default_bound_of_a_wait_is_the_documented_one() -> None:
    with vioblk.open("mem:1M") as disk:
        assert disk.timeout_s == 30
    assert "30 s" in (vioblk.BlockDevice.__doc__ or "")


@pytest.mark.parametrize(
    "address",
    [
        "mem:",
        "nonsense:1M",
        "mem:1M?ring=fast",
        "mem:1M?timeout_s=0",
        "mem:1M?timeout_s=nan",
        "mem:1M?ring_size=40000",
        "mem:1M?queue_count=0",
        "mem:1M?colour=red",
        "mem:1000",
    ],
)
def test_what_cannot_be_understood_is_an_address_error(address: str) -> None:
    with pytest.raises(vioblk.AddressError):
        vioblk.open(address)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"queue_count": 3}, "at most the 1 of the device"),
        ({"ring_size": 512}, "a power of two up to 256"),
        ({"ring_size": 2}, "takes three"),
    ],
)
def test_queues_that_the_device_does_not_have_are_refused(
    options: dict[str, Any], words: str
) -> None:
    with pytest.raises((ValueError, vioblk.NegotiationError), match=words):
        vioblk.open("mem:1M", **options)


def test_options_are_checked_where_they_are_made() -> None:
    with pytest.raises(ValueError, match="ring"):
        QueueOptions(ring="fast")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="queue_count"):
        QueueOptions(queue_count=0)


def test_queues_are_as_many_as_the_device_has_up_to_the_processors() -> None:
    import os

    with vioblk.open("mem:1M?queues=4") as disk:
        assert len(disk.info.queues) == min(4, os.cpu_count() or 1)
        assert disk.info.device_queue_count == 4
        assert disk.info.as_dict()["device_queue_count"] == 4
    with vioblk.open("mem:1M?queues=4", queue_count=3) as disk:
        assert len(disk.info.queues) == 3
        assert disk.info.device_queue_count == 4
    with vioblk.open("mem:1M?queues=4", mq=False) as disk:
        assert disk.info.device_queue_count == 1, "those beyond the first are for MQ only"


def test_a_file_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        vioblk.open(f"file:{tmp_path / 'nothing'}")


def test_a_failed_open_leaves_nothing_behind() -> None:
    from tests.support.leaks import no_leaks

    with no_leaks():
        for _ in range(5):
            with pytest.raises(vioblk.NegotiationError):
                vioblk.open("mem:1M", zoned=True)


def test_a_disk_says_what_it_is() -> None:
    disk = vioblk.open("mem:1M")
    assert repr(disk) == "<BlockDevice mem:1M: open>"
    disk.close()
    assert "closed" in repr(disk)


def test_odd_serials_are_decoded_safely() -> None:
    for serial, shown in [
        (b"", ""),
        (b"twenty bytes exactly", "twenty bytes exactly"),
        (b"\xff\x01A", "\\xff\x01A"),
    ]:
        with vioblk.open("mem:1M", serial=serial) as disk:
            assert disk.serial == shown


def test_a_device_without_a_serial_has_an_empty_one() -> None:
    with vioblk.open("mem:1M?serial=x") as disk:
        disk.device.transport.device.inject("status", value=1)  # type: ignore[attr-defined]
        with pytest.raises(vioblk.RequestFailedError, match="get-id"):
            _ = disk.serial
        disk.device.transport.device.inject("status", value=2)  # type: ignore[attr-defined]
        assert disk.serial == ""


def test_a_failed_open_says_why_even_if_the_device_does_not_let_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from vioblk.transport.software import SoftwareTransport

    # The first reset is confirmed, and no other.
    writes: list[int] = []
    write_status, read_status = SoftwareTransport.write_status, SoftwareTransport.read_status

    def note(self: SoftwareTransport, value: int) -> None:
        writes.append(value)
        write_status(self, value)

    def stick(self: SoftwareTransport) -> int:
        return 0x40 if writes.count(0) > 1 else read_status(self)

    monkeypatch.setattr(SoftwareTransport, "write_status", note)
    monkeypatch.setattr(SoftwareTransport, "read_status", stick)
    with pytest.raises(vioblk.NegotiationError, match="zoned") as raised:
        vioblk.open("mem:1M", zoned=True, timeout_s=0.2)
    assert writes.count(0) == 2
    assert any("did not confirm its reset" in note for note in raised.value.__notes__)
