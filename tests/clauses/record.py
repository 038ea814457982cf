"""The record of one `make test`: which commit it ran, whether it finished, and every result.

A directory with `run.json`, written here, and one `*.jsonl` file per test runner, a test a line.
"""

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
RECORD_DIRECTORY = ROOT / "build" / "clauses"
RUN_FILE = "run.json"


class RecordError(Exception):
    """The record cannot be used; the message says why and what to do."""


class Result(NamedTuple):
    """One test as one runner ran it."""

    test: str
    """For pytest with the parameters in brackets."""
    outcome: str
    """`passed`, `failed` or `skipped`."""
    clauses: tuple[str, ...]
    vacuous: tuple[str, ...]


def tree_identity(root: Path = ROOT) -> str:
    """The commit, and a digest of what differs from it, new files that are not ignored included."""

    def git(*command: str) -> bytes:
        # Whoever runs the tests may not own the tree (root in a clone made by somebody else).
        trusting = ["git", "-C", str(root), "-c", f"safe.directory={root}"]
        return subprocess.run([*trusting, *command], check=True, capture_output=True).stdout

    try:
        commit = git("rev-parse", "HEAD").decode().strip()
        difference = git("diff", "--binary", "HEAD")
        new_files = git("ls-files", "--others", "--exclude-standard", "-z")
    except (OSError, subprocess.CalledProcessError) as error:
        raise RecordError(f"cannot tell the commit of {root}: {error}") from error
    if not difference and not new_files:
        return commit
    digest = hashlib.sha256(difference)
    for name in filter(None, new_files.split(b"\0")):
        digest.update(b"\0" + name + b"\0" + _content_hash(root / os.fsdecode(name)))
    return f"{commit} with changes {digest.hexdigest()[:12]}"


def _content_hash(path: Path) -> bytes:
    """Of a new file, which may be gone again by now."""
    try:
        content = os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes()
    except OSError as error:
        content = str(error.errno).encode()
    return hashlib.sha256(content).digest()


def start_record(directory: Path, identity: str) -> None:
    """Throw the last record away and start one."""
    directory.mkdir(parents=True, exist_ok=True)
    for old in [*directory.glob("*.jsonl"), directory / RUN_FILE]:
        old.unlink(missing_ok=True)
    _write_run(directory, identity, finished=False)


def finish_record(directory: Path, identity: str) -> None:
    """Call the record complete: every step of `make test` ran, and none failed."""
    started_as = _read_run(directory)["commit"]
    if started_as != identity:
        raise RecordError(
            f"the tree changed while the tests ran: it was {started_as}, it is {identity}; "
            "the record does not count"
        )
    _write_run(directory, identity, finished=True)


def load_record(directory: Path, identity: str, *, allow_incomplete: bool = False) -> list[Result]:
    """All results of the record.

    Raises RecordError if there is none, if it is of another tree than `identity`, or if
    `make test` failed or did not finish (unless `allow_incomplete`).
    """
    run = _read_run(directory)
    if run["commit"] != identity:
        raise RecordError(
            f"the record is of {run['commit']}, but the tree is at {identity}; run `make test`"
        )
    if not run["finished"] and not allow_incomplete:
        raise RecordError(
            f"the record of {identity} is incomplete: `make test` failed, was stopped or is still "
            "running"
        )
    return [
        _parse(line, path)
        for path in sorted(directory.glob("*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]


def _parse(line: str, path: Path) -> Result:
    try:
        fields = json.loads(line)
        return Result(
            test=fields["test"],
            outcome=fields["outcome"],
            clauses=tuple(fields["clauses"]),
            vacuous=tuple(fields["vacuous"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{path}: not a line of a record: {line!r}") from error


def _write_run(directory: Path, identity: str, *, finished: bool) -> None:
    run = {"commit": identity, "finished": finished}
    (directory / RUN_FILE).write_text(json.dumps(run) + "\n", encoding="utf-8")


def _read_run(directory: Path) -> dict[str, object]:
    try:
        run = json.loads((directory / RUN_FILE).read_text(encoding="utf-8"))
        return {"commit": run["commit"], "finished": run["finished"]}
    except FileNotFoundError as error:
        raise RecordError(f"there is no record in {directory}; run `make test`") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{directory / RUN_FILE} is damaged; run `make test`") from error
