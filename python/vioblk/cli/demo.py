"""`vioblk demo`: the whole of it in a few seconds, on a disk in this process."""

import os
from typing import Final

from rich.table import Table

import vioblk
from vioblk.block.disk import BlockDevice
from vioblk.cli.console import show
from vioblk.cli.info import features_table, properties_table
from vioblk.cli.rates import random_read_rate, total
from vioblk.cli.sizes import format_size
from vioblk.errors import VioblkError

ADDRESS: Final = "mem:64M"
DATA_BYTES: Final = 8 << 20
DEPTHS: Final = (1, 64)
TURNS: Final = 5
TURN_S: Final = 0.08
"""The rings take turns, so that a machine that is busy for a moment slows both."""


def demo() -> None:
    """Open a disk in memory, use it, and measure both rings."""
    with vioblk.open(ADDRESS) as disk:
        show(f"[bold]Opened {ADDRESS}[/], a virtio block device in this process\n")
        found = disk.info
        show(properties_table(found), "", features_table(found), "")
        write_and_verify(disk)
        show(f"Wrote {format_size(DATA_BYTES)}, flushed, read it back: [green]verified[/]\n")
    show(
        rates_table(),
        "The queue of the pure-Python ring does without event index; a busy machine shows less.",
    )


def write_and_verify(disk: BlockDevice) -> None:
    """Raises VioblkError if what is read is not what was written."""
    data = os.urandom(DATA_BYTES)
    disk.write(0, data)
    disk.flush()
    with memoryview(disk.alloc(DATA_BYTES)) as view:
        disk.readinto(0, view)
        if view.tobytes() != data:
            raise VioblkError("what was read back is not what was written")


def rates_table() -> Table:
    """Requests per second, the Rust ring beside the pure-Python one."""
    table = Table(
        "4 KiB random reads",
        title="Requests per second, through the same device",
        title_justify="left",
    )
    for heading in ("Rust ring", "pure-Python ring", "ratio"):
        table.add_column(heading, justify="right")
    with vioblk.open(ADDRESS) as native, vioblk.open(ADDRESS, ring="reference") as reference:
        for depth in DEPTHS:
            turns = [
                [random_read_rate(disk, depth, TURN_S) for disk in (native, reference)]
                for _ in range(TURNS)
            ]
            fast, slow = (total(rates).per_second for rates in zip(*turns, strict=True))
            label = "one at a time" if depth == 1 else f"{depth} with each call"
            table.add_row(label, f"{fast:,.0f}", f"{slow:,.0f}", f"{fast / slow:.1f}")
    return table
