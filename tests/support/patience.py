"""Short time-outs for just as long as something does not happen, so that what does may take its
time."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from vioblk.block.disk import BlockDevice
from vioblk.transport.qemu import QemuPlatform
from vioblk.transport.qemu.qtest import bound_calls

AMPLE_S: Final = 30.0
"""For what happens at once on a machine that has nothing else to do."""


@contextmanager
def hasty(disk: BlockDevice, timeout_s: float) -> Iterator[None]:
    """Until the end of the block, the disk waits so long for a request and no longer."""

    def wait_for(timeout_s: float) -> None:
        disk._timeout_s = disk._transfers.timeout_s = timeout_s

    former = disk.timeout_s
    wait_for(timeout_s)
    try:
        yield
    finally:
        wait_for(former)


@contextmanager
def standing_still(platform: QemuPlatform, reply_timeout_s: float) -> Iterator[None]:
    """Until the end of the block, QEMU stands still, and who asks it something gives up soon."""
    qtest, monitor = platform.machine.qtest, platform.machine.monitor

    def bound(timeout_s: float) -> None:
        qtest._timeout_s = monitor._timeout_s = timeout_s
        bound_calls(qtest._socket, send_timeout_s=timeout_s, receive_timeout_s=timeout_s)

    former = qtest._timeout_s
    platform.pause()
    bound(reply_timeout_s)
    try:
        yield
    finally:
        bound(former)
        platform.resume()
