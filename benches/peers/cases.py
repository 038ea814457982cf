"""What is measured beside what, and how far ahead it is to be.

Every case serves one node by one daemon to all its sides, and measures them in turns. Before that,
each side reads a raw file of a known pattern, by the same calls, and has to find it there. A peer
that fails is left out, and the case is measured again without it.
"""

import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import vioblk
from benches.measure import Plan, Rounds, Side, Work, measure
from benches.peers import children, daemon, ours, processors
from benches.peers.bounds import FileReads
from benches.peers.fio import Fio

VERIFIED: Final = 1024
"""Blocks that each side reads of the pattern."""
VERIFIED_BYTES_MAX: Final = 64 << 20
MEMORY_BYTES: Final = 64 << 20
FEW: Final = 4
"""Requests in flight with which the file is not read without a daemon: their blocks are large."""
FIO_GRANULE: Final = 50_000
"""Reads of one process of fio: with fewer it mostly starts."""


class Verifiable(Protocol):
    """Reads blocks of the pattern, and raises if one is wrong."""

    def verify(self, count: int) -> None: ...


class Peer(Verifiable, Protocol):
    """Another client."""

    def work(self, count: int) -> float: ...


class LeftOut(Exception):
    """A peer that failed: its name, and what it failed of."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name}: {why}")
        self.name = name


@contextmanager
def of_peer(name: str) -> Iterator[None]:
    """Raises LeftOut for what goes wrong with a peer in the block."""
    try:
        yield
    except (children.PeerFailed, OSError, ValueError, subprocess.SubprocessError) as error:
        raise LeftOut(name, str(error)) from error


class Sides:
    """What a case measures, and what can be verified of it; without some peers."""

    def __init__(self, stack: ExitStack, without: Mapping[str, str]) -> None:
        """`stack` closes the peers."""
        self._stack = stack
        self._without = without
        self.sides: list[Side] = []
        self.verifiable: list[tuple[str, Verifiable]] = []

    def add(self, name: str, work: Work, verifiable: Verifiable | None = None) -> None:
        """One of our own sides."""
        self.sides.append(Side(name, work))
        if verifiable is not None:
            self.verifiable.append((name, verifiable))

    def add_peer(self, name: str, peer: Callable[[], AbstractContextManager[Peer]]) -> None:
        """Another client, to be started now, unless it is left out. Raises LeftOut."""
        if name in self._without:
            return
        with of_peer(name):
            found = self._stack.enter_context(peer())
        self.sides.append(Side(name, _work_of(name, found.work)))
        self.verifiable.append((name, found))

    def add_fio(self, name: str, fio: Fio) -> None:
        """fio, which reads what nobody can verify. Raises LeftOut."""
        if name in self._without:
            return
        with of_peer(name):
            fio.look()
        self.sides.append(Side(name, _work_of(name, fio.work), granule=FIO_GRANULE))

    def verify(self, count: int) -> None:
        """Raises LeftOut."""
        for name, each in self.verifiable:
            with of_peer(name):
                each.verify(count)


def _work_of(name: str, work: Work) -> Work:
    def named(count: int) -> float:
        with of_peer(name):
            return work(count)

    return named


def without_those_that_fail(
    run: Callable[[Mapping[str, str]], Rounds],
) -> tuple[Rounds, dict[str, str]]:
    """What `run` measured, and who was left out, with the reason. Raises LeftOut for a side that
    `run` does not leave out when it is told to."""
    without: dict[str, str] = {}
    while True:
        try:
            return run(without), without
        except LeftOut as error:
            if error.name in without:
                raise
            print(f"left out: {error}", flush=True)
            without[error.name] = str(error)


class Claim(NamedTuple):
    """How many times as fast as `baseline` `subject` is to be."""

    name: str
    subject: str
    baseline: str
    target: float


class Placement(Enum):
    """Of the client and the daemon; the same for all sides."""

    APART = "client and daemon bound to a processor each"
    TOGETHER = "client and daemon bound to one processor"
    FREE = "where the system puts them"


@dataclass(frozen=True)
class Shape:
    """Of the requests."""

    block: int
    depth: int

    @property
    def verified(self) -> int:
        return min(VERIFIED, VERIFIED_BYTES_MAX // self.block)


@dataclass(frozen=True)
class Case:
    """One daemon with one node, and the sides that read it."""

    name: str
    about: str
    shape: Shape
    raw: bool
    """A raw file; else a null node."""
    placement: Placement
    open_sides: Callable[[Path, Path, Shape, ExitStack, Mapping[str, str]], Sides]
    """Given the daemon's directory, the image, a stack that closes what it opens, and who is left
    out."""
    clients: int
    """Of vhost-user."""
    claims: Sequence[Claim]

    def run(self, directory: Path, plan: Plan) -> list[dict[str, Any]]:
        """Verify, then measure; a result for each claim."""
        rounds, without = without_those_that_fail(
            lambda without: self._measure(directory, plan, without)
        )
        return [result(claim, rounds, without) for claim in self.claims]

    def _measure(self, directory: Path, plan: Plan, without: Mapping[str, str]) -> Rounds:
        image, attempt = directory / "disk.raw", f"{self.name}-{len(without)}"
        if not self.raw:
            place = directory / f"{attempt}-pattern"
            with self._served(place, image, without, raw=True) as found:
                found.verify(self.shape.verified)
        with self._served(directory / attempt, image, without, raw=self.raw) as found:
            if self.raw:
                found.verify(self.shape.verified)
            return measure(found.sides, plan)

    @contextmanager
    def _served(
        self, directory: Path, image: Path, without: Mapping[str, str], *, raw: bool
    ) -> Iterator[Sides]:
        disk = daemon.raw_disk(image, self.clients) if raw else daemon.null_disk(self.clients)
        with ExitStack() as stack:
            here, there = processors.two()
            places = {
                Placement.APART: ({here}, {there}),
                Placement.TOGETHER: ({here}, {here}),
                Placement.FREE: ({here, there}, {here, there}),
            }
            client, server = places[self.placement]
            with processors.bound_to(server):
                stack.enter_context(daemon.serve(directory, disk))
            stack.enter_context(processors.bound_to(client))
            yield self.open_sides(directory, image, self.shape, stack, without)


def result(claim: Claim, rounds: Rounds, without: Mapping[str, str]) -> dict[str, Any]:
    """What was measured of a claim, printed and as the report has it; or why it was not."""
    reasons = [without[side] for side in (claim.subject, claim.baseline) if side in without]
    if reasons:
        print(f"[{claim.name}] MISSING: {reasons[0]}", flush=True)
        return {"name": claim.name, "missing": reasons[0]}
    comparison = rounds.compare(*claim)
    print(comparison, flush=True)
    return comparison.as_json()


def _slots(directory: Path, number: int, shape: Shape, stack: ExitStack) -> ours.Slots:
    disk = ours.open_direct(f"vhost-user:{daemon.socket(directory, number)}", shape.depth)
    return stack.enter_context(closing(ours.Slots(disk, shape.block, shape.depth)))


def _blkio(directory: Path, number: int, shape: Shape, *, poll: bool = False) -> children.Child:
    socket = daemon.socket(directory, number)
    return children.blkio(socket, block=shape.block, depth=shape.depth, poll=poll)


def _libnbd(directory: Path, shape: Shape, method: str) -> children.Child:
    return children.libnbd(directory, shape.block, shape.depth, method)


def _null_sides(
    directory: Path, image: Path, shape: Shape, stack: ExitStack, without: Mapping[str, str]
) -> Sides:
    slots = _slots(directory, 0, shape, stack)
    found = Sides(stack, without)
    found.add_peer("blkio, event", lambda: _blkio(directory, 1, shape))
    found.add("vioblk, event", slots.polling(False), slots)
    found.add_peer("libnbd, asynchronous", lambda: _libnbd(directory, shape, "async"))
    found.add("vioblk, poll", slots.polling(True))
    found.add_peer("blkio, poll", lambda: _blkio(directory, 2, shape, poll=True))
    found.add_fio("fio, NBD", Fio(directory, shape.block, shape.depth))
    return found


def _raw_sides(
    directory: Path, image: Path, shape: Shape, stack: ExitStack, without: Mapping[str, str]
) -> Sides:
    slots = _slots(directory, 0, shape, stack)
    found = Sides(stack, without)
    found.add_peer("blkio, event", lambda: _blkio(directory, 1, shape))
    found.add("vioblk, event", slots.work, slots)
    found.add_peer("libnbd, asynchronous", lambda: _libnbd(directory, shape, "async"))
    if shape.depth > FEW:
        file = stack.enter_context(closing(FileReads(image, shape.block)))
        found.add("preadv, no daemon", file.work, file)
    return found


def _single_sides(
    directory: Path, image: Path, shape: Shape, stack: ExitStack, without: Mapping[str, str]
) -> Sides:
    disk = vioblk.open(f"vhost-user:{daemon.socket(directory, 0)}", queue_count=1)
    reads = stack.enter_context(closing(ours.OneByOne(disk, shape.block)))
    found = Sides(stack, without)
    found.add_peer("blkio, event", lambda: _blkio(directory, 1, shape))
    found.add("vioblk, readinto", reads.work, reads)
    found.add_peer("libnbd, synchronous", lambda: _libnbd(directory, shape, "sync"))
    return found


@dataclass(frozen=True)
class MemoryCase:
    """The software device on memory, beside copies of the same blocks by one processor."""

    name: str
    about: str
    shape: Shape
    claims: Sequence[Claim]

    def run(self, directory: Path, plan: Plan) -> list[dict[str, Any]]:
        """Verify, then measure. Client and device have a processor each."""
        del directory
        here, there = processors.two()
        block, depth = self.shape.block, self.shape.depth
        with ExitStack() as stack:
            stack.enter_context(processors.bound_to({here}))
            disk = ours.open_memory(MEMORY_BYTES, depth, there)
            slots = stack.enter_context(closing(ours.Slots(disk, block, depth)))
            disk.write(0, daemon.pattern(0, MEMORY_BYTES))
            slots.verify(self.shape.verified)
            memcpy = stack.enter_context(children.memcpy(block, MEMORY_BYTES, depth))
            rounds = measure(
                [
                    Side("vioblk, event", slots.polling(False)),
                    Side("memcpy, one processor", memcpy.work),
                    Side("vioblk, poll", slots.polling(True)),
                ],
                plan,
            )
        return [result(claim, rounds, {}) for claim in self.claims]


ALL: Final[Sequence[Case | MemoryCase]] = (
    Case(
        "null_d32",
        "4 KiB reads of a null node, 32 in flight",
        Shape(4096, 32),
        raw=False,
        placement=Placement.APART,
        open_sides=_null_sides,
        clients=3,
        claims=(
            Claim("null_d32_event_vs_blkio", "vioblk, event", "blkio, event", 1.0),
            Claim("null_d32_poll_vs_blkio", "vioblk, poll", "blkio, poll", 1.0),
            Claim("null_d32_event_vs_libnbd", "vioblk, event", "libnbd, asynchronous", 8.0),
            Claim("null_d32_poll_vs_libnbd", "vioblk, poll", "libnbd, asynchronous", 25.0),
        ),
    ),
    Case(
        "raw_d32",
        "4 KiB reads of a raw file, 32 in flight",
        Shape(4096, 32),
        raw=True,
        placement=Placement.FREE,
        open_sides=_raw_sides,
        clients=2,
        claims=(
            Claim("raw_d32_vs_blkio", "vioblk, event", "blkio, event", 0.95),
            Claim("raw_d32_vs_libnbd", "vioblk, event", "libnbd, asynchronous", 1.5),
        ),
    ),
    Case(
        "mib_d4",
        "1 MiB reads of a raw file, 4 in flight",
        Shape(1 << 20, 4),
        raw=True,
        placement=Placement.FREE,
        open_sides=_raw_sides,
        clients=2,
        claims=(
            Claim("mib_d4_vs_blkio", "vioblk, event", "blkio, event", 0.95),
            Claim("mib_d4_vs_libnbd", "vioblk, event", "libnbd, asynchronous", 6.0),
        ),
    ),
    Case(
        "d1",
        "4 KiB reads of a null node, one at a time",
        Shape(4096, 1),
        raw=False,
        placement=Placement.TOGETHER,
        open_sides=_single_sides,
        clients=2,
        claims=(
            Claim("d1_vs_libnbd", "vioblk, readinto", "libnbd, synchronous", 2.0),
            Claim("d1_vs_blkio", "vioblk, readinto", "blkio, event", 0.8),
        ),
    ),
    MemoryCase(
        "mem_d64",
        "4 KiB reads of a software device on memory, 64 in flight",
        Shape(4096, 64),
        claims=(Claim("mem_d64_vs_memcpy", "vioblk, poll", "memcpy, one processor", 0.5),),
    ),
)

CASES: Final = {case.name: case for case in ALL}
"""By name, in the order in which they run."""
