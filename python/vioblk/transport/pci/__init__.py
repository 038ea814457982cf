"""The PCI transport: a virtio device that is a PCI function, on whatever machine.

The machine is a `PciPlatform` (`vioblk.pci.access`), the registers are a `RegisterLayout`
(`vioblk.pci.layout`). Read in this order: `transport` (the whole), `interrupts` and its `plans`,
`presence` (a device that has gone), `window_doorbell`.
"""

from vioblk.transport.pci.interrupts import INTERRUPT_MODES, InterruptChoice
from vioblk.transport.pci.transport import PciTransport

__all__ = ["INTERRUPT_MODES", "InterruptChoice", "PciTransport"]
