"""What is read out of callgrind's files."""

from pathlib import Path

import pytest

from tests.instructions.bounds import Bound
from tests.instructions.callgrind import CallgrindError, Count, read
from tests.instructions.workload import BETWEEN, NOTHING

DUMP = """\
ob=/lib/_native.abi3.so
fl=/src/vioblk/rust/vring/src/split.rs
fn=push
10 7
fi=/rustc/0123/library/core/src/slice/mod.rs
500 5
fe=/src/vioblk/rust/shm/src/copy.rs
11 3
cob=/lib/libc.so.6
cfi=???
cfn={called}
calls={calls} 0
11 1000

ob=/usr/lib/libpython3.11.so.1.0
fl=/build/Objects/longobject.c
fn=PyLong_Add
4 20
cob=/lib/libc.so.6
cfn=malloc
calls=9 0
5 90

totals: {total}
"""


def write(directory: Path, dumps: list[str]) -> Path:
    files = directory / "out"
    for number, dump in enumerate(dumps, start=1):
        files.with_name(f"out.{number}").write_text(dump)
    return files


def dump(total: int, called: str = "malloc", calls: int = 2) -> str:
    return DUMP.format(total=total, called=called, calls=calls)


def test_counts_are_medians_without_what_a_mark_costs(tmp_path: Path) -> None:
    totals = [9999, 100, 1350, 9999, 100, 8350, 9999, 100, 1360]
    files = write(tmp_path, [dump(total) for total in totals])
    counts = read(files, [BETWEEN, NOTHING, "work"] * 3)
    assert list(counts) == ["work"]
    assert counts["work"].instructions == 1360 - 100
    assert counts["work"].dump == tmp_path / "out.9"


def test_allocations_are_those_of_the_extension(tmp_path: Path) -> None:
    work = [dump(1, "realloc", 3), dump(1, "free", 3)]
    files = write(tmp_path, [dump(1), dump(1), *work])
    counts = read(files, [BETWEEN, NOTHING, "some", "none"])
    assert counts["some"].allocations == 3
    assert counts["none"].allocations == 0


def test_instructions_are_those_of_the_place_where_they_were_executed(tmp_path: Path) -> None:
    files = write(tmp_path, [dump(1)] * 3)
    places = read(files, [BETWEEN, NOTHING, "work"])["work"].places()
    assert places == [
        ("the interpreter", 20),
        ("rust/vring/src/split.rs", 12),
        ("rust/shm/src/copy.rs", 3),
    ]


def test_a_blind_callgrind_is_an_error_and_no_small_count(tmp_path: Path) -> None:
    files = write(tmp_path, [dump(1, "free")] * 3)
    with pytest.raises(CallgrindError, match="getppid was not seen"):
        read(files, [BETWEEN, NOTHING, "work", "work"])
    with pytest.raises(CallgrindError, match="malloc was not seen"):
        read(files, [BETWEEN, NOTHING, "work"])
    files.with_name("out.2").write_text("")
    with pytest.raises(CallgrindError, match="has no totals"):
        read(files, [BETWEEN, NOTHING, "work"])


def test_the_share_of_the_device_is_taken_off() -> None:
    bound = Bound("x", "x", ("a", "b"), "device", 10, counted=0, most=0, allocations=0)
    counts = {
        name: Count(instructions, 2, Path())
        for name, instructions in (("a", 700), ("b", 500), ("device", 200))
    }
    assert bound.measure(counts) == 100
    assert bound.allocate(counts) == 4
