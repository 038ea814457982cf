"""Refuse to measure a debug build: `python -m benches.refuse_debug`."""

import sys

from vioblk._native import BUILD_PROFILE


def refusal() -> str | None:
    """Why nothing should be measured; None if all is well."""
    if BUILD_PROFILE == "release":
        return None
    return (
        f"vioblk._native was built with the profile {BUILD_PROFILE!r}: its timings mean nothing;"
        " build it with `maturin develop --release`"
    )


if __name__ == "__main__":
    sys.exit(refusal())
