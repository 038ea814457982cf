"""Which processors a thread or a new process may use."""

import os
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path


class TooFewProcessors(RuntimeError):
    """Client and device cannot have one each."""


def two() -> tuple[int, int]:
    """One for the client and one for the device."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise TooFewProcessors("client and device need a processor each, and there is only one")
    return allowed[0], allowed[1]


@contextmanager
def bound_to(processors: Set[int]) -> Iterator[None]:
    """Bind this thread, and all that it starts meanwhile, for the time of the block."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def threads() -> Set[int]:
    """Of this process, by the number that `sched_setaffinity` takes."""
    return {int(each.name) for each in Path("/proc/self/task").iterdir()}
