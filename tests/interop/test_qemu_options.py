"""The option matrix: what each option of a `qemu:` address makes of QEMU's device, and that the
driver works with it."""

import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import vioblk
from tests.interop.images import blank_image
from tests.interop.qemu_machines import CAPACITY_BYTES, QEMU_10, WAIT_S, blank_disk
from tests.support.qemu import qemu_of
from vioblk.block.disk import BlockDevice
from vioblk.block.features import BlockFeature
from vioblk.features import Feature
from vioblk.pci.bars import Bar
from vioblk.pci.capabilities import walk
from vioblk.pci.header import read_header
from vioblk.pci.virtio_capabilities import VirtioCapabilities, parse
from vioblk.transport import qemu
from vioblk.transport.pci import PciTransport

SECTOR = 512

WRITEBACK_OFFSET = 0x20
"""Of the field `writeback` in the configuration (VIRTIO 1.4, 5.2.4)."""

UNNEGOTIABLE_BIT = 30
"""QEMU offers it on each legacy interface, and it must not be accepted."""


@contextmanager
def attached(directory: Path, options: str) -> Iterator[PciTransport]:
    """The way to a device that nobody has initialized."""
    with machine_of(directory, options) as machine:
        transport = qemu.attach(machine)
        try:
            yield transport
        finally:
            transport.close()


@contextmanager
def machine_of(directory: Path, options: str) -> Iterator[qemu.Machine]:
    with qemu.start(f"qemu:{blank_disk(directory)}{'?' + options if options else ''}") as machine:
        yield machine


def open_disk(directory: Path, options: str, **keywords: Any) -> BlockDevice:
    return vioblk.open(f"qemu:{blank_disk(directory)}?{options}", **keywords)


def use(disk: BlockDevice) -> None:
    """Write and read back, some of it at full depth."""
    data = random.Random(7).randbytes(128 * SECTOR)
    assert disk.write(3 * SECTOR, data) == len(data)
    disk.flush()
    assert disk.read(3 * SECTOR, len(data)) == data
    # Once more, after everything has been set up anew.
    disk.reset()
    assert disk.read(4 * SECTOR, SECTOR) == data[SECTOR : 2 * SECTOR]


def offered(disk: BlockDevice) -> frozenset[int]:
    return frozenset(disk.info.offered)


@dataclass(frozen=True)
class Ids:
    """What the header of the device and its BARs say."""

    device: int
    subsystem: int
    revision: int
    bars: Mapping[int, tuple[str, int]]
    """Index -> kind and length."""
    virtio: frozenset[int]
    """Types of virtio capabilities."""


def ids_of(machine: qemu.Machine) -> Ids:
    config = machine.config(machine.location)
    header = read_header(config)
    assert header is not None
    assert (header.vendor_id, header.subsystem_vendor_id) == (0x1AF4, 0x1AF4)
    assert header.class_code == 0x010000
    kinds = {index: (bar.kind, bar.length or 0) for index, bar in machine.bars.items()}
    found = virtio_of(machine)
    lists = (found.common, found.notify, found.isr, found.device, found.pci_cfg)
    types = frozenset(number for number, usable in enumerate(lists, start=1) if usable)
    return Ids(header.device_id, header.subsystem_id, header.revision_id, kinds, types)


def virtio_of(machine: qemu.Machine) -> VirtioCapabilities:
    config = machine.config(machine.location)
    bars: tuple[Bar, ...] = tuple(machine.bars.values())
    return parse(config, walk(config), bars)


IO, MEMORY = "io", "memory"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param(
            "",
            Ids(
                0x1001,
                0x0002,
                0,
                {0: (IO, 0x80), 1: (MEMORY, 0x1000), 4: (MEMORY, 0x4000)},
                frozenset({1, 2, 3, 4, 5}),
            ),
            id="default on pc",
        ),
        pytest.param(
            "interface=modern",
            Ids(
                0x1042,
                0x1100,
                1,
                {1: (MEMORY, 0x1000), 4: (MEMORY, 0x4000)},
                frozenset({1, 2, 3, 4, 5}),
            ),
            id="modern",
        ),
        pytest.param(
            "interface=legacy",
            Ids(0x1001, 0x0002, 0, {0: (IO, 0x80), 1: (MEMORY, 0x1000)}, frozenset()),
            id="legacy",
        ),
        pytest.param(
            "interface=legacy&withhold=discard,write_zeroes",
            Ids(0x1001, 0x0002, 0, {0: (IO, 0x40), 1: (MEMORY, 0x1000)}, frozenset()),
            id="legacy as in 2011",
        ),
        pytest.param(
            "interface=legacy&withhold=discard,write_zeroes&vectors=0",
            Ids(0x1001, 0x0002, 0, {0: (IO, 0x40)}, frozenset()),
            id="legacy without MSI-X",
        ),
        pytest.param(
            "interface=modern&page_per_vq=on",
            Ids(
                0x1042,
                0x1100,
                1,
                {1: (MEMORY, 0x1000), 4: (MEMORY, 8 << 20)},
                frozenset({1, 2, 3, 4, 5}),
            ),
            id="page_per_vq",
        ),
    ],
)
def test_ids_and_bars(tmp_path: Path, options: str, expected: Ids) -> None:
    with machine_of(tmp_path, options) as machine:
        assert ids_of(machine) == expected


WORKING = [
    "machine=pc",
    "machine=pc&interface=modern",
    "machine=pc&interface=legacy",
    "machine=pc&interface=transitional&drive=legacy",
    "machine=q35",
    "machine=q35&root_port=off",
    "machine=q35&interface=transitional&root_port=on&drive=legacy",
    "machine=q35&interface=transitional&drive=legacy&interrupts=intx",
    "slot=30&interrupts=intx",
    "machine=q35&slot=2&interrupts=intx",
    "num_queues=4",
    "num_queues=64&queue_size=4&vectors=2",
    "queue_size=1024",
    "queue_size=4",
    "vectors=0",
    "vectors=1",
    "interface=legacy&vectors=0",
    "interface=modern&offer=access_platform",
    "offer=access_platform",
    "page_per_vq=on",
    "modern_pio_notify=on",
    "access=window",
    "iothread=on",
    "iothread=on&num_queues=2&interrupts=intx",
    "write_cache=off",
    "ram=64M",
    "ram=2G",
    "property=ioeventfd=off",
    "property=share-rw=on,bootindex=1",
    "irq=11&interrupts=intx&interface=legacy",
    "io_address=0xc300&memory_address=0xf2060000",
    "withhold=event_idx,indirect_desc,config_wce,ring_reset,discard,write_zeroes",
    "interface=legacy&withhold=notify_on_empty,any_layout",
]


@pytest.mark.parametrize("options", WORKING)
def test_a_disk_works(tmp_path: Path, options: str) -> None:
    """Its interrupts too: without them, requests would be late, and changes never heard of."""
    told = threading.Event()
    with open_disk(tmp_path, options, on_config_change=lambda config: told.set()) as disk:
        use(disk)
        qemu_of(disk.device).resize(2 * CAPACITY_BYTES)
        assert told.wait(WAIT_S)
        assert disk.capacity_bytes == 2 * CAPACITY_BYTES


@pytest.mark.parametrize("interface", ["legacy", "modern"])
def test_a_transitional_device_is_driven_as_asked(tmp_path: Path, interface: str) -> None:
    with attached(tmp_path, f"interface=transitional&drive={interface}") as transport:
        assert transport.layout.interface == interface


@pytest.mark.parametrize(
    ("options", "bit"),
    [
        ("offer=ring_packed", Feature.RING_PACKED),
        ("offer=access_platform", Feature.ACCESS_PLATFORM),
        ("num_queues=4", BlockFeature.MQ),
    ],
)
def test_a_feature_is_offered(tmp_path: Path, options: str, bit: int) -> None:
    """None of them is, if it is not asked for."""
    with attached(tmp_path, "interface=modern") as transport:
        before = transport.read_features()
    with attached(tmp_path, f"interface=modern&{options}") as transport:
        assert transport.read_features() ^ before == 1 << bit


SWITCHED_OFF = {
    "event_idx": Feature.EVENT_IDX,
    "indirect_desc": Feature.INDIRECT_DESC,
    "config_wce": BlockFeature.CONFIG_WCE,
    "ring_reset": Feature.RING_RESET,
    "notify_on_empty": Feature.NOTIFY_ON_EMPTY,
    "any_layout": Feature.ANY_LAYOUT,
    "discard": BlockFeature.DISCARD,
    "write_zeroes": BlockFeature.WRITE_ZEROES,
}


@pytest.mark.parametrize("name", SWITCHED_OFF)
def test_a_feature_is_withheld(tmp_path: Path, name: str) -> None:
    """Each of them is offered otherwise, on the interface that has it."""
    bit = SWITCHED_OFF[name]
    way = "interface=modern"
    if bit in (Feature.NOTIFY_ON_EMPTY, Feature.ANY_LAYOUT):
        way = "interface=transitional&drive=legacy"
    with attached(tmp_path, way) as transport:
        before = transport.read_features()
    with attached(tmp_path, f"{way}&withhold={name}") as transport:
        assert transport.read_features() ^ before == 1 << bit


def test_what_is_insisted_on_is_offered(tmp_path: Path) -> None:
    """Here something that is off unless it is asked for."""
    with open_disk(tmp_path, "access_platform=on") as disk:
        assert disk.device.has(Feature.ACCESS_PLATFORM)
        use(disk)


def test_in_order_needs_qemu_10(tmp_path: Path) -> None:
    with machine_of(tmp_path, "") as machine:
        version = machine.version
    if version >= QEMU_10:
        with open_disk(tmp_path, "offer=in_order") as disk:
            assert Feature.IN_ORDER in offered(disk)
            use(disk)
        return
    with pytest.raises(vioblk.TransportError, match=r"in_order.*not found; .*from QEMU 10 on"):
        open_disk(tmp_path, "offer=in_order")


@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_bit_30_is_offered_by_the_legacy_interface_and_never_accepted(
    tmp_path: Path, machine: str
) -> None:
    options = f"machine={machine}&interface=transitional&root_port=off&drive=legacy"
    with open_disk(tmp_path, options) as disk:
        assert UNNEGOTIABLE_BIT in offered(disk)
        assert not disk.device.has(UNNEGOTIABLE_BIT)


@pytest.mark.parametrize(("num_queues", "vectors"), [(1, 2), (4, 5)])
def test_there_is_a_vector_for_each_queue_and_one_more(
    tmp_path: Path, num_queues: int, vectors: int
) -> None:
    with open_disk(
        tmp_path, f"num_queues={num_queues}&interrupts=msix", queue_count=num_queues
    ) as disk:
        platform = qemu_of(disk.device)
        msix = walk(platform.config).msix
        assert msix is not None
        assert msix.vector_count == vectors
        assert (BlockFeature.MQ in offered(disk)) == (num_queues > 1)
        assert len(disk.info.queues) == num_queues
        use(disk)


def test_without_vectors_there_is_no_msix(tmp_path: Path) -> None:
    with open_disk(tmp_path, "vectors=0") as disk:
        platform = qemu_of(disk.device)
        assert walk(platform.config).msix is None
        transport = disk.device.transport
        assert isinstance(transport, PciTransport)
        assert transport.interrupts.mode == "intx"


@pytest.mark.parametrize("size", [4, 256, 1024])
def test_the_queue_size_is_as_asked(tmp_path: Path, size: int) -> None:
    with attached(tmp_path, f"queue_size={size}&interface=modern") as transport:
        assert transport.queue_size_max(0) == size
        assert transport.queue_size_max(1) == 0


@pytest.mark.parametrize(
    ("options", "multiplier"), [("page_per_vq=on", 4096), ("interface=modern", 4)]
)
def test_the_notify_multiplier(tmp_path: Path, options: str, multiplier: int) -> None:
    with machine_of(tmp_path, options) as machine:
        (notify,) = virtio_of(machine).notify
        assert notify.multiplier == multiplier


def test_a_second_notify_capability_is_listed_first_and_in_an_io_bar(tmp_path: Path) -> None:
    with machine_of(tmp_path, "modern_pio_notify=on&interface=modern") as machine:
        first, second = virtio_of(machine).notify
        assert (machine.bars[first.bar].kind, first.multiplier) == (IO, 0)
        assert (machine.bars[second.bar].kind, second.multiplier) == (MEMORY, 4)


def test_the_serial_number_is_cut_after_20_bytes(tmp_path: Path) -> None:
    with open_disk(tmp_path, "serial=a,b=c d") as disk:
        assert disk.serial == "a,b=c d"
    with open_disk(tmp_path, "property=serial=abcdefghijklmnopqrstuvwxyz") as disk:
        assert disk.serial == "abcdefghijklmnopqrst"


def test_a_disk_without_write_cache_starts_in_writethrough_and_still_flushes(
    tmp_path: Path,
) -> None:
    with attached(tmp_path, "write_cache=off") as transport:
        assert transport.read_config(WRITEBACK_OFFSET, 1) == b"\0"
        assert transport.read_features() >> BlockFeature.FLUSH & 1
    with attached(tmp_path, "write_cache=on") as transport:
        assert transport.read_config(WRITEBACK_OFFSET, 1) == b"\1"


def test_a_read_only_disk(tmp_path: Path) -> None:
    with open_disk(tmp_path, "read_only=on") as disk:
        assert disk.read_only
        assert disk.read(0, SECTOR) == bytes(SECTOR)
        with pytest.raises(vioblk.ReadOnlyError):
            disk.write(0, bytes(SECTOR))


def test_another_format(tmp_path: Path) -> None:
    image = blank_image(tmp_path / "disk.qcow2", 8 << 20, "qcow2")
    for _ in range(2):
        with vioblk.open(f"qemu:{image}?format=qcow2") as disk:
            assert disk.capacity_bytes == 8 << 20
            use(disk)


def test_behind_a_root_port_it_is_a_modern_pci_express_device(tmp_path: Path) -> None:
    with machine_of(tmp_path, "machine=q35") as machine:
        assert ids_of(machine).device == 0x1042
        capabilities = walk(machine.config(machine.location))
        assert capabilities.pcie is not None
        assert capabilities.function_level_reset
        assert str(machine.location) == "0000:01:00.0"


def test_a_slow_disk_that_has_no_content() -> None:
    with vioblk.open("qemu:null:16M?latency=0.05") as disk:
        assert disk.capacity_bytes == 16 << 20
        before = time.monotonic()
        assert disk.read(0, SECTOR) == bytes(SECTOR)
        assert time.monotonic() - before >= 0.05


def test_requests_fail_as_injected(tmp_path: Path) -> None:
    rules = "inject=read:sector=7,write:sector=9:errno=ENOSPC:once"
    with open_disk(tmp_path, rules) as disk:
        for _ in range(2):
            with pytest.raises(vioblk.RequestFailedError):
                disk.read(7 * SECTOR, SECTOR)
        assert disk.read(8 * SECTOR, SECTOR) == bytes(SECTOR)
        with pytest.raises(vioblk.RequestFailedError):
            disk.write(9 * SECTOR, bytes(SECTOR))
        disk.write(9 * SECTOR, bytes(SECTOR))
