"""The command `vioblk`, also run as `python -m vioblk`."""

import sys
from importlib.metadata import requires
from importlib.util import find_spec
from typing import Final

INTERRUPTED: Final = 130
"""128 and the number of SIGINT, as shells expect."""

_OF_THE_EXTRA: Final = "extra == 'cli'"


def main() -> int:
    """Run the command line; the exit status. Needs the extra `cli`, and says so without it."""
    try:
        if any(find_spec(package) is None for package in ("typer", "rich")):
            print(missing_extra(), file=sys.stderr)
            return 1
        from vioblk.cli.app import run
    except KeyboardInterrupt:
        # `run` says the same of one that comes later.
        return INTERRUPTED
    return run(sys.argv[1:])


def missing_extra() -> str:
    """One line with the pip command, in the words of the package's own metadata."""
    # Not 'vioblk[cli]': whether pip finds that depends on where vioblk itself came from.
    extra = (line for line in requires("vioblk") or () if _OF_THE_EXTRA in line.replace('"', "'"))
    needed = " ".join(f"'{line.partition(';')[0].strip()}'" for line in extra)
    return f"vioblk: the command line needs two more packages: pip install {needed}"


if __name__ == "__main__":
    sys.exit(main())
