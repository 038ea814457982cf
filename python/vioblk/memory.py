"""DMA memory: regions cut from a few large mappings that the device can reach."""

from vioblk._native import DmaSpace, Region
from vioblk.transport.base import Transport


class DmaMemory:
    """The memory of one device. Thread-safe."""

    space: DmaSpace

    def __init__(self, transport: Transport) -> None: ...

    def alloc(self, length_bytes: int, align: int = 4096) -> Region:
        """A zeroed region. `align`: a power of two up to 4096.

        Raises ValueError, MemoryError (saying what was asked for and what is left), StateError
        after the device was closed.
        """
        raise NotImplementedError
