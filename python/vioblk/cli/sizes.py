"""Sizes as people read them. `vioblk.address.parse_size` is the other direction."""

from vioblk.address import SIZE_UNITS


def format_size(length_bytes: int) -> str:
    """The shortest exact way to write it: `64M`, `4K`, `1000`."""
    for suffix, unit in reversed(SIZE_UNITS.items()):
        if length_bytes >= unit and length_bytes % unit == 0:
            return f"{length_bytes // unit}{suffix}"
    return str(length_bytes)
