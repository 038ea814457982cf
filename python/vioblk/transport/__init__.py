"""How devices are reached. Each back end is loaded when an address first asks for it."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Final, Protocol, TypeAlias, cast, runtime_checkable

from vioblk.address import Address, Option, unknown_scheme
from vioblk.errors import AddressError
from vioblk.pci.access import ConfigSpace
from vioblk.pci.bars import Bar
from vioblk.pci.location import Location
from vioblk.transport.base import Transport

SCHEMES: Final[Mapping[str, str]] = {
    "mem": "vioblk.transport.software",
    "file": "vioblk.transport.software",
    "vhost-user": "vioblk.transport.vhost_user",
    "qemu": "vioblk.transport.qemu",
}
"""Scheme of an address -> the module that serves it."""


class BackEnd(Protocol):
    """What a module of `SCHEMES` has."""

    OPTIONS: Mapping[str, Option]
    """The options that its addresses take."""

    def device_type(self, address: Address, options: Mapping[str, object]) -> int:
        """The type of the device at an address, which is not reached for that.

        Raises AddressError, OSError, TransportError.
        """

    def connect(self, address: Address, options: Mapping[str, object]) -> Transport:
        """Reach the device. `options`: those that were given, read as OPTIONS says.

        Raises AddressError, OSError, TransportError.
        """


PlacedFunction: TypeAlias = tuple[Location, ConfigSpace, tuple[Bar, ...]]
"""A PCI function: its place, its configuration space, its BARs with lengths."""


@runtime_checkable
class ListsFunctions(Protocol):
    """What a module of `SCHEMES` has besides if there can be a PCI bus behind its addresses."""

    def list_functions(
        self, address: Address, options: Mapping[str, object]
    ) -> AbstractContextManager[Iterable[PlacedFunction]]:
        """Every function of the machine that `connect` would make, while the machine is there.

        Raises as `connect` does, and AddressError if there is no PCI bus behind this address.
        """


def no_pci_bus(address: Address) -> AddressError:
    """What to raise where PCI functions are asked for and cannot be."""
    return AddressError(
        f"{address.text}: there is no PCI bus behind it; those that have one are qemu: addresses, "
        "and mem: and file: with bus=pci; this machine is listed without an address"
    )


def back_end(address: Address) -> BackEnd:
    """The module for an address. Raises AddressError if its scheme is unknown."""
    if address.scheme not in SCHEMES:
        raise unknown_scheme(address, SCHEMES)
    return cast(BackEnd, import_module(SCHEMES[address.scheme]))


def connect(address: Address, options: Mapping[str, object]) -> Transport:
    """Reach the device at an address, with options as `sort_options` reads them.

    Raises AddressError, OSError, TransportError.
    """
    return back_end(address).connect(address, options)
