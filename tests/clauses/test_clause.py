import pytest

from tests.clauses import clause, vacuous
from tests.clauses.table import clause_table


def test_the_table_has_all_rows() -> None:
    scopes = [row.scope for row in clause_table().values()]
    assert scopes.count("core") == 201
    assert scopes.count("optional") == 115


def test_an_unknown_id_is_refused_at_import() -> None:
    with pytest.raises(ValueError, match="NO-SUCH-99"):
        clause("NO-SUCH-99")
    with pytest.raises(ValueError, match="NO-SUCH-99"):
        vacuous("NO-SUCH-99")


def test_a_fifth_clause_is_refused() -> None:
    ids = list(clause_table())[:5]
    with pytest.raises(ValueError, match="1 to 4"):
        clause(*ids)


def test_vacuous_rows_have_no_limit() -> None:
    ids = list(clause_table())[:30]
    assert vacuous(*ids).args == tuple(ids)


def test_an_id_named_twice_is_refused() -> None:
    ids = list(clause_table())[:1]
    with pytest.raises(ValueError, match="twice"):
        clause(*ids, *ids)
