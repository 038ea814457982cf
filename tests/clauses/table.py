"""The table of normative statements about drivers, driver_clauses.tsv."""

import csv
from functools import cache
from pathlib import Path
from typing import NamedTuple

TABLE_PATH = Path(__file__).with_name("driver_clauses.tsv")


class Clause(NamedTuple):
    """One row: a statement of VIRTIO that a driver has to, or may, follow."""

    id: str
    level: str
    """MUST, MUST NOT, SHOULD, SHOULD NOT or MAY."""
    spec_version: str
    section_label: str
    area: str
    scope: str
    """`core` or `optional`."""
    statement: str


@cache
def clause_table() -> dict[str, Clause]:
    """All clauses by id, in the order of the file."""
    with TABLE_PATH.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        header = next(rows)
        if tuple(header) != Clause._fields:
            raise ValueError(f"{TABLE_PATH}: columns are {header}, not {list(Clause._fields)}")
        return {row[0]: Clause(*row) for row in rows}
