"""A transport that writes down what passes, in front of one that works."""

from collections.abc import Callable
from typing import NamedTuple

from vioblk._native import Mapping
from vioblk.address import parse_address
from vioblk.transport import connect
from vioblk.transport.base import QueueAddresses, QueueWires, Transport
from vioblk.transport.software import OPTIONS, SoftwareTransport


class ConfigRead(NamedTuple):
    """A configuration read, and the device status at that time."""

    offset: int
    length_bytes: int
    status: int


class ConfigWrite(NamedTuple):
    """A configuration write, and the device status at that time."""

    offset: int
    data: bytes
    status: int


class RecordingTransport(Transport):
    """Passes everything on to `inner`, and keeps what the driver did."""

    def __init__(self, inner: SoftwareTransport) -> None:
        self.inner = inner
        self.device = inner.device
        self.address, self.name = inner.address, inner.name
        self.device_type, self.space = inner.device_type, inner.space
        self.transport_features = inner.transport_features
        self.memory_safe_after_close = inner.memory_safe_after_close
        self.queues: dict[int, QueueAddresses] = {}
        self.config_reads: list[ConfigRead] = []
        self.config_writes: list[ConfigWrite] = []
        self.accepted = 0

    def map_memory(self, length_bytes: int) -> Mapping:
        return self.inner.map_memory(length_bytes)

    def read_status(self) -> int:
        return self.inner.read_status()

    def write_status(self, value: int) -> None:
        self.inner.write_status(value)

    def read_features(self) -> int:
        return self.inner.read_features()

    def write_features(self, accepted: int) -> None:
        self.accepted = accepted
        self.inner.write_features(accepted)

    def read_config(self, offset: int, length_bytes: int) -> bytes:
        self.config_reads.append(ConfigRead(offset, length_bytes, self.inner.read_status()))
        return self.inner.read_config(offset, length_bytes)

    def write_config(self, offset: int, data: bytes) -> None:
        self.config_writes.append(ConfigWrite(offset, data, self.inner.read_status()))
        self.inner.write_config(offset, data)

    def config_generation(self) -> int:
        return self.inner.config_generation()

    def queue_count(self) -> int:
        return self.inner.queue_count()

    def queue_size_max(self, index: int) -> int:
        return self.inner.queue_size_max(index)

    def enable_queue(self, index: int, addresses: QueueAddresses) -> QueueWires:
        self.queues[index] = addresses
        return self.inner.enable_queue(index, addresses)

    def on_config_change(self, callback: Callable[[], None] | None) -> None:
        self.inner.on_config_change(callback)

    def close(self) -> None:
        self.inner.close()


def recorded(
    address: str, transport_class: type[RecordingTransport] = RecordingTransport
) -> RecordingTransport:
    """The software device at `address`, with a record of what is done with it."""
    parsed = parse_address(address)
    options = {name: OPTIONS[name].read(value) for name, value in parsed.options.items()}
    transport = connect(parsed, options)
    assert isinstance(transport, SoftwareTransport)
    return transport_class(transport)
