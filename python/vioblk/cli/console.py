"""Standard output for tables."""

import sys

from rich.console import Console

WIDTH_ELSEWHERE = 200
"""Columns where there is no terminal: nothing is wrapped that somebody might search for."""


def output() -> Console:
    """As wide as the terminal, if it is one."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH_ELSEWHERE)
