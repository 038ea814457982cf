"""A device that an address names, as a candidate for a driver."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Final

from vioblk.address import Address, Option, SortedOptions, parse_address, sort_options
from vioblk.bus import Connection
from vioblk.device_types import device_type_name
from vioblk.driver import BusDriver, DeviceIdentity, Settings
from vioblk.transport import BackEnd, ListsFunctions, PlacedFunction, back_end, no_pci_bus

OFFER: Final = "offer"
"""The option of a transport that makes its own device, for features offered beside the usual."""


class AddressCandidate:
    """Knows what is at an address without reaching it, and reaches it for a driver."""

    def __init__(self, address: str, keywords: Mapping[str, object] | None = None) -> None:
        """`keywords` are options beside those in the address, which they replace.

        Raises AddressError, OSError, TransportError.
        """
        self._address = parse_address(address)
        self._keywords = dict(keywords or {})
        self._back_end = back_end(self._address)
        device_type = self._back_end.device_type(
            self._address, _read_known(self._address, self._keywords, self._back_end.OPTIONS)
        )
        self.identity = DeviceIdentity(
            address=address,
            device_type=device_type,
            type_name=device_type_name(device_type),
            transport=self._address.scheme,
        )

    def connect(self, driver: BusDriver) -> Connection:
        """Read the options as the transport and the driver take them, and reach the device.

        Raises AddressError, OSError, TransportError.
        """
        options, settings = self._read_options(driver)
        return Connection(self._back_end.connect(self._address, options), settings)

    def list_functions(self, driver: BusDriver) -> AbstractContextManager[Iterable[PlacedFunction]]:
        """The PCI functions of the machine that `connect` would reach the device in.

        Raises AddressError, also if there is no PCI bus, OSError, TransportError.
        """
        if not isinstance(self._back_end, ListsFunctions):
            raise no_pci_bus(self._address)
        options, _ = self._read_options(driver)
        return self._back_end.list_functions(self._address, options)

    def _read_options(self, driver: BusDriver) -> tuple[dict[str, object], Settings]:
        """Those of the transport, and those of the driver. Raises AddressError."""
        chosen = sort_options(
            self._address,
            self._keywords,
            transport_options=self._back_end.OPTIONS,
            driver_options=driver.options,
            device_type=driver.device_type,
        )
        settings = Settings(chosen.driver, chosen.force_on, chosen.force_off)
        return _with_offer(self._back_end, chosen), settings


def _with_offer(module: BackEnd, chosen: SortedOptions) -> dict[str, object]:
    """What the user insists on is also offered, where the transport makes the device itself."""
    options = dict(chosen.transport)
    if chosen.force_on and OFFER in module.OPTIONS:
        asked = options.get(OFFER, frozenset())
        assert isinstance(asked, frozenset)
        options[OFFER] = asked | chosen.force_on
    return options


def _read_known(
    address: Address, keywords: Mapping[str, object], table: Mapping[str, Option]
) -> dict[str, object]:
    """Those of the options that are the transport's; the driver that knows the rest comes later.

    A value that is not valid is left out: `connect` says what is wrong with it.
    """
    known: dict[str, object] = {}
    for name, value in {**address.options, **keywords}.items():
        if name in table:
            try:
                known[name] = table[name].read(value)
            except ValueError:
                continue
    return known
