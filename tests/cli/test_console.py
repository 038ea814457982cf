"""What the commands print where there is no terminal."""

import pytest
from rich.table import Table
from rich.text import Text

from vioblk.cli.console import show


def test_a_line_of_any_length_stays_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """An address can be as long as a path, and is what somebody copies."""
    address = "qemu:" + "/directory" * 400
    table = Table("place", "open with", box=None)
    table.add_row("0000:00:05.0", address)
    show(Text(f"open with = {address}"), table)
    line, heading, row = capsys.readouterr().out.splitlines()
    assert line == f"open with = {address}"
    assert heading.split() == ["place", "open", "with"]
    assert row.split() == ["0000:00:05.0", address]
