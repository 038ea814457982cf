"""`python -m tests.clauses start | finish | report`: what the Makefile calls."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.clauses.coverage import coverage, missing_lines, proof_lines, summary
from tests.clauses.record import (
    RECORD_DIRECTORY,
    RecordError,
    finish_record,
    load_record,
    start_record,
    tree_identity,
)
from tests.clauses.table import clause_table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; the exit status."""
    options = _parser().parse_args(arguments)
    try:
        identity = options.identity or tree_identity()
        if options.command == "start":
            start_record(options.directory, identity)
        elif options.command == "finish":
            finish_record(options.directory, identity)
        else:
            _report(options.directory, identity, options.proofs, options.incomplete)
    except RecordError as error:
        print(f"clauses: {error}", file=sys.stderr)
        return 1
    return 0


def _report(directory: Path, identity: str, proofs: bool, incomplete: bool) -> None:
    table = clause_table()
    found = coverage(load_record(directory, identity, allow_incomplete=incomplete), table)
    lines = proof_lines(found, table) if proofs else missing_lines(found, table)
    print("\n".join(lines))
    # The plain line is what others quote, so a record that may lack results does not end with it.
    print(("not a whole run: " if incomplete else "") + summary(found, table))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.clauses", description=__doc__)
    parser.add_argument("command", choices=["start", "finish", "report"])
    parser.add_argument("--directory", type=Path, default=RECORD_DIRECTORY)
    parser.add_argument("--identity", help="of the tree, instead of asking git")
    parser.add_argument("--proofs", action="store_true", help="list what proves each clause")
    parser.add_argument(
        "--incomplete", action="store_true", help="report a record that did not finish all the same"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
