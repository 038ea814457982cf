"""PCI: configuration space, BARs, capabilities, and the register layouts of virtio over PCI.

Nothing here knows which machine the bus belongs to: whoever can read bytes can be read.
"""
