"""The memory table: which of our memory the back end maps, and under which addresses."""

import os
import sys
from typing import Final

from vioblk._native import DmaSpace, Mapping
from vioblk.errors import StateError
from vioblk.transport.vhost_user.connection import Connection
from vioblk.transport.vhost_user.messages import Request, memory_table, single_region

PAGE_BYTES: Final = 4096

FIRST_DEVICE_ADDRESS: Final = 1 << 32
"""Device addresses are ours to choose; not zero, so that a forgotten address is no valid one."""


class SharedMemory:
    """The mappings of one DmaSpace that a back end knows of.

    `slots`: how many the back end takes. `growable`: whether it takes them one by one
    (CONFIGURE_MEM_SLOTS), so also while queues run; otherwise every change sends the whole table.
    """

    def __init__(self, connection: Connection, slots: int, *, growable: bool) -> None:
        self.space = DmaSpace()
        self._connection = connection
        self._slots = slots
        self._growable = growable
        self._next_address = FIRST_DEVICE_ADDRESS
        self._mappings: list[Mapping] = []

    def map(self, length_bytes: int, *, queues_running: bool) -> Mapping:
        """Map at least `length_bytes` (rounded up to whole pages) and tell the back end.

        Raises ValueError (no bytes), MemoryError (all slots are taken), StateError (queues are
        running and the back end takes no single regions), TransportError.
        """
        if length_bytes <= 0:
            raise ValueError(f"cannot map {length_bytes} bytes; ask for at least one")
        if len(self._mappings) >= self._slots:
            raise MemoryError(
                f"the back end takes {self._slots} memory regions and has them all; "
                "map less often and more at a time"
            )
        if queues_running and not self._growable:
            raise StateError(
                "the back end takes a memory table only while no queue runs (it does not offer "
                "CONFIGURE_MEM_SLOTS); map all memory before the queues are enabled"
            )
        length = -(-length_bytes // PAGE_BYTES) * PAGE_BYTES
        mapping = self.space.map(length, self._next_address)
        self._next_address += length
        self._mappings.append(mapping)
        self._tell(mapping)
        return mapping

    def _tell(self, mapping: Mapping) -> None:
        try:
            if self._growable:
                self._connection.tell(Request.ADD_MEM_REG, single_region(mapping), [mapping.fd])
            else:
                fds = [each.fd for each in self._mappings]
                self._connection.tell(Request.SET_MEM_TABLE, memory_table(self._mappings), fds)
        except BaseException as error:
            # The space now holds memory that the device perhaps cannot reach (the exchange may have
            # been interrupted before it began), so nothing can go on.
            what = str(error) or type(error).__name__
            self._connection.give_up(f"it did not take a memory region ({what})")
            raise

    def host_address(self, device_address: int, length_bytes: int) -> int:
        """Where this process sees `length_bytes` at `device_address`.

        Raises ValueError if they do not lie within one mapping.
        """
        mapping = self._find(device_address, length_bytes)
        return mapping.host_address + (device_address - mapping.device_address)

    def read_u16(self, device_address: int) -> int:
        """Two bytes as they are now. Through the file, since this is no place for raw pointers."""
        mapping = self._find(device_address, 2)
        offset = mapping.file_offset + (device_address - mapping.device_address)
        return int.from_bytes(os.pread(mapping.fd, 2, offset), sys.byteorder)

    def _find(self, device_address: int, length_bytes: int) -> Mapping:
        for mapping in self._mappings:
            offset = device_address - mapping.device_address
            if offset >= 0 and offset + length_bytes <= mapping.length:
                return mapping
        raise ValueError(
            f"{length_bytes} bytes at device address {device_address:#x} are not in one mapping of "
            "this device; take rings from its own memory"
        )
