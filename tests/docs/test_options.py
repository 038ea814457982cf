"""The pages list every option, in the words of the option itself."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from vioblk.address import Option
from vioblk.block import options as driver
from vioblk.transport import qemu, software, vhost_user

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize(
    ("page", "options"),
    [
        ("testing-a-device.md", software.OPTIONS),
        ("first-disk.md", driver.OPTIONS),
        ("vhost-user.md", vhost_user.OPTIONS),
        ("qemu.md", qemu.OPTIONS),
    ],
)
def test_a_page_lists_the_options(page: str, options: Mapping[str, Option]) -> None:
    table = "| option | meaning; what holds if it is not given |\n|---|---|\n" + "".join(
        f"| `{name}` | {option.meaning} |\n" for name, option in options.items()
    )
    text = (DOCS / page).read_text(encoding="utf-8")
    assert table + "\n" in text + "\n", f"{page} should have this table:\n{table}"
