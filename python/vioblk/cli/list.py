"""`vioblk list`: the virtio PCI devices of a machine."""

import json
import sys
from collections.abc import Iterable
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vioblk.cli.console import show, standard_output
from vioblk.cli.pciconf import device_lines, numbered_names
from vioblk.discovery import FoundDevice, scan
from vioblk.pci.identity import VIRTIO_VENDOR
from vioblk.wording import counted


def list_devices(
    address: Annotated[
        str | None,
        typer.Argument(
            metavar="ADDRESS",
            help="The machine behind an address, as in 'qemu:disk.img?machine=pc'; this machine if "
            "none is given.",
            show_default=False,
        ),
    ] = None,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            "-v",
            help="Header, BARs and capabilities; also what has virtio's vendor ID and is no "
            "virtio device.",
        ),
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", "-a", help="Every PCI function, virtio or not.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False,
) -> None:
    """Show the virtio PCI devices of a machine, and how each is opened or why it cannot be.

    Of this machine nothing but sysfs is read, and no device is opened.
    """
    standard_output()
    found, notes = scan(address)
    for note in notes if sys.stderr is not None else ():
        print(f"vioblk: {note}", file=sys.stderr)
    devices = [device for device in found if _is_asked_for(device, everything, verbose)]
    if as_json:
        json.dump([device.as_dict() for device in devices], sys.stdout, indent=2)
        print()
    elif not devices:
        show(Text(f"no virtio PCI device among {counted(len(found), 'PCI function')}"))
    else:
        show(*_details(devices) if verbose else (overview(devices), *_refusals(devices)))


def overview(devices: Iterable[FoundDevice]) -> Table:
    """A line for each."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("address", "id", "type", "interface", "kernel driver", "group", "open with"):
        table.add_column(name, no_wrap=name in ("address", "id"))
    for device in devices:
        cells = (
            device.address,
            f"{device.vendor_id:04x}:{device.device_id:04x}",
            device.type_name or "(not virtio)",
            device.interface or "-",
            device.kernel_driver or "-",
            "-" if device.iommu_group is None else str(device.iommu_group),
            device.open_with or "-",
        )
        # As text: what a device or a user calls something is no markup.
        table.add_row(*map(Text, cells))
    return table


def _refusals(devices: Iterable[FoundDevice]) -> Iterable[RenderableType]:
    """Why some cannot be opened, a line for each."""
    table = Table.grid(padding=(0, 2))
    for device in devices:
        if device.reason:
            table.add_row(Text(device.address), Text(device.reason))
    if table.row_count:
        yield Text("\ncannot be opened, because (-v says more):")
        yield table


def _is_asked_for(device: FoundDevice, everything: bool, verbose: bool) -> bool:
    near_miss = verbose and device.vendor_id == VIRTIO_VENDOR
    return everything or near_miss or device.identity is not None


def _details(devices: list[FoundDevice]) -> Iterable[RenderableType]:
    for name, device in zip(numbered_names(devices), devices, strict=True):
        yield Text("\n".join(device_lines(name, device)))
