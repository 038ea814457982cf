"""The commands under one name, and how their errors end."""

import os
import re
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Final

import typer

from vioblk.__main__ import INTERRUPTED
from vioblk.cli.copy import copy
from vioblk.cli.demo import demo
from vioblk.cli.info import info
from vioblk.cli.list import list_devices
from vioblk.cli.transfer import discard, read, write, zero

TRACEBACK_VARIABLE: Final = "VIOBLK_TRACEBACK"

_NEGATIVE_NUMBER: Final = re.compile(r"-[0-9]")
"""What looks like an option, as far as it is recognised."""

app = typer.Typer(
    name="vioblk",
    help="Raw block I/O on virtio block devices, without a kernel in the way.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (demo, info, read, write, copy, zero, discard):
    app.command()(command)
app.command("list")(list_devices)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"vioblk {version('vioblk')}")
        raise typer.Exit


@app.callback(help=app.info.help)
def common(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", callback=_show_version, is_eager=True
        ),
    ] = False,
) -> None:
    """What stands before a command."""


def run(arguments: Sequence[str]) -> int:
    """Run one command; the exit status. An error is one line on stderr, and status 1."""
    try:
        # None, or the status of a command that ended early.
        status = app(list(arguments) or ["--help"], prog_name="vioblk", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left. Python would flush once more, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        # Without a standard error, print would take standard output.
        if sys.stderr is not None:
            print(f"vioblk: {_one_line(error)}", file=sys.stderr)
        return 1
    return int(status or 0)


def _one_line(error: Exception) -> str:
    if isinstance(error, typer.TyperException):
        text = error.format_message()
        if _NEGATIVE_NUMBER.match(getattr(error, "option_name", "")):
            text += "; an offset or a length cannot be negative"
    elif isinstance(error, OSError) and error.strerror:
        # Without the "[Errno 5]" in front.
        text = (f"{error.filename}: " if error.filename else "") + error.strerror
    else:
        text = str(error)
    if isinstance(error, (LookupError, TypeError, AttributeError, AssertionError)) or not text:
        text = f"{type(error).__name__}: {text} ({TRACEBACK_VARIABLE}=1 shows where)"
    # Notes say which device it was, or what became of the rest.
    return " ".join("; ".join([text, *getattr(error, "__notes__", ())]).split())
