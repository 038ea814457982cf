"""Running the command as a user does, in a process of its own."""

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

VIOBLK = [sys.executable, "-m", "vioblk"]

HEED_CTRL_C = ["env", "--default-signal=INT"]
"""In front: whoever runs the tests in the background of a script has SIGINT ignored."""


class Outcome(NamedTuple):
    """How a command ended."""

    status: int
    out: bytes
    err: str


def vioblk(*arguments: str | Path, stdin: bytes = b"") -> Outcome:
    """Run `vioblk` to its end."""
    done = subprocess.run(
        [*VIOBLK, *map(str, arguments)], input=stdin, capture_output=True, timeout=60
    )
    return Outcome(done.returncode, done.stdout, done.stderr.decode())


def succeeds(*arguments: str | Path, stdin: bytes = b"") -> bytes:
    """Run a command that must succeed and say nothing on stderr; its output."""
    outcome = vioblk(*arguments, stdin=stdin)
    assert (outcome.status, outcome.err) == (0, "")
    return outcome.out


def fails(*arguments: str | Path, stdin: bytes = b"") -> str:
    """Run a command that must fail as errors do here: status 1 and one line, which is returned."""
    outcome = vioblk(*arguments, stdin=stdin)
    assert outcome.status == 1, outcome
    assert outcome.err.count("\n") == 1, outcome.err
    assert outcome.err.startswith("vioblk: ")
    return outcome.err
