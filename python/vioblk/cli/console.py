"""The standard streams. A shell can have closed them (`>&-`), and Python has None then."""

import sys
from typing import BinaryIO

from rich.console import Console, RenderableType

from vioblk.errors import VioblkError

WIDTH_ELSEWHERE = 1 << 16
"""Columns where there is no terminal: nothing is wrapped that somebody might search for."""


class StreamClosedError(VioblkError, OSError):
    """There is nowhere to read from or to write to."""


def show(*renderables: RenderableType) -> None:
    """Print tables and lines on standard output: as wide as the terminal, if it is one."""
    standard_output()
    if sys.stdout.isatty():
        console = Console(highlight=False)
        for renderable in renderables:
            console.print(renderable)
        return
    console = Console(highlight=False, width=WIDTH_ELSEWHERE)
    with console.capture() as captured:
        for renderable in renderables:
            console.print(renderable)
    # Tables pad their last column, which whoever compares or searches does not want.
    for line in captured.get().splitlines():
        print(line.rstrip())


def standard_output() -> BinaryIO:
    """Standard output for bytes. Raises StreamClosedError."""
    if sys.stdout is None:
        raise StreamClosedError("standard output is closed")
    return sys.stdout.buffer


def standard_input() -> int:
    """The descriptor of standard input. Raises StreamClosedError."""
    if sys.stdin is None:
        raise StreamClosedError("standard input is closed")
    return sys.stdin.fileno()
