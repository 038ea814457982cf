"""The drivers of this package, and the bus on which those of other packages join them."""

from functools import cache
from typing import Final

from vioblk import rng
from vioblk.block import attach as block
from vioblk.bus import Bus

OWN_DRIVERS: Final = (block.DRIVER, rng.DRIVER)


@cache
def default_bus() -> Bus:
    """The bus of `vioblk.attach`. Other packages add drivers by an entry point of the group
    `vioblk.drivers`, and programs with `default_bus().register`."""
    bus = Bus(external=True)
    for driver in OWN_DRIVERS:
        bus.register(driver)
    return bus
