"""The fenced blocks of a page, and the commands of a console block."""

import re
from pathlib import Path
from typing import Final, NamedTuple

_FENCE: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """One fenced block."""

    language: str
    text: str
    line: int
    """Of its first line in the page, from 1."""


class Command(NamedTuple):
    """One `$ command` of a console block and what the page says it prints."""

    command: str
    output: str
    """Empty: the page does not say. `...` stands for anything."""


def blocks(page: Path) -> list[Block]:
    """All fenced blocks, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(match[1], match[2], text.count("\n", 0, match.start(2)) + 1)
        for match in _FENCE.finditer(text)
    ]


def commands(text: str) -> list[Command]:
    """The commands of a console block; a trailing backslash continues a command."""
    found: list[Command] = []
    continues = False
    for line in text.splitlines():
        if continues or line.startswith("$ "):
            part = line if continues else line.removeprefix("$ ")
            if continues:
                found[-1] = Command(found[-1].command + "\n" + part, "")
            else:
                found.append(Command(part, ""))
            continues = line.endswith("\\")
        elif found:
            found[-1] = found[-1]._replace(output=found[-1].output + line + "\n")
        else:
            raise ValueError(f"a console block starts with `$ `, not with {line!r}")
    return found


def output_pattern(expected: str) -> re.Pattern[str]:
    """What an output has to match: the same words, with `...` for anything."""
    parts = (r"\s+".join(map(re.escape, part.split())) for part in expected.split("..."))
    return re.compile(r"\s*" + r"\s*.*\s*".join(parts) + r"\s*", re.DOTALL)
