"""The command `vioblk`, also run as `python -m vioblk`."""

import sys
from importlib.util import find_spec

MISSING_EXTRA = "vioblk: the command line needs two more packages: pip install 'vioblk[cli]'"


def main() -> int:
    """Run the command line; the exit status. Needs the extra `cli`, and says so without it."""
    if any(find_spec(package) is None for package in ("typer", "rich")):
        print(MISSING_EXTRA, file=sys.stderr)
        return 1
    from vioblk.cli.app import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
