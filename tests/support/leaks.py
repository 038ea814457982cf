"""Whether something is still held that should have been given back."""

import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

THREAD_END_TIMEOUT_S = 1.0


class Holdings(NamedTuple):
    """What this process holds of the system."""

    threads: int
    descriptors: int
    mappings: int
    """Of memory files, which is what devices can reach."""


def holdings(*, collect: bool = True) -> Holdings:
    """As of now; without `collect`, garbage that waits for the collector counts too."""
    if collect:
        gc.collect()
    maps = Path("/proc/self/maps").read_text()
    return Holdings(
        threads=len(list(Path("/proc/self/task").iterdir())),
        descriptors=len(list(Path("/proc/self/fd").iterdir())),
        mappings=sum("memfd:" in line for line in maps.splitlines()),
    )


@contextmanager
def no_leaks(*, collect: bool = True) -> Iterator[None]:
    """Fails if more is held at the end than at the start."""
    before = holdings()
    yield
    after = holdings(collect=collect)
    # One that has been joined may take a moment to leave the kernel.
    deadline = time.monotonic() + THREAD_END_TIMEOUT_S
    while after.threads > before.threads and time.monotonic() < deadline:
        after = holdings(collect=False)
    assert after == before, f"before {before}, after {after}, threads {threading.enumerate()}"
