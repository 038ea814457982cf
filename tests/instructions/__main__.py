"""Prints how many instructions each way to do a request takes, and where."""

import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.instructions.bounds import BOUNDS
from tests.instructions.callgrind import CallgrindError, count

PLACE_COUNT: Final = 8
"""That are shown of each piece of work."""


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="vioblk-callgrind-") as directory:
        counts = count(Path(directory))
        for bound in BOUNDS:
            print(f"\n{bound.name}: {bound.measure(counts):.0f} for a request ({bound.what})")
            print(f"  {bound.allocate(counts):.0f} calls of malloc and its like by the extension")
            for part in bound.parts:
                print(f"  {counts[part].instructions:.0f} in {part}, most of them in")
                for place, instructions in counts[part].places()[:PLACE_COUNT]:
                    print(f"    {instructions:8} {place}")


if __name__ == "__main__":
    try:
        main()
    except CallgrindError as error:
        sys.exit(f"instructions: {error}")
