"""What a callback for configuration changes may do with its disk."""

import threading
from collections.abc import Callable

import pytest

import vioblk
from tests.conftest import RingName
from vioblk.block.disk import BlockDevice

TIMEOUT_S = 30.0


def call_in_callback(ring: RingName, call: Callable[[BlockDevice], object]) -> object:
    """What `call` returns, or raises, in a callback of a disk that is open."""
    done = threading.Event()
    results: list[object] = []
    disks: list[BlockDevice] = []

    def callback(config: vioblk.BlockConfig) -> None:
        try:
            results.append(call(disks[0]))
        except vioblk.VioblkError as error:
            results.append(error)
        done.set()

    with vioblk.open("mem:1M", ring=ring, on_config_change=callback) as disk:
        disks.append(disk)
        disk.device.transport.device.resize(4096)  # type: ignore[attr-defined]
        assert done.wait(TIMEOUT_S)
    return results[0]


def test_it_may_read_and_write(ring: RingName) -> None:
    last_sector = 4095 * 512
    assert call_in_callback(ring, lambda disk: disk.write(last_sector, bytes(512))) == 512
    assert call_in_callback(ring, lambda disk: disk.read(last_sector, 512)) == bytes(512)


NOT_ALLOWED: dict[str, Callable[[BlockDevice], object]] = {
    "close": lambda disk: disk.close(),
    "reset": lambda disk: disk.reset(),
    "reset_queue": lambda disk: disk.reset_queue(0),
    "set_polling": lambda disk: disk.set_polling(0, True),
}


@pytest.mark.parametrize("name", NOT_ALLOWED)
def test_it_cannot_close_or_reset(ring: RingName, name: str) -> None:
    refusal = call_in_callback(ring, NOT_ALLOWED[name])
    assert isinstance(refusal, vioblk.StateError)
    assert f"{name}() cannot be called from a callback" in str(refusal)


def test_closing_waits_for_a_callback_that_waits_for_the_close(ring: RingName) -> None:
    """The callback is told that it cannot, so neither waits for ever."""
    entered, closing = threading.Event(), threading.Event()
    refusals: list[vioblk.StateError] = []

    def callback(config: vioblk.BlockConfig) -> None:
        entered.set()
        assert closing.wait(TIMEOUT_S)
        with pytest.raises(vioblk.StateError) as refusal:
            disk.close()
        refusals.append(refusal.value)

    disk = vioblk.open("mem:1M", ring=ring, on_config_change=callback)
    disk.device.transport.device.resize(4096)  # type: ignore[attr-defined]
    assert entered.wait(TIMEOUT_S)
    closer = threading.Thread(target=disk.close)
    closer.start()
    closing.set()
    closer.join(TIMEOUT_S)
    assert not closer.is_alive()
    assert len(refusals) == 1
