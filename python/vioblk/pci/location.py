"""Where a function is: domain, bus, device, function."""

import re
from typing import NamedTuple, Self

_TEXT = re.compile(
    r"(?:(?P<domain>[0-9a-f]{1,8}):)?(?P<bus>[0-9a-f]{1,2}):(?P<device>[0-9a-f]{1,2})"
    r"\.(?P<function>[0-7])",
    re.IGNORECASE | re.ASCII,
)


class Location(NamedTuple):
    """A place on a PCI bus. `str()` gives it as the kernel does: `0000:00:05.0`."""

    bus: int
    device: int
    function: int = 0
    domain: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """`0000:00:05.0`, or `00:05.0` in domain 0, in hexadecimal. Raises ValueError."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is no PCI location; it looks like 0000:00:05.0")
        place = cls(
            bus=int(match["bus"], 16),
            device=int(match["device"], 16),
            function=int(match["function"]),
            domain=int(match["domain"] or "0", 16),
        )
        place.check()
        return place

    def check(self) -> None:
        """Raises ValueError if a number is out of range."""
        for name, value, end in (
            ("domain", self.domain, 1 << 32),
            ("bus", self.bus, 256),
            ("device", self.device, 32),
            ("function", self.function, 8),
        ):
            if not 0 <= value < end:
                raise ValueError(f"a PCI {name} is 0 to {end - 1:#x}, not {value:#x}")

    def __str__(self) -> str:
        return f"{self.domain:04x}:{self.bus:02x}:{self.device:02x}.{self.function}"
