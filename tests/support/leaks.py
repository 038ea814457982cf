"""Whether something is still held that should have been given back."""

import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

THREAD_END_TIMEOUT_S = 30.0
SETTLE_INTERVAL_S = 0.005


class Holdings(NamedTuple):
    """What this process holds of the system."""

    threads: frozenset[str]
    """By their IDs in the kernel: one that ends meanwhile does not make up for another."""
    descriptors: int
    mappings: int
    """Of memory files, which is what devices can reach."""


def holdings(*, collect: bool = True) -> Holdings:
    """As of now; without `collect`, garbage that waits for the collector counts too."""
    if collect:
        gc.collect()
    maps = Path("/proc/self/maps").read_text()
    return Holdings(
        threads=frozenset(task.name for task in Path("/proc/self/task").iterdir()),
        descriptors=len(list(Path("/proc/self/fd").iterdir())),
        mappings=sum("memfd:" in line for line in maps.splitlines()),
    )


def _settled() -> Holdings:
    """As of now, or once threads that have ended before are out of the kernel."""
    found = holdings()
    deadline = time.monotonic() + THREAD_END_TIMEOUT_S
    while time.monotonic() < deadline:
        time.sleep(SETTLE_INTERVAL_S)
        again = holdings(collect=False)
        if again.threads >= found.threads:
            break
        found = again
    return found


def _is_more(after: Holdings, before: Holdings) -> bool:
    return bool(
        after.threads - before.threads
        or after.descriptors > before.descriptors
        or after.mappings > before.mappings
    )


@contextmanager
def no_leaks(*, collect: bool = True) -> Iterator[None]:
    """Fails if more is held at the end than at the start, or other threads."""
    before = _settled()
    yield
    after = holdings(collect=collect)
    # A thread may take a moment to leave the kernel, or to end and close what it watched.
    deadline = time.monotonic() + THREAD_END_TIMEOUT_S
    while _is_more(after, before) and time.monotonic() < deadline:
        time.sleep(SETTLE_INTERVAL_S)
        after = holdings(collect=False)
    seen = f"before {before}, after {after}, threads {threading.enumerate()}"
    assert not _is_more(after, before), seen
