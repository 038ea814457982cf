from pathlib import Path

import pytest

from tests.docs.blocks import Block, Command, blocks, commands, output_pattern

PAGE = """\
# Title

```python
x = 1
```
Words.

```console
$ echo a
a
```
"""


def test_blocks_know_their_language_and_line(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert blocks(page) == [Block("python", "x = 1\n", 4), Block("console", "$ echo a\na\n", 9)]


def test_a_console_block_is_commands_with_their_output() -> None:
    assert commands("$ one \\\n  more\n$ two\nout\nput\n") == [
        Command("one \\\n  more", ""),
        Command("two", "out\nput\n"),
    ]


def test_output_before_the_first_command_is_refused() -> None:
    with pytest.raises(ValueError, match="starts with"):
        commands("output\n")


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("a  b\nc", "a b c\n", True),
        ("a b", "a c", False),
        ("a ... c", "a\nb\nc", True),
        ("a ...", "b c", False),
        ("1.5 (...)", "1.5 (2)", True),
        ("1.5", "125", False),
    ],
)
def test_an_output_matches_word_by_word(expected: str, printed: str, same: bool) -> None:
    assert (output_pattern(expected).fullmatch(printed) is not None) == same
