"""Addresses of devices: `scheme:target?option=value&option=value`.

    mem:64M                                      a disk in memory, in this process
    file:disk.img?queues=2&cache=volatile        the same on a file or block device
    vhost-user:/run/disk.sock?event_idx=off      a back end behind a socket
    qemu:disk.img?machine=q35                    a PCI device of QEMU

The target ends at the first `?`. A path may contain anything: write `%3F` for a question mark in
it and `%25` for a percent sign that would read as one of these two; nothing else is decoded there.
Option values are percent-decoded as in a URL.

Options are those of the transport, those of the block driver, and the names of features: `on`
makes a feature a condition, `off` does without it, `auto` leaves it to the negotiation. The same
options can be given to `open()` as keywords, which win over those of the address. A name that is
both a feature and an option (`seg_max`) takes on, off and auto for the feature.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Final
from urllib.parse import unquote

from vioblk.errors import AddressError
from vioblk.features import feature_bits
from vioblk.pci.location import Location

SIZE_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
"""Powers of 1024."""

SIZE_BYTES_MAX: Final = 1 << 62

_SIZE: Final = re.compile(r"(?P<number>[0-9]{1,20})(?:(?P<unit>[KMGT])i?)?B?", re.IGNORECASE)


@dataclass(frozen=True)
class Address:
    """An address, taken apart but not judged."""

    text: str
    """As the user gave it."""
    scheme: str
    target: str
    """Decoded."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Decoded."""


@dataclass(frozen=True)
class Option:
    """An option of a transport or a driver: how its value is read, and what it is for."""

    read: Callable[[object], object]
    """Text from an address, or a keyword's value, to the value used. Raises ValueError saying
    what is valid."""
    meaning: str
    """For help texts."""


@dataclass(frozen=True)
class SortedOptions:
    """Options, read and given to whom they are for."""

    transport: dict[str, object]
    driver: dict[str, object]
    force_on: frozenset[int]
    force_off: frozenset[int]


def parse_address(text: str) -> Address:
    """Take an address apart. Raises AddressError; the scheme is not looked up here."""
    if not isinstance(text, str):
        raise AddressError(f"an address is text, such as mem:64M, and not {text!r}")
    scheme, colon, rest = text.partition(":")
    if not colon or not scheme or "/" in scheme:
        raise AddressError(
            f"{text!r} has no scheme: an address looks like mem:64M, file:disk.img, "
            "qemu:disk.img or vhost-user:/path/of.sock"
        )
    target, question_mark, query = rest.partition("?")
    if not target:
        raise AddressError(f"{text!r} names nothing after {scheme}:")
    options = _parse_query(text, query) if question_mark else {}
    return Address(text, scheme, _decode_target(target), options)


def parse_size(text: str) -> int:
    """Bytes from `4096`, `64K`, `64M`, `1G` or `2T` (powers of 1024; `B` and `iB` may follow).

    Raises AddressError.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise AddressError(f"{text!r} is not a size; write bytes, or a number with K, M, G or T")
    size_bytes = int(match["number"]) * SIZE_UNITS[(match["unit"] or "").upper()]
    if size_bytes > SIZE_BYTES_MAX:
        raise AddressError(f"{text!r} is more than 2^62 bytes")
    return size_bytes


def sort_options(
    address: Address,
    keywords: Mapping[str, object],
    *,
    transport_options: Mapping[str, Option],
    driver_options: Mapping[str, Option],
    device_type: int,
) -> SortedOptions:
    """Read every option of an address and of the keywords beside it, which win.

    Raises AddressError for an option that nobody knows, naming those that look like it, for a
    value that cannot be read, and for two names of one feature that contradict each other.
    """
    features = feature_bits(device_type)
    sorted_options = SortedOptions({}, {}, frozenset(), frozenset())
    switches = _switches(address, address.options, features)
    switches |= _switches(address, keywords, features)
    for name, value in {**address.options, **keywords}.items():
        if name in features and _switch(value) is not None:
            continue
        if name in transport_options:
            sorted_options.transport[name] = _read(address, name, value, transport_options)
        elif name in driver_options:
            sorted_options.driver[name] = _read(address, name, value, driver_options)
        elif name in features:
            raise AddressError(f"{address.text}: {name} is on, off or auto, not {value!r}")
        else:
            known = {**transport_options, **driver_options, **features}
            raise AddressError(f"{address.text}: {_unknown_option(name, address.scheme, known)}")
    return SortedOptions(
        sorted_options.transport,
        sorted_options.driver,
        force_on=frozenset(bit for bit, switch in switches.items() if switch == "on"),
        force_off=frozenset(bit for bit, switch in switches.items() if switch == "off"),
    )


def unknown_scheme(address: Address, schemes: Mapping[str, object]) -> AddressError:
    """What to raise for an address of no known scheme."""
    hint = _hint(address.scheme, schemes)
    if _is_pci_place(address.text):
        hint = "it is a place on a PCI bus, and vioblk list says how the device there is opened"
    return AddressError(f"{address.text}: there is no scheme {address.scheme!r}; {hint}")


def _is_pci_place(text: str) -> bool:
    try:
        Location.parse(text.removeprefix("pci:"))
    except ValueError:
        return False
    return True


def flag(meaning: str) -> Option:
    """An option that is on or off."""

    def read(value: object) -> bool:
        switch = _switch(value)
        if switch not in ("on", "off"):
            raise ValueError("on or off")
        return switch == "on"

    return Option(read, meaning)


def integer(minimum: int, maximum: int, meaning: str, *, power_of_two: bool = False) -> Option:
    """A whole number within bounds."""

    def read(value: object) -> int:
        number = _number(value)
        if number is None or not minimum <= number <= maximum:
            raise ValueError(f"a number from {minimum} to {maximum}")
        if power_of_two and number & (number - 1):
            raise ValueError(f"a power of two from {minimum} to {maximum}")
        return number

    return Option(read, meaning)


def seconds(meaning: str) -> Option:
    """A time, more than nothing, in seconds."""

    def read(value: object) -> float:
        number = _real(value)
        if number is None or not 0 < number < 1e9:
            raise ValueError("a number of seconds above 0")
        return number

    return Option(read, meaning)


def choice(names: tuple[str, ...], meaning: str) -> Option:
    """One of a few words."""

    def read(value: object) -> str:
        if value not in names:
            raise ValueError("one of " + ", ".join(names))
        return str(value)

    return Option(read, meaning)


def text(meaning: str, *, length_bytes_max: int) -> Option:
    """A short text, or bytes from a keyword."""

    def read(value: object) -> bytes:
        if isinstance(value, str):
            value = value.encode(errors="surrogateescape")
        if not isinstance(value, bytes) or len(value) > length_bytes_max:
            raise ValueError(f"at most {length_bytes_max} bytes of text")
        return value

    return Option(read, meaning)


def feature_list(meaning: str, device_type: int) -> Option:
    """Names or numbers of feature bits with commas between them, or an iterable of numbers."""
    names = feature_bits(device_type)

    def read_one(name: str) -> int:
        if name in names:
            return names[name]
        if name.isdecimal() and int(name) < 64:
            return int(name)
        raise ValueError(f"names of features or bit numbers below 64; {_hint(name, names)}")

    def read(value: object) -> frozenset[int]:
        if isinstance(value, str):
            return frozenset(read_one(name) for name in value.split(","))
        if isinstance(value, (set, frozenset, list, tuple)) and all(
            isinstance(bit, int) for bit in value
        ):
            return frozenset(read_one(str(int(bit))) for bit in value)
        raise ValueError("names of features with commas between them, or a list of bit numbers")

    return Option(read, meaning)


def _parse_query(address: str, query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for part in query.split("&"):
        name, equals, value = part.partition("=")
        if not equals or not name:
            raise AddressError(f"{address!r}: {part!r} is no option; write name=value")
        if name in options:
            raise AddressError(f"{address!r}: option {name} is given twice")
        options[name] = unquote(value, errors="surrogateescape")
    return options


def _decode_target(target: str) -> str:
    return target.replace("%3F", "?").replace("%3f", "?").replace("%25", "%")


def _read(address: Address, name: str, value: object, table: Mapping[str, Option]) -> object:
    try:
        return table[name].read(value)
    except ValueError as error:
        raise AddressError(f"{address.text}: {name}={value} is not valid; {error}") from None


def _switches(
    address: Address, options: Mapping[str, object], features: Mapping[str, int]
) -> dict[int, str]:
    """What the options say of features, by bit; a feature may have two names."""
    found: dict[int, tuple[str, str]] = {}
    for name, value in options.items():
        switch = _switch(value)
        if name not in features or switch is None:
            continue
        first, said = found.setdefault(features[name], (name, switch))
        if said != switch:
            raise AddressError(
                f"{address.text}: {first} is {said} and {name} is {switch}, and they are two names "
                "of one feature; give one of them"
            )
    return {bit: switch for bit, (_, switch) in found.items()}


def _switch(value: object) -> str | None:
    """on, off or auto; None for anything else."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return value if isinstance(value, str) and value in ("on", "off", "auto") else None


def _number(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, str):
        return None
    try:
        return parse_size(value)
    except AddressError:
        return None


def _real(value: object) -> float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    try:
        return float(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _unknown_option(name: str, scheme: str, known: Mapping[str, object]) -> str:
    similar = _similar(name, known)
    guess = f"; did you mean {' or '.join(similar)}?" if similar else ";"
    return f"there is no option {name!r} for {scheme}:{guess} help(vioblk.open) names all"


def _hint(name: str, known: Mapping[str, object]) -> str:
    similar = _similar(name, known)
    if similar:
        return "did you mean " + " or ".join(similar) + "?"
    return "there are " + ", ".join(sorted(known))


def _similar(name: str, known: Mapping[str, object]) -> list[str]:
    """At most three: those spelt alike, then those that have a word of it (queues, queue_count)."""
    similar = get_close_matches(name, known, n=3)
    words = [word.rstrip("s") for word in name.split("_")]
    for other in known:
        if other not in similar and any(len(word) > 3 and word in other for word in words):
            similar.append(other)
    return similar[:3]
