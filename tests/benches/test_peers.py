"""What the comparison with other clients stands on: parsers, children, checks of the data."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

import vioblk
from benches import growth, memory
from benches.measure import Plan, Rounds, measure
from benches.peers import children, daemon, ours, processors
from benches.peers.bounds import FileReads
from benches.peers.cases import (
    CASES,
    Claim,
    LeftOut,
    Sides,
    result,
    without_those_that_fail,
)
from benches.peers.fio import Fio, parse_seconds

IMAGE_BYTES = 4 << 20

FIO_OUTPUT = """fio: this platform does not support process shared mutexes
{
  "fio version" : "fio-3.33",
  "jobs" : [
    {
      "jobname" : "reads",
      "error" : 0,
      "read" : {
        "io_bytes" : 409600,
        "runtime" : 250,
        "total_ios" : 100,
        "short_ios" : 0
      }
    }
  ]
}
"""

CARGO_OUTPUT = """\
{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"blkio"},"executable":null}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"blkio_peer"},"executable":"/t/release/blkio_peer"}
{"reason":"build-finished","success":true}
"""

SMAPS_ROLLUP = """\
5591d7e41000-7ffd2c1f5000 ---p 00000000 00:00 0                          [rollup]
Rss:                1720 kB
Pss:                 363 kB
Pss_Dirty:           108 kB
"""

CLAIMED = {
    "null_d32_event_vs_blkio",
    "null_d32_poll_vs_blkio",
    "null_d32_event_vs_libnbd",
    "null_d32_poll_vs_libnbd",
    "raw_d32_vs_blkio",
    "raw_d32_vs_libnbd",
    "mib_d4_vs_blkio",
    "mib_d4_vs_libnbd",
    "d1_vs_libnbd",
    "d1_vs_blkio",
    "mem_d64_vs_memcpy",
}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    daemon.write_pattern(path, IMAGE_BYTES)
    return path


def test_there_is_a_case_for_every_claim_and_no_claim_is_made_twice() -> None:
    claims = [claim.name for case in CASES.values() for claim in case.claims]
    assert sorted(claims) == sorted(CLAIMED)


def made_up(sides: Sides) -> Rounds:
    return measure(sides.sides, Plan(pairs=2, side_s=1e-6, repeats=0))


def seconds(count: int) -> float:
    return 1e-6 * count


class MadeUp:
    """A peer that takes a microsecond for each request; or fails at one of its steps."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails

    def _step(self, name: str) -> None:
        if self.fails == name:
            raise children.PeerFailed(f"it cannot {name}")

    def __enter__(self) -> "MadeUp":
        self._step("start")
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def verify(self, count: int) -> None:
        self._step("verify")

    def work(self, count: int) -> float:
        self._step("work")
        return seconds(count)


@pytest.mark.parametrize("fails", ["start", "verify", "work"])
def test_a_peer_that_fails_costs_its_own_ratios_and_no_others(
    fails: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(without: Mapping[str, str]) -> Rounds:
        with ExitStack() as stack:
            sides = Sides(stack, without)
            sides.add("ours", seconds)
            sides.add_peer("good", MadeUp)
            sides.add_peer("bad", lambda: MadeUp(fails))
            sides.verify(1)
            return made_up(sides)

    rounds, without = without_those_that_fail(run)
    assert without == {"bad": f"bad: it cannot {fails}"}
    assert result(Claim("ours_vs_bad", "ours", "bad", 1.0), rounds, without) == {
        "name": "ours_vs_bad",
        "missing": f"bad: it cannot {fails}",
    }
    found = result(Claim("ours_vs_good", "ours", "good", 1.0), rounds, without)
    assert found["ratio"]["median"] == pytest.approx(1)
    assert "[ours_vs_bad] MISSING: bad: it cannot" in capsys.readouterr().out


def test_a_side_of_ours_that_fails_is_no_measurement() -> None:
    def run(without: Mapping[str, str]) -> Rounds:
        with ExitStack() as stack:
            sides = Sides(stack, without)
            sides.add("ours", MadeUp("work").work, MadeUp("verify"))
            sides.verify(1)
            return made_up(sides)

    with pytest.raises(LeftOut, match="ours: it cannot verify"):
        without_those_that_fail(run)


def test_a_program_that_is_not_there_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with ExitStack() as stack:
        sides = Sides(stack, {})
        with pytest.raises(LeftOut, match="fio is not installed: make bench-tools"):
            sides.add_fio("fio", Fio(Path("/run/d"), 4096, 32))
        with pytest.raises(LeftOut, match=r"gone: .*No such file"):
            sides.add_peer("gone", lambda: children.Child(["/nonexistent/peer"]))


def test_the_seconds_of_fio_are_those_of_its_reads() -> None:
    assert parse_seconds(FIO_OUTPUT, 100) == 0.25


@pytest.mark.parametrize(
    ("was", "becomes"), [('"error" : 0', '"error" : 5'), ('_ios" : 100', '_ios" : 99')]
)
def test_an_error_of_fio_is_no_measurement(was: str, becomes: str) -> None:
    with pytest.raises(children.PeerFailed, match="blocks, error"):
        parse_seconds(FIO_OUTPUT.replace(was, becomes), 100)


def test_fio_reads_as_many_blocks_as_are_asked_for_whatever_the_size_of_the_disk() -> None:
    command = Fio(Path("/run/d"), 4096, 32).command(7)
    assert "--number_ios=7" in command
    assert f"--io_size={7 * 4096}" in command
    assert "--uri=nbd+unix:///disk?socket=/run/d/nbd.sock" in command


def test_programs_are_found_in_the_messages_of_cargo() -> None:
    assert children.parse_programs(CARGO_OUTPUT) == {"blkio_peer": Path("/t/release/blkio_peer")}


def python(program: str) -> children.Child:
    return children.Child([sys.executable, "-c", program])


def test_a_child_is_asked_line_by_line() -> None:
    program = "print('ready', flush=True)\nfor _ in range(2): print(len(input()), flush=True)"
    with python(program) as child:
        assert child.work(12) == len("run 12")
        with pytest.raises(children.PeerFailed, match="said '9' and not 'verified'"):
            child.verify(12)


@pytest.mark.parametrize(
    ("program", "match"), [("", "has ended"), ("print('hello')", "said 'hello' and not 'ready'")]
)
def test_a_child_that_does_not_get_ready_is_told(program: str, match: str) -> None:
    with pytest.raises(children.PeerFailed, match=match):
        python(program)


def test_a_child_that_ends_before_it_answers_is_told() -> None:
    with python("print('ready', flush=True)\ninput()") as child:
        with pytest.raises(children.PeerFailed, match="has ended"):
            child.work(1)


@pytest.mark.parametrize(
    "make",
    [
        lambda disk: ours.Slots(disk, 4096, 32),
        lambda disk: ours.OneByOne(disk, 4096),
    ],
    ids=["slots", "one_by_one"],
)
def test_what_is_read_is_compared_with_the_pattern(
    image: Path, make: Callable[[vioblk.BlockDevice], ours.Slots | ours.OneByOne]
) -> None:
    with closing(make(ours.open_direct(f"file:{image}", 32))) as reads:
        reads.verify(64)
        wrong = reads.offsets[5]
        reads.disk.write(wrong + 512, bytes(512))
        with pytest.raises(ours.WrongData, match=f"at {wrong} "):
            reads.verify(64)


@pytest.mark.parametrize(("depth", "block"), [(32, 4096), (4, 1 << 20)])
def test_as_many_requests_are_in_flight_as_the_case_says(
    image: Path, depth: int, block: int
) -> None:
    with closing(ours.Slots(ours.open_direct(f"file:{image}", depth), block, depth)) as slots:
        assert slots.pool.way == "direct"
        assert slots.pool.count == depth
        assert slots.work(1000) > 0
        assert slots.pool.in_flight == 0
        slots.verify(4)


def test_one_node_is_served_to_several_clients_and_by_nbd(tmp_path: Path, image: Path) -> None:
    directory = tmp_path / "daemon"
    with daemon.serve(directory, daemon.raw_disk(image, clients=2)):
        assert (directory / daemon.NBD_SOCKET).is_socket()
        for number in range(2):
            address = f"vhost-user:{daemon.socket(directory, number)}"
            with closing(ours.Slots(ours.open_direct(address, 32), 4096, 32)) as slots:
                slots.verify(64)
                assert slots.polling(number == 1)(1000) > 0
                assert slots.disk.info.queues[0].polling is (number == 1)


def test_reads_of_the_file_itself_are_compared_with_the_pattern(image: Path) -> None:
    with image.open("r+b") as file:
        file.truncate(daemon.DISK_BYTES)
    with closing(FileReads(image, 4096)) as reads:
        with pytest.raises(ours.WrongData, match="holds something else"):
            reads.verify(1000)  # most of them lie behind the pattern


def test_threads_that_are_started_while_this_one_is_bound_are_bound_as_well() -> None:
    allowed = os.sched_getaffinity(0)
    one = {min(allowed)}
    with processors.bound_to(one):
        before = processors.threads()
        disk = ours.open_direct("mem:1M", 32)
        started = processors.threads() - before
        assert started
        assert all(os.sched_getaffinity(thread) == one for thread in started)
        disk.close()
    assert os.sched_getaffinity(0) == allowed


def test_the_resident_size_is_in_proportion_to_who_shares_it() -> None:
    assert memory.resident_bytes(SMAPS_ROLLUP) == 363 * 1024


@pytest.mark.parametrize("scheme", ["mem", "mem-used", "request"])
def test_what_is_held_is_given_back(scheme: str, capsys: pytest.CaptureFixture[str]) -> None:
    memory.child(scheme, 2, ["mem:1M", "mem:1M"])
    assert int(capsys.readouterr().out) > 0


@pytest.mark.parametrize("name", ["depth", "queues", "regions"])
def test_growth_is_measured_at_every_size_and_judged(name: str, tmp_path: Path) -> None:
    [series] = [each for each in growth.SERIES if each.name == name]
    result = growth.run(series, tmp_path, Plan(pairs=2, side_s=1e-4, repeats=0, quick=True))
    assert len(result["s_per_request"]) >= 4
    assert result["most_by_least"] >= 1
    assert result["flat"] is (result["most_by_least"] <= growth.FLAT)
    assert ("not flat" in growth.text(result)) is not result["flat"]
    json.dumps(result)
