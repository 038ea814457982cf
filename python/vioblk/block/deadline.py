"""One bound for a call that waits several times."""

import math
import time


class Deadline:
    """`timeout_s` seconds from now."""

    __slots__ = ("_until", "timeout_s")

    def __init__(self, timeout_s: float) -> None:
        if not timeout_s > 0:
            raise ValueError(f"timeout_s must be more than 0, not {timeout_s}; it bounds waits")
        self.timeout_s = timeout_s
        self._until = time.monotonic() + timeout_s

    def remaining_s(self) -> float:
        """What is left of it, never negative."""
        return max(0.0, self._until - time.monotonic())


def checked_timeout(timeout_s: float) -> float:
    """`timeout_s`. Raises ValueError if it is negative or NaN."""
    if math.isnan(timeout_s):
        raise ValueError("timeout_s is not a number (NaN); give seconds, or leave it out")
    if timeout_s < 0:
        raise ValueError(f"timeout_s is {timeout_s}; give 0 or more seconds, or leave it out")
    return timeout_s


def queue_timeout(timeout_s: float) -> float | None:
    """The same for a queue, where infinity is written None."""
    return None if checked_timeout(timeout_s) == math.inf else timeout_s
