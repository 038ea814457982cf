"""Reads requests from the memory that driver and device share, as a device would.

It follows descriptors with code of its own, so a test sees what is on the wire and not what the
driver meant to put there.
"""

import mmap
import struct
import threading
from collections.abc import Callable
from typing import NamedTuple

from tests.block.recording import RecordingTransport

NEXT, WRITE, INDIRECT = 1, 2, 4
DESCRIPTOR = struct.Struct("<QIHH")
HEADER = struct.Struct("<IIQ")
SEGMENT = struct.Struct("<QII")


class WireRequest(NamedTuple):
    """One block request as it lies in memory (VIRTIO 1.4, 5.2.6 Device Operation)."""

    type: int
    reserved: int
    sector: int
    data: bytes
    """What the device reads, beside the header."""
    writable_lengths: tuple[int, ...]
    """Of the buffers that the device writes, the status byte (last) included."""

    @property
    def ranges(self) -> list[tuple[int, int, int]]:
        """(sector, sectors, flags) of each segment of a discard or write-zeroes."""
        return list(SEGMENT.iter_unpack(self.data))


class Tap:
    """Watches one queue of a software device that serves only when it is told to."""

    def __init__(self, transport: RecordingTransport, queue: int = 0) -> None:
        self._transport = transport
        self._addresses = transport.queues[queue]
        self._maps = [
            (each.device_address, mmap.mmap(each.fd, each.length, offset=each.file_offset))
            for each in transport.space.mappings
        ]
        self._seen = self._available_index()
        self.chains: list[list[tuple[int, bool]]] = []
        """(length in bytes, whether the device writes it) of each descriptor of each request that
        was taken."""

    def close(self) -> None:
        for _, mapped in self._maps:
            mapped.close()

    def watch(self, call: Callable[[], object]) -> list[WireRequest]:
        """Run `call` while serving the device; the requests that it made, in order."""
        failures: list[BaseException] = []

        def run() -> None:
            try:
                call()
            except BaseException as error:
                failures.append(error)

        caller = threading.Thread(target=run)
        caller.start()
        seen: list[WireRequest] = []
        while caller.is_alive():
            seen += self.take()
            self._transport.device.serve()
            caller.join(0.0005)
        seen += self.take()
        if failures:
            raise failures[0]
        return seen

    def take(self) -> list[WireRequest]:
        """The requests that have become available since the last look."""
        requests = []
        while self._seen != self._available_index():
            slot = self._seen % self._addresses.size
            (head,) = struct.unpack(
                "<H", self._bytes(self._addresses.driver_address + 4 + 2 * slot, 2)
            )
            requests.append(self._request(head))
            self._seen = (self._seen + 1) & 0xFFFF
        return requests

    def _available_index(self) -> int:
        return int.from_bytes(self._bytes(self._addresses.driver_address + 2, 2), "little")

    def _bytes(self, address: int, length: int) -> bytes:
        for start, mapped in self._maps:
            if start <= address and address + length <= start + len(mapped):
                return bytes(mapped[address - start : address - start + length])
        raise AssertionError(f"the driver named {address:#x}, which it never mapped")

    def _request(self, head: int) -> WireRequest:
        readable, writable = b"", []
        chain = self._chain(head)
        self.chains.append([(length, bool(flags & WRITE)) for _, length, flags in chain])
        for address, length, flags in chain:
            if flags & WRITE:
                writable.append(length)
            else:
                assert not writable, "a readable buffer stands after a writable one"
                readable += self._bytes(address, length)
        kind, reserved, sector = HEADER.unpack_from(readable)
        return WireRequest(kind, reserved, sector, readable[HEADER.size :], tuple(writable))

    def _chain(self, head: int) -> list[tuple[int, int, int]]:
        table, index = self._addresses.descriptors_address, head
        buffers = []
        while True:
            entry = self._bytes(table + DESCRIPTOR.size * index, DESCRIPTOR.size)
            address, length, flags, index = DESCRIPTOR.unpack(entry)
            if flags & INDIRECT:
                table, index = address, 0
                continue
            buffers.append((address, length, flags))
            if not flags & NEXT:
                return buffers
