"""Errors on demand: rules for QEMU's blkdebug driver, which stands between a disk and its file."""

import errno as errno_codes
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

REQUESTS: Final = ("read", "write", "flush", "discard", "write-zeroes")


@dataclass(frozen=True)
class ErrorRule:
    """Requests of one kind that fail."""

    request: str
    """One of REQUESTS."""
    errno: int = errno_codes.EIO
    sector: int | None = None
    """Only requests that touch this sector; None: all."""
    once: bool = False
    """Only the first of them."""

    def __post_init__(self) -> None:
        if self.request not in REQUESTS:
            raise ValueError(f"one of {', '.join(REQUESTS)}, not {self.request!r}")
        if self.errno not in errno_codes.errorcode:
            raise ValueError(
                f"errno is the number of an error, such as errno.ENOSPC, and not {self.errno!r}"
            )

    def as_blkdebug(self) -> dict[str, object]:
        """As the block driver takes it."""
        rule: dict[str, object] = {
            "event": "none",
            "iotype": self.request,
            "errno": self.errno,
            "once": self.once,
        }
        if self.sector is not None:
            rule["sector"] = self.sector
        return rule


def parse_rules(value: object) -> tuple[ErrorRule, ...]:
    """Rules as the option `inject` has them: `read:sector=7,write:errno=ENOSPC:once`.

    Raises ValueError saying what is valid.
    """
    if isinstance(value, ErrorRule):
        return (value,)
    if isinstance(value, (list, tuple)) and all(isinstance(each, ErrorRule) for each in value):
        return tuple(value)
    if not isinstance(value, str):
        raise ValueError("rules such as read:sector=7:errno=EIO:once, with commas between them")
    return tuple(_parse_rule(text) for text in value.split(","))


def _parse_rule(text: str) -> ErrorRule:
    request, *words = text.split(":")
    given = dict(_parse_word(word) for word in words)
    if len(given) != len(words):
        raise ValueError(f"{text!r} says one thing twice")
    return ErrorRule(
        request,
        errno=given.get("errno", errno_codes.EIO),
        sector=given.get("sector"),
        once="once" in given,
    )


def _parse_word(word: str) -> tuple[str, int]:
    name, _, value = word.partition("=")
    if word == "once":
        return name, 1
    if name == "sector" and value.isdecimal():
        return name, int(value)
    if name == "errno" and (value.isdecimal() or value in _ERRNO):
        return name, _ERRNO.get(value) or int(value)
    raise ValueError(f"{word!r} is none of sector=NUMBER, errno=NAME and once")


_ERRNO: Final[Mapping[str, int]] = {name: number for number, name in errno_codes.errorcode.items()}
