"""The software device: a virtio-blk device in this process, on memory or on a file.

It parses rings with code of its own, on its own thread, and counts what it sees.
"""

import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from vioblk._native import DmaSpace, Doorbell, SoftwareDevice
from vioblk._native import Mapping as DmaMapping
from vioblk.address import (
    Address,
    Option,
    choice,
    feature_list,
    flag,
    integer,
    parse_size,
    text,
)
from vioblk.block.features import BLOCK_DEVICE_TYPE, BlockFeature
from vioblk.errors import AddressError, ResetTimeoutError
from vioblk.features import Feature, FeatureSet
from vioblk.pci.bars import size_bars
from vioblk.pci.location import Location
from vioblk.transport import PlacedFunction, no_pci_bus
from vioblk.transport.base import (
    QUEUE_RESET_TIMEOUT_S,
    QueueAddresses,
    QueueWires,
    Transport,
)
from vioblk.transport.watch import EventWatcher

SECTOR_BYTES: Final = 512

FIRST_DEVICE_ADDRESS: Final = 1 << 32
"""Above what 32 bits hold, so that a truncated address is noticed."""

RESET_POLL_INTERVAL_S: Final = 0.001
"""Between looks whether a reset of a queue that takes its time has ended."""

GUARD_BYTES: Final = 1 << 20
"""Between mappings, so that a device that runs over one's end meets nothing."""

PCI_OPTIONS: Final[Mapping[str, Option]] = {
    "interrupts": choice(
        ("auto", "msix", "shared", "config", "intx", "none"),
        "with bus=pci: msix: a vector for each queue and one for the configuration; shared: one "
        "for all; config: for the configuration only; intx: the pin; none: the queues are polled; "
        "auto: the first of msix, shared, intx and none that works",
    ),
    "vectors": integer(
        0,
        2048,
        "with bus=pci: MSI-X vectors; 0: the device has no MSI-X; one for each queue and one more",
    ),
    "access": choice(
        ("auto", "bar", "window"),
        "with bus=pci: window: the registers are reached through the configuration space; bar: "
        "directly; auto: directly where that is possible; auto",
    ),
    "notify_multiplier": integer(
        0,
        4096,
        "with bus=pci: how many bytes apart doorbells are; 0: all queues have the same one; 4",
    ),
}
"""What the device takes with `bus=pci` alone."""

OPTIONS: Final[Mapping[str, Option]] = {
    "queues": integer(1, 64, "how many queues the device has; 1"),
    "queue_size": integer(
        1, 32768, "the largest size of a queue, without packed=on a power of two; 256"
    ),
    "cache": choice(
        ("writeback", "volatile", "none"),
        "writeback: flushes are offered, though writes are kept at once; volatile: writes are "
        "lost in a power loss unless flushed; none: no flush is offered; writeback",
    ),
    "read_only": flag("the device refuses to be changed; off"),
    "serial": text("what it says its serial number is; empty", length_bytes_max=20),
    "block_size": integer(512, 1 << 20, "bytes of a logical block; 512", power_of_two=True),
    "size_max": integer(512, (1 << 32) - 1, "the largest segment, in bytes; no limit"),
    "seg_max": integer(1, 32766, "the most data segments of one request; 126"),
    "max_discard_sectors": integer(1, (1 << 32) - 1, "sectors of one discard; 32768"),
    "max_write_zeroes_sectors": integer(1, (1 << 32) - 1, "sectors of one write zeroes; 32768"),
    "offer": feature_list("features offered besides the usual ones", BLOCK_DEVICE_TYPE),
    "withhold": feature_list("features not offered", BLOCK_DEVICE_TYPE),
    "threaded": flag("off: nothing is served until `transport.device.serve()` is called; on"),
    "bus": choice(
        ("none", "pci"),
        "pci: the device is reached as a PCI function is, by the registers of a modelled BAR; none",
    ),
    **PCI_OPTIONS,
}

ALWAYS_OFFERED: Final = frozenset(
    {
        Feature.VERSION_1,
        Feature.INDIRECT_DESC,
        Feature.EVENT_IDX,
        BlockFeature.SEG_MAX,
        BlockFeature.GEOMETRY,
        BlockFeature.BLK_SIZE,
        BlockFeature.TOPOLOGY,
        BlockFeature.MQ,
        BlockFeature.DISCARD,
        BlockFeature.WRITE_ZEROES,
    }
)


class SoftwareTransport(Transport):
    """The way to a software device, which it owns (`device`: counters, faults, power loss)."""

    name = "software"
    device_type = BLOCK_DEVICE_TYPE
    transport_features = frozenset(
        {
            Feature.ACCESS_PLATFORM,
            Feature.ORDER_PLATFORM,
            Feature.RING_PACKED,
            Feature.RING_RESET,
        }
    )
    # Its thread ends before close() returns, and nothing else reaches the memory.
    memory_safe_after_close = True
    makes_device = True

    def __init__(self, address: str, **device_options: Any) -> None:
        self.address = address
        self.space = DmaSpace()
        self.device = SoftwareDevice(self.space, **device_options)
        self._queue_count = int(device_options.get("queue_count", 1))
        self._queue_size_max = int(device_options.get("queue_size_max", 256))
        self._watcher: EventWatcher | None = None
        self._closed = False

    def map_memory(self, length_bytes: int) -> DmaMapping:
        """Make `length_bytes` more memory reachable for the device."""
        return map_next(self.space, length_bytes)

    def read_status(self) -> int:
        """The device status."""
        return self.device.read_status()

    def write_status(self, value: int) -> None:
        """Write the device status; 0 asks for a reset."""
        self.device.write_status(value)

    def read_features(self) -> int:
        """All feature bits that the device offers."""
        return self.device.read_features()

    def write_features(self, accepted: int) -> None:
        """Tell the device which features both sides use."""
        self.device.write_features(accepted)

    def read_config(self, offset: int, length_bytes: int) -> bytes:
        """Read one field of the device configuration."""
        return self.device.read_config(offset, length_bytes)

    def write_config(self, offset: int, data: bytes) -> None:
        """Write one field of the device configuration."""
        self.device.write_config(offset, data)

    def config_generation(self) -> int:
        """A counter that changes whenever the configuration did."""
        return self.device.config_generation()

    def queue_count(self) -> int:
        """How many queues the device has."""
        return self._queue_count

    def queue_size_max(self, index: int) -> int:
        """The largest size of queue `index`; 0 if it does not exist."""
        return self._queue_size_max if 0 <= index < self._queue_count else 0

    def enable_queue(self, index: int, addresses: QueueAddresses) -> QueueWires:
        """Tell the device where queue `index` lies, and enable it."""
        self.device.enable_queue(index, *addresses)
        doorbell = Doorbell.eventfd(self.device.kick_fd(index))
        return QueueWires(doorbell, self.device.interrupt_fd(index))

    def reset_queue(self, index: int, timeout_s: float = QUEUE_RESET_TIMEOUT_S) -> None:
        """Reset one queue; the device has let go of it when its own call returns, but a fault can
        keep it from saying so."""
        deadline = time.monotonic() + timeout_s
        self.device.reset_queue(index)
        while self.device.is_queue_resetting(index):
            if time.monotonic() >= deadline:
                raise ResetTimeoutError(
                    f"queue {index} did not confirm its reset within {timeout_s:g} s; reset it "
                    "again, or the device"
                )
            time.sleep(RESET_POLL_INTERVAL_S)

    def on_config_change(self, callback: Callable[[], None] | None) -> None:
        """Call `callback` after each configuration change notification, on a thread for it."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.close()
        if callback is not None:
            self._watcher = EventWatcher(self.device.config_fd, callback, "vioblk-config")

    def explain_failure(self) -> str | None:
        """The last error of the file that backs the disk."""
        return explain_last_error(self.device)

    def close(self) -> None:
        """Stop the device and wait for its thread."""
        if not self._closed:
            self._closed = True
            self.on_config_change(None)
            self.device.close()


def map_next(space: DmaSpace, length_bytes: int) -> DmaMapping:
    """Map memory at the next device address."""
    ends = [mapping.device_address + mapping.length for mapping in space.mappings]
    return space.map(length_bytes, max(ends) + GUARD_BYTES if ends else FIRST_DEVICE_ADDRESS)


def explain_last_error(device: SoftwareDevice) -> str | None:
    """The last error of the file that backs the disk."""
    error = device.last_error
    return None if error is None else f"the last error of the file was: {error}"


def device_type(address: Address, options: Mapping[str, object]) -> int:
    """The software device is a block device."""
    return BLOCK_DEVICE_TYPE


def connect(address: Address, options: Mapping[str, object]) -> Transport:
    """Make the device of a `mem:` or `file:` address.

    Raises AddressError, OSError if the file cannot be served, TransportError if it cannot be
    driven as the options of a PCI function say.
    """
    given = dict(options)
    on_pci = given.pop("bus", "none") == "pci"
    pci = {name: given.pop(name) for name in PCI_OPTIONS if name in given}
    if pci and not on_pci:
        raise AddressError(f"{address.text}: {' and '.join(pci)} cannot be given without bus=pci")
    try:
        device_options = _device_options(address, given)
        if not on_pci:
            return SoftwareTransport(address.text, **device_options)
        software_pci = import_module("vioblk.transport.software_pci")
        transport: Transport = software_pci.make(address, pci, device_options)
        return transport
    except AddressError:
        raise
    except ValueError as error:
        raise AddressError(f"{address.text}: {error}") from error


@contextmanager
def list_functions(
    address: Address, options: Mapping[str, object]
) -> Iterator[list[PlacedFunction]]:
    """The function that the device is with `bus=pci`, while it is there.

    Raises as `connect` does, and AddressError without `bus=pci`.
    """
    if options.get("bus") != "pci":
        raise no_pci_bus(address)
    software_pci = import_module("vioblk.transport.software_pci")
    with closing(connect(address, options)) as transport:
        assert isinstance(transport, software_pci.SoftwarePciTransport)
        yield [(Location(bus=0, device=0), transport.config, size_bars(transport.config))]


def _device_options(address: Address, given: dict[str, object]) -> dict[str, Any]:
    """What the device is made from, without the options of its bus."""
    cache = given.pop("cache", "writeback")
    extra = _feature_set(given.pop("offer", frozenset()))
    withheld = _feature_set(given.pop("withhold", frozenset()))
    if cache == "none":
        withheld |= {BlockFeature.FLUSH, BlockFeature.CONFIG_WCE}
    offered = (_usual_features(given, cache) | extra) - withheld
    size = given.get("queue_size")
    if isinstance(size, int) and size & (size - 1) and Feature.RING_PACKED not in offered:
        raise AddressError(
            f"{address.text}: queue_size is {size}; without packed=on it must be a power of two"
        )
    renamed = {_DEVICE_NAMES.get(name, name): value for name, value in given.items()}
    return {
        **_storage(address),
        **renamed,
        "features": FeatureSet(offered).mask,
        "volatile_cache": cache == "volatile",
    }


_DEVICE_NAMES: Final = {"queues": "queue_count", "queue_size": "queue_size_max"}


def _storage(address: Address) -> dict[str, object]:
    if address.scheme == "file":
        _refuse_odd_length(address)
        return {"path": address.target}
    size_bytes = parse_size(address.target)
    if size_bytes == 0 or size_bytes % SECTOR_BYTES:
        raise AddressError(
            f"{address.text}: a disk has a multiple of {SECTOR_BYTES} bytes, not {size_bytes}"
        )
    return {"capacity_sectors": size_bytes // SECTOR_BYTES}


def _refuse_odd_length(address: Address) -> None:
    """A file's last bytes, fewer than a sector, would belong to no disk."""
    try:
        found = Path(address.target).stat()
    except OSError:
        return  # the device says why when it opens it
    odd_bytes = found.st_size % SECTOR_BYTES
    if stat.S_ISREG(found.st_mode) and odd_bytes:
        raise AddressError(
            f"{address.text}: the file is {found.st_size} bytes long, which is no multiple of "
            f"{SECTOR_BYTES}, so its last {odd_bytes} bytes would be left out; pad it first: "
            f"truncate --size=%{SECTOR_BYTES}"
        )


def _usual_features(options: Mapping[str, object], cache: object) -> frozenset[int]:
    features: set[int] = set(ALWAYS_OFFERED)
    if options.get("size_max"):
        features.add(BlockFeature.SIZE_MAX)
    if options.get("read_only"):
        features.add(BlockFeature.RO)
    if cache != "none":
        features |= {BlockFeature.FLUSH, BlockFeature.CONFIG_WCE}
    return frozenset(features)


def _feature_set(value: object) -> frozenset[int]:
    return value if isinstance(value, frozenset) else frozenset()
