"""The work that is counted. Runs under callgrind, which writes down what it counted at each mark.

`python -m tests.instructions.workload` prints the names of its marks in their order, as JSON.

The disks have no thread: the device answers on the thread of the driver, so that nobody waits and
each run executes the same. The device's own share is counted too, to be taken off.
"""

import gc
import json
import os
from array import array
from collections.abc import Callable
from typing import Final, TypeAlias

from tests.support.turns import open_in_turns, software
from vioblk._native import Region
from vioblk.block.request import COMPLETION_RECORD, REQUEST_RECORD, SECTOR_BYTES, RequestType
from vioblk.transport.software import SoftwareTransport

BATCH: Final = 64

COUNTED_ROUNDS: Final = 3
WARM_ROUNDS: Final = 20
"""Before the rounds that are counted: the interpreter adapts code that runs often, and the rings
come round."""

NOTHING: Final = "nothing"
"""A mark right behind another: what marks cost."""

BETWEEN: Final = "between"
"""What was executed since the last mark is no part of any case."""

Mark: TypeAlias = Callable[[str], None]

marks: Final[list[str]] = []


def mark(name: str) -> None:
    """What was executed since the last mark is `name`."""
    marks.append(name)
    os.getppid()  # the function before which callgrind writes its counts down: see `counts`


def nothing(mark: Mark) -> None:
    """What comes off every count."""
    mark(BETWEEN)
    mark(NOTHING)


def rounds(case: Callable[[Mark], None]) -> None:
    """Run a case until it is warm, then a few times with marks."""
    for _ in range(WARM_ROUNDS):
        case(lambda name: None)
    for _ in range(COUNTED_ROUNDS):
        case(mark)


def reads(region: Region, count: int) -> bytes:
    """Records of reads of a sector each, into `region`."""
    return b"".join(
        REQUEST_RECORD.pack(
            RequestType.IN, 0, 7 * n, n * SECTOR_BYTES, SECTOR_BYTES, region.handle, n
        )
        for n in range(count)
    )


def submit_and_reap(name: str, count: int, *, packed: bool = False) -> None:
    """Batches of `count` by `submit_many` and `reap_many`."""
    with open_in_turns(packed=packed, transport_class=SoftwareTransport) as disk:
        device = software(disk)
        region = disk.alloc(count * SECTOR_BYTES)
        records = reads(region, count)
        out = bytearray(COMPLETION_RECORD.size * count)

        def case(mark: Mark) -> None:
            mark(BETWEEN)
            submitted = disk.submit_many(records)
            mark(f"{name}: submit")
            device.serve()
            mark(f"{name}: device")
            reaped = disk.reap_many(out)
            mark(f"{name}: reap")
            assert submitted == reaped == count

        rounds(case)


def slots(name: str, *, packed: bool = False) -> None:
    """Batches by a slot pool."""
    with (
        open_in_turns(packed=packed, transport_class=SoftwareTransport) as disk,
        disk.slot_pool(BATCH, SECTOR_BYTES) as pool,
    ):
        device = software(disk)
        numbers = array("I", range(BATCH))
        offsets = array("Q", range(0, BATCH * SECTOR_BYTES, SECTOR_BYTES))
        back, statuses = array("I", bytes(4 * BATCH)), bytearray(BATCH)

        def case(mark: Mark) -> None:
            mark(BETWEEN)
            submitted = pool.submit(numbers, offsets)
            mark(f"{name}: submit")
            device.serve()
            mark(f"{name}: device")
            reaped = pool.reap(back, statuses)
            mark(f"{name}: reap")
            assert submitted == reaped == BATCH

        rounds(case)
        assert not any(statuses)


def whole_call(name: str, call: Callable[[], object]) -> None:
    """A call that the device answers while it lasts."""

    def case(mark: Mark) -> None:
        mark(BETWEEN)
        call()
        mark(name)

    rounds(case)


def whole_calls() -> None:
    """One `execute` of a batch; and one request at a time."""
    with open_in_turns() as disk:
        region = disk.alloc(BATCH * SECTOR_BYTES)
        records, statuses = reads(region, BATCH), bytearray(BATCH)
        whole_call("execute", lambda: disk.execute(records, statuses))
        assert not any(statuses)
        with memoryview(region)[:SECTOR_BYTES] as view:
            whole_call("readinto", lambda: disk.readinto(SECTOR_BYTES, view))
            whole_call("write", lambda: disk.write(SECTOR_BYTES, view))
            whole_call("read", lambda: disk.read(SECTOR_BYTES, SECTOR_BYTES))
        counters = software(disk).counters()
        each = WARM_ROUNDS + COUNTED_ROUNDS
        assert counters["reads"] == each * (BATCH + 2)
        assert counters["writes"] == each


def main() -> None:
    """Everything, in one process: what takes longest is its start."""
    gc.disable()
    rounds(nothing)
    submit_and_reap("general", BATCH)
    submit_and_reap("packed", BATCH, packed=True)
    slots("slots")
    slots("packed slots", packed=True)
    submit_and_reap("single", 1)
    whole_calls()
    print(json.dumps(marks))


if __name__ == "__main__":
    main()
