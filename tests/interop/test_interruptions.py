"""Ctrl-C while the daemon is asked something: the question is lost, the disk is not."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import vioblk
from tests.interop.images import blank_image
from tests.interop.storage_daemon import StorageDaemon, raw_export
from vioblk.block.config import WRITEBACK

INTERVAL_S = 0.0013
INTERRUPTION_COUNT = 200


class Interruptions:
    """KeyboardInterrupt in the main thread, every INTERVAL_S, wherever it is just then."""

    def __init__(self) -> None:
        self.count = 0
        self.wanted = False

    def __call__(self, *_: object) -> None:
        if self.wanted:
            self.wanted = False
            self.count += 1
            raise KeyboardInterrupt


@contextmanager
def interruptions() -> Iterator[Interruptions]:
    handler = Interruptions()
    former = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, INTERVAL_S, INTERVAL_S)
    try:
        yield handler
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


def test_interrupted_questions_do_not_cost_the_disk(tmp_path: Path) -> None:
    image = blank_image(tmp_path / "disk.raw", 1 << 20)
    with (
        StorageDaemon(tmp_path, [raw_export("disk", image)]) as daemon,
        vioblk.open(daemon.address("disk")) as disk,
    ):
        transport = disk.device.transport
        with interruptions() as interruption:
            while interruption.count < INTERRUPTION_COUNT:
                with suppress(KeyboardInterrupt):
                    interruption.wanted = True
                    while True:
                        before = transport.read_config(WRITEBACK.offset, 1)
                        transport.write_config(WRITEBACK.offset, bytes([not before[0]]))
        for writeback in (False, True):
            disk.writeback = writeback
            assert disk.writeback is writeback
        assert disk.write(0, b"x" * 512) == 512
        disk.flush()
        disk.reset()
        assert disk.read(0, 512) == b"x" * 512
