"""Arguments that several commands share."""

from typing import Annotated, TypeAlias

import typer

from vioblk.address import parse_size
from vioblk.errors import AddressError


def size(text: str) -> int:
    """`parse_size`, whose error is shown as it is."""
    try:
        return parse_size(text)
    except AddressError as error:
        raise typer.BadParameter(str(error)) from error


Address: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="ADDRESS",
        help="The disk: mem:64M, file:PATH, vhost-user:PATH or qemu:PATH, with options after `?` "
        "as in mem:64M?event_idx=off.",
        show_default=False,
    ),
]

Offset: TypeAlias = Annotated[
    int,
    typer.Argument(
        metavar="OFFSET",
        parser=size,
        help="Where to start, in bytes: 0, 4096, 4K, 1M, 2G.",
        show_default=False,
    ),
]

Length: TypeAlias = Annotated[
    int,
    typer.Argument(
        metavar="LENGTH",
        parser=size,
        help="How many bytes: 512, 4K, 1M, 2G.",
        show_default=False,
    ),
]
