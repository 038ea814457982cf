"""Whether something is still held that should have been given back."""

import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

THREAD_END_TIMEOUT_S = 1.0
SETTLE_INTERVAL_S = 0.005


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


@contextmanager
def no_leaks(*, collect: bool = True) -> Iterator[None]:
    """Fails if more is held at the end than at the start."""
    before = _settled()
    yield
    after = holdings(collect=collect)
    # A thread may take a moment to leave the kernel, or to end and close what it watched.
    deadline = time.monotonic() + THREAD_END_TIMEOUT_S
    while (
        any(now > then for now, then in zip(after, before, strict=True))
        and time.monotonic() < deadline
    ):
        after = holdings(collect=False)
    # One that was on its way out at the start is no loss.
    counted = after._replace(threads=max(after.threads, before.threads))
    assert counted == before, f"before {before}, after {after}, threads {threading.enumerate()}"
