"""The clause map: which test proves which normative statement of VIRTIO 1.4.

A test names what it proves::

    @clause("SPLIT-AVAIL-01")
    def test_publish_writes_the_ring_entry_before_the_index() -> None: ...

`make test` records the results, `make clauses` reads the record (see docs/clauses.md).
"""

import pytest

from tests.clauses.table import clause_table

MAX_CLAUSES_PER_TEST = 4
"""A test that claims more proves none of them well."""


def clause(*ids: str) -> pytest.MarkDecorator:
    """Mark a test as the proof of one to four clauses.

    Raises ValueError, at import, for an id that is not in the table.
    """
    if not 1 <= len(ids) <= MAX_CLAUSES_PER_TEST:
        raise ValueError(f"a test names 1 to {MAX_CLAUSES_PER_TEST} clauses, not {len(ids)}: {ids}")
    _check(ids)
    return pytest.mark.clause(*ids)


def vacuous(*ids: str) -> pytest.MarkDecorator:
    """Mark a test as the proof that clauses have nothing to act on.

    The test shows that the driver never accepts the feature, or never does the thing, that all
    of `ids` are about. Such rows are counted apart. Raises ValueError as `clause` does.
    """
    if not ids:
        raise ValueError("vacuous() needs at least one clause id")
    _check(ids)
    return pytest.mark.vacuous(*ids)


def _check(ids: tuple[str, ...]) -> None:
    known = clause_table()
    unknown = [clause_id for clause_id in ids if clause_id not in known]
    if unknown:
        raise ValueError(f"no such clause in driver_clauses.tsv: {', '.join(unknown)}")
    if len(set(ids)) != len(ids):
        raise ValueError(f"a clause is named twice: {', '.join(ids)}")
