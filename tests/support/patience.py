"""Short time-outs for just as long as something does not happen, so that what does may take its
time."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from vioblk.block.disk import BlockDevice
from vioblk.transport.qemu import QemuPlatform
from vioblk.transport.qemu.qmp import Qmp
from vioblk.transport.qemu.qtest import Qtest, bound_calls

AMPLE_S: Final = 30.0
"""For what happens at once on a machine that has nothing else to do."""


@contextmanager
def hasty(disk: BlockDevice, timeout_s: float) -> Iterator[None]:
    """Until the end of the block, the disk waits so long for a request and no longer. It stays so
    where the block fails, and is closed without a long wait."""

    def wait_for(timeout_s: float) -> None:
        disk._timeout_s = disk._transfers.timeout_s = timeout_s

    former = disk.timeout_s
    wait_for(timeout_s)
    yield
    wait_for(former)


@contextmanager
def answers_within(timeout_s: float, *ends: Qtest | Qmp) -> Iterator[None]:
    """Until the end of the block, who asks QEMU something waits so long and no longer."""

    def bound(end: Qtest | Qmp, timeout_s: float) -> None:
        end._timeout_s = timeout_s
        receive_timeout_s = timeout_s if isinstance(end, Qtest) else 0
        bound_calls(end._socket, send_timeout_s=timeout_s, receive_timeout_s=receive_timeout_s)

    former = [end._timeout_s for end in ends]
    for end in ends:
        bound(end, timeout_s)
    try:
        yield
    finally:
        for end, before in zip(ends, former, strict=True):
            with suppress(OSError):  # it may have been given up, and be closed at any moment
                bound(end, before)


@contextmanager
def standing_still(platform: QemuPlatform, reply_timeout_s: float) -> Iterator[None]:
    """Until the end of the block, QEMU stands still, and who asks it something gives up soon."""
    machine = platform.machine
    platform.pause()
    try:
        with answers_within(reply_timeout_s, machine.qtest, machine.monitor):
            yield
    finally:
        platform.resume()
