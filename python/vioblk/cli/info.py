"""`vioblk info`: what a disk is, and what was negotiated with it."""

import json
import sys
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from vioblk.block.info import DiskInfo, QueueInfo
from vioblk.cli.arguments import Address
from vioblk.cli.console import show, standard_output
from vioblk.cli.features import Features, open_disk
from vioblk.cli.sizes import format_size
from vioblk.features import Feature, Verdict, feature_bits
from vioblk.wording import counted

STYLES = {Verdict.ACCEPTED: "green", Verdict.DECLINED: "yellow", Verdict.IGNORED: "dim"}


def info(
    address: Address,
    features: Features = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what a disk is, and what became of each feature that it offers.

    The options of addresses are in docs/first-disk.md, rings.md, testing-a-device.md, qemu.md and
    vhost-user.md.

    `python -m pydoc vioblk.open` lists the names of all.
    """
    standard_output()
    with open_disk(address, features) as disk:
        found = disk.info
    if as_json:
        json.dump(found.as_dict(), sys.stdout, indent=2)
        print()
        return
    show(properties_table(found), features_table(found))


def properties_table(found: DiskInfo) -> Table:
    """Name and value of what matters most."""
    table = Table.grid(padding=(0, 2))
    size = f"{found.capacity_bytes} bytes ({format_size(found.capacity_bytes)})"
    cache = "write-back: flush makes writes durable" if found.writeback else "write-through"
    rows = {
        "address": found.address,
        "transport": found.transport,
        **found.transport_details,
        "serial": "(not known)" if found.serial is None else found.serial or "(none)",
        "capacity": size,
        "logical block": f"{found.block_size} bytes",
        "access": "read-only" if found.read_only else "read and write",
        "cache": cache,
        "longest request": format_size(found.limits.request_bytes),
        "discard": _limit(found.limits.discard_bytes),
        "write zeroes": _limit(found.limits.write_zeroes_bytes),
        "ring": found.ring,
        "ring format": found.ring_format,
        "notifications": _notifications(found),
        "queues": _queues(found),
    }
    for name, value in rows.items():
        # As text: what a device or a user calls something is no markup.
        table.add_row(name, Text(value))
    for queue in found.queues:
        table.add_row(f"queue {queue.index}", Text(_queue(queue)))
    return table


def features_table(found: DiskInfo) -> Table:
    """Each offered feature, what became of it, and why; then what is not offered of the ring."""
    table = Table("bit", "feature", "", "why", box=None, padding=(0, 2, 0, 0))
    for decision in found.features:
        verdict = Text(decision.verdict.name.lower(), STYLES[decision.verdict])
        table.add_row(str(decision.bit), decision.name, verdict, decision.reason)
    bits = feature_bits()
    for name in found.not_offered:
        table.add_row(str(bits[name]), name, Text("not offered", "dim"), "")
    return table


def _notifications(found: DiskInfo) -> str:
    """How each side tells the other of which ones it has need."""
    wanted = "event index" if Feature.EVENT_IDX in found.accepted else "flags"
    data = ", with the place in the ring" if Feature.NOTIFICATION_DATA in found.accepted else ""
    return f"{wanted}{data}"


def _queue(queue: QueueInfo) -> str:
    parts = [
        f"{queue.size} descriptors",
        f"{counted(queue.depth, 'request')} at once",
        "polled" if queue.polling else "interrupts",
        f"{counted(queue.kick_count, 'notification')} sent",
    ]
    if queue.in_flight:
        parts.append(f"{queue.in_flight} in flight")
    if queue.clamped_count:
        parts.append(f"{counted(queue.clamped_count, 'used length')} too large")
    if queue.broken:
        parts.append(f"broken: {queue.broken}")
    return ", ".join(parts)


def _queues(found: DiskInfo) -> str:
    used, there = len(found.queues), found.device_queue_count
    if used == there:
        return str(used)
    return f"{used} of the device's {there} (one for each processor, or queue_count=)"


def _limit(length_bytes: int) -> str:
    return f"{format_size(length_bytes)} in a request" if length_bytes else "not available"
