"""DMA memory: regions cut from a few large mappings that the device can reach."""

from threading import Lock
from typing import Final

from vioblk._native import DmaSpace, Region
from vioblk.errors import StateError, TransportError
from vioblk.transport.base import Transport

FIRST_MAPPING_BYTES: Final = 4 << 20
"""Enough for the queues and for modest buffers."""

DOUBLINGS: Final = 7
"""How often the memory can double at least: where the mappings are fewer, the first is larger."""

LENGTH_BYTES_MAX: Final = 1 << 47
"""As much as a process can map at all on x86-64, and small enough to be rounded up and summed."""

MAPPING_UNIT_BYTES: Final = 2 << 20
"""A huge page on x86-64 and aarch64."""


class DmaMemory:
    """The memory of one device. Thread-safe.

    It grows by mappings of its own, and as the other side may allow very few of them
    (`Transport.mapping_count_max`) or none while it is live (`Transport.maps_while_live`), each is
    at least as large as all before it together. Eight hold 512 MiB in small pieces, fewer start
    with a larger one and hold as much, and a single piece may have any size. Mapped memory costs
    nothing until it is touched, unless the transport pins it.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport: Transport | None = transport
        self._lock = Lock()

    @property
    def space(self) -> DmaSpace:
        """Raises StateError after the device was closed."""
        return self._open_transport().space

    def alloc(self, length_bytes: int, align: int = 4096) -> Region:
        """A zeroed region. `align`: a power of two up to 4096.

        Raises ValueError, MemoryError (saying what was asked for and what is left), StateError
        after the device was closed, TransportError.
        """
        if length_bytes <= 0:
            raise ValueError(f"a region has at least one byte, not {length_bytes}")
        if length_bytes > LENGTH_BYTES_MAX:
            raise MemoryError(f"no room for {length_bytes} bytes: no process can map as much")
        with self._lock:
            transport = self._open_transport()
            try:
                return transport.space.alloc(length_bytes, align)
            except MemoryError:
                self._grow(transport, length_bytes)
            return transport.space.alloc(length_bytes, align)

    def close(self) -> None:
        """Give out no more, and let go of the space; regions that are open keep their memory."""
        with self._lock:
            self._transport = None

    def _open_transport(self) -> Transport:
        if self._transport is None:
            raise StateError("the device was closed, and its memory with it; open it again")
        return self._transport

    def _grow(self, transport: Transport, length_bytes: int) -> None:
        mappings = transport.space.mappings
        if len(mappings) >= transport.mapping_count_max:
            raise MemoryError(
                f"no room for {length_bytes} bytes: {transport.space.free_bytes} are free, in "
                f"pieces, and {transport.name} allows no more than "
                f"{transport.mapping_count_max} mappings; close regions, or allocate fewer "
                "and larger ones"
            )
        mapped_bytes = sum(mapping.length for mapping in mappings)
        count_max = transport.mapping_count_max if transport.maps_while_live else 1
        missing_doublings = max(0, DOUBLINGS + 1 - count_max)
        wanted = max(length_bytes, mapped_bytes, FIRST_MAPPING_BYTES << missing_doublings)
        unit = MAPPING_UNIT_BYTES
        length = (wanted + unit - 1) // unit * unit
        try:
            transport.map_memory(length)
        except TransportError:
            raise  # The device is out of reach, which is no lack of memory.
        except (OSError, MemoryError) as error:
            raise MemoryError(
                f"no room for {length_bytes} bytes: mapping {length} more failed: {error}"
            ) from error
