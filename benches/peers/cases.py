"""What is measured beside what, and how far ahead it is to be.

Every case serves one node by one daemon to all its sides, and measures them in turns. Before that,
each side reads a raw file of a known pattern, by the same calls, and has to find it there.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import vioblk
from benches.measure import Comparison, Plan, Side, measure
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


class Sides(NamedTuple):
    """What a case measures, and what can be verified of it."""

    sides: list[Side]
    verifiable: list[Verifiable]


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
    open_sides: Callable[[Path, Path, Shape, ExitStack], Sides]
    """Given the daemon's directory and the image; the stack closes what it opens."""
    clients: int
    """Of vhost-user."""
    claims: Sequence[Claim]

    def run(self, directory: Path, plan: Plan) -> list[Comparison]:
        """Verify, then measure."""
        image = directory / "disk.raw"
        if not self.raw:
            with self._served(directory / f"{self.name}-pattern", image, raw=True) as found:
                self._verify(found)
        with self._served(directory / self.name, image, raw=self.raw) as found:
            if self.raw:
                self._verify(found)
            rounds = measure(found.sides, plan)
        return [rounds.compare(*claim) for claim in self.claims]

    def _verify(self, found: Sides) -> None:
        for each in found.verifiable:
            each.verify(self.shape.verified)

    @contextmanager
    def _served(self, directory: Path, image: Path, *, raw: bool) -> Iterator[Sides]:
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
            yield self.open_sides(directory, image, self.shape, stack)


def _slots(directory: Path, number: int, shape: Shape, stack: ExitStack) -> ours.Slots:
    disk = ours.open_direct(f"vhost-user:{daemon.socket(directory, number)}", shape.depth)
    return stack.enter_context(closing(ours.Slots(disk, shape.block, shape.depth)))


def _null_sides(directory: Path, image: Path, shape: Shape, stack: ExitStack) -> Sides:
    block, depth = shape.block, shape.depth
    slots = _slots(directory, 0, shape, stack)
    event, poll = (
        stack.enter_context(
            children.blkio(
                daemon.socket(directory, 1 + poll), block=block, depth=depth, poll=bool(poll)
            )
        )
        for poll in (0, 1)
    )
    libnbd = stack.enter_context(children.libnbd(directory, block, depth, "async"))
    fio = Fio(directory, block, depth)
    return Sides(
        [
            Side("blkio, event", event.work),
            Side("vioblk, event", slots.polling(False)),
            Side("libnbd, asynchronous", libnbd.work),
            Side("vioblk, poll", slots.polling(True)),
            Side("blkio, poll", poll.work),
            Side("fio, NBD", fio.work, granule=FIO_GRANULE),
        ],
        [slots, event, poll, libnbd],
    )


def _raw_sides(directory: Path, image: Path, shape: Shape, stack: ExitStack) -> Sides:
    block, depth = shape.block, shape.depth
    slots = _slots(directory, 0, shape, stack)
    blkio = stack.enter_context(
        children.blkio(daemon.socket(directory, 1), block=block, depth=depth)
    )
    libnbd = stack.enter_context(children.libnbd(directory, block, depth, "async"))
    sides = [
        Side("blkio, event", blkio.work),
        Side("vioblk, event", slots.work),
        Side("libnbd, asynchronous", libnbd.work),
    ]
    verifiable: list[Verifiable] = [slots, blkio, libnbd]
    if depth > FEW:
        file = stack.enter_context(closing(FileReads(image, block)))
        sides.append(Side("preadv, no daemon", file.work))
        verifiable.append(file)
    return Sides(sides, verifiable)


def _single_sides(directory: Path, image: Path, shape: Shape, stack: ExitStack) -> Sides:
    disk = vioblk.open(f"vhost-user:{daemon.socket(directory, 0)}", queue_count=1)
    reads = stack.enter_context(closing(ours.OneByOne(disk, shape.block)))
    blkio = stack.enter_context(
        children.blkio(daemon.socket(directory, 1), block=shape.block, depth=1)
    )
    libnbd = stack.enter_context(children.libnbd(directory, shape.block, 1, "sync"))
    return Sides(
        [
            Side("blkio, event", blkio.work),
            Side("vioblk, readinto", reads.work),
            Side("libnbd, synchronous", libnbd.work),
        ],
        [reads, blkio, libnbd],
    )


@dataclass(frozen=True)
class MemoryCase:
    """The software device on memory, beside copies of the same blocks by one processor."""

    name: str
    about: str
    shape: Shape
    claims: Sequence[Claim]

    def run(self, directory: Path, plan: Plan) -> list[Comparison]:
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
        return [rounds.compare(*claim) for claim in self.claims]


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
