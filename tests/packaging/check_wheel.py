"""`python -m tests.packaging.check_wheel WHEEL`: is it a wheel that runs wherever it says?

One wheel for CPython 3.11 and later, for any Linux with glibc 2.28 or later, by the word of
auditwheel, which reads the symbols of the library and not the name of the file.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

GLIBC_MAX: Final = (2, 28)
_CONSISTENT: Final = re.compile(r'following platform tag:\s+"manylinux_(\d+)_(\d+)_(\w+)"')


def complaints(wheel: Path) -> list[str]:
    """What is wrong with the wheel; nothing if it is as it should be."""
    found = []
    if "-cp311-abi3-" not in wheel.name:
        found.append(f"{wheel.name} is not tagged cp311-abi3")
    audit = subprocess.run(
        [sys.executable, "-m", "auditwheel", "show", str(wheel)],
        check=True,
        capture_output=True,
        text=True,
    )
    text = " ".join(audit.stdout.split())
    match = _CONSISTENT.search(text)
    if match is None:
        found.append(f"auditwheel finds no manylinux tag for {wheel.name}: {text}")
    elif (int(match[1]), int(match[2])) > GLIBC_MAX:
        found.append(f"{wheel.name} needs glibc {match[1]}.{match[2]}; at most 2.28 is wanted")
    return found


def main(arguments: list[str]) -> int:
    """Check each wheel; the exit status."""
    found = [complaint for path in arguments for complaint in complaints(Path(path))]
    for complaint in found:
        print(f"check_wheel: {complaint}", file=sys.stderr)
    return 1 if found or not arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
