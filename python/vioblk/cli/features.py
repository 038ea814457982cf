"""`--feature`: insist on features of a disk, or do without them, from the command line."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Final, TypeAlias

import typer

import vioblk
from vioblk.block.disk import BlockDevice
from vioblk.block.features import BLOCK_DEVICE_TYPE
from vioblk.features import feature_bits

SWITCHES: Final = ("on", "off", "auto")

Features: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--feature",
        metavar="NAME=on|off|auto",
        help="Insist on a feature, or do without it, as in packed=on; any number of times. It wins "
        "over the same in the address. `vioblk info` shows the names.",
        show_default=False,
    ),
]


def open_disk(address: str, features: Sequence[str] | None) -> BlockDevice:
    """Open the disk at `address` with what `--feature` said.

    Raises as `vioblk.open` does, typer.BadParameter.
    """
    return vioblk.open(address, **switches(features))


def switches(features: Sequence[str] | None) -> dict[str, Any]:
    """What `--feature` said, as keywords of `vioblk.open`. Raises typer.BadParameter."""
    chosen: dict[str, Any] = {}
    for text in features or ():
        name, _, switch = text.partition("=")
        if switch not in SWITCHES:
            raise _bad(f"{text!r} is not NAME=on, NAME=off or NAME=auto")
        if name not in feature_bits(BLOCK_DEVICE_TYPE):
            raise _bad(f"there is no feature {name!r}; {_known(name)}")
        if chosen.setdefault(name, switch) != switch:
            raise _bad(f"{name} is both {chosen[name]} and {switch}; give one of them")
    return chosen


def _bad(problem: str) -> typer.BadParameter:
    return typer.BadParameter(problem, param_hint="--feature")


def _known(name: str) -> str:
    names = feature_bits(BLOCK_DEVICE_TYPE)
    similar = get_close_matches(name, names, n=3)
    if similar:
        return f"did you mean {' or '.join(similar)}?"
    return "there are " + ", ".join(sorted(names))
