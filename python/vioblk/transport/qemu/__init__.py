"""QEMU's own virtio devices, without a guest: `qemu:disk.img?machine=q35&num_queues=4`.

A QEMU is started for the device. Its processor stands still, its memory is shared with this
process, and its registers are reached over qtest. So it is a real PCI device, on a real bus, that
nothing else touches.

Read in this order: `options` and `command_line` (what is started), `process`, `qtest`, `qmp`
(how it is kept and talked to), `chipset`, `memory` and `machine` (what firmware would do),
`ivshmem`, `pump` and `interrupts` (signals), `events` and `presence` (what becomes of the device),
`platform` (the machine as the PCI transport sees it), `controls` and `faults` (what can be done to
the device from outside).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

from vioblk.address import Address, parse_address, sort_options
from vioblk.block.features import BLOCK_DEVICE_TYPE
from vioblk.device_types import BLOCK, ENTROPY
from vioblk.transport.pci import PciTransport
from vioblk.transport.qemu.faults import ErrorRule
from vioblk.transport.qemu.machine import Function, Machine
from vioblk.transport.qemu.options import OPTIONS, settings
from vioblk.transport.qemu.platform import QemuPlatform
from vioblk.transport.qemu.qmp import QmpError

__all__ = [
    "OPTIONS",
    "ErrorRule",
    "Function",
    "Machine",
    "PciTransport",
    "QemuPlatform",
    "QmpError",
    "attach",
    "connect",
    "device_type",
    "list_functions",
    "start",
]


def device_type(address: Address, options: Mapping[str, object]) -> int:
    """What the option `device` asks for."""
    return ENTROPY if options.get("device") == "rng" else BLOCK


def connect(address: Address, options: Mapping[str, object]) -> PciTransport:
    """Start the machine of a `qemu:` address, and reach its virtio device.

    Closing the transport ends QEMU. Raises AddressError, NegotiationError (a feature that QEMU does
    not have is to be offered), OSError, TransportError.
    """
    machine = Machine(settings(address, options))
    try:
        return attach(machine, address.text, owns_machine=True)
    except BaseException:
        machine.close()
        raise


def start(address: str, **options: object) -> Machine:
    """Start the machine of a `qemu:` address and leave its device alone. A context manager.

    Raises as `connect` does.
    """
    parsed = parse_address(address)
    chosen = sort_options(
        parsed,
        options,
        transport_options=OPTIONS,
        driver_options={},
        device_type=BLOCK_DEVICE_TYPE,
    )
    offer = cast("frozenset[int]", chosen.transport.get("offer", frozenset()))
    return Machine(settings(parsed, {**chosen.transport, "offer": offer | chosen.force_on}))


def attach(
    machine: Machine, address: str | None = None, *, owns_machine: bool = False
) -> PciTransport:
    """Reach the virtio device that is in `machine` now. Raises TransportError.

    `address`: what the transport says it was. `owns_machine`: closing the transport ends QEMU.
    """
    chosen = machine.settings
    transport = PciTransport(
        address if address is not None else f"qemu:{chosen.target}",
        QemuPlatform(machine, owns_machine=owns_machine),
        interface=chosen.used_interface,
        access=chosen.access,
        interrupts=chosen.interrupts,
    )
    transport.makes_device = True
    return transport


@contextmanager
def list_functions(address: Address, options: Mapping[str, object]) -> Iterator[list[Function]]:
    """Every PCI function of the machine of a `qemu:` address, while the machine runs.

    Raises as `connect` does.
    """
    with Machine(settings(address, options)) as machine:
        yield machine.functions()
