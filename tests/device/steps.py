"""What the tests of a device's life have in common."""

from collections.abc import Callable

from tests.support.scripted import Access, Script
from vioblk.device import ConfigField
from vioblk.features import Feature

ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK = 1, 2, 4, 8
NEEDS_RESET, FAILED = 64, 128
LIVE_STATUS = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK
MODERN = frozenset({int(Feature.VERSION_1)})
FIELD = ConfigField("capacity", 0, 4, writable=True)


def fail(error: Exception) -> Callable[..., None]:
    """A step or a hook that raises."""

    def step(*_: object) -> None:
        raise error

    return step


def steps_of(script: Script) -> list[Access]:
    """The log without the reads that only look."""
    return [each for each in script.log if each.what not in ("read_status", "map_memory")]
