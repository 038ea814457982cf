"""The PCI transport on machines: the software device as a function, and QEMU's own devices."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

import vioblk
from tests.clauses import clause
from vioblk._native import split_layout
from vioblk.block.disk import BlockDevice
from vioblk.block.request import REQUEST_RECORD, RequestType
from vioblk.features import Feature
from vioblk.pci.modern import ModernLayout
from vioblk.ring import Chain, reference
from vioblk.status import Status
from vioblk.transport.base import QueueAddresses
from vioblk.transport.pci import INTERRUPT_MODES, PciTransport
from vioblk.transport.qemu.platform import QemuPlatform
from vioblk.transport.software_pci import SoftwarePciTransport

WAIT_S: Final = 30.0
CAPACITY_BYTES: Final = 4 << 20

MACHINES: Final = {
    "one-queue": "mem:4M?bus=pci",
    "software": "mem:4M?bus=pci&queues=2",
    "modern": "qemu:{image}?interface=modern&num_queues=2",
    "legacy": "qemu:{image}?interface=legacy&num_queues=2",
    "transitional": "qemu:{image}?interface=transitional&drive=legacy",
    "root-port": "qemu:{image}?machine=q35&num_queues=2",
}

Open = Callable[..., BlockDevice]


@pytest.fixture
def open_disk(tmp_path: Path) -> Iterator[Open]:
    image = tmp_path / "disk.raw"
    with image.open("wb") as file:
        file.truncate(CAPACITY_BYTES)
    with ExitStack() as stack:

        def open_disk(machine: str, options: str = "", **keywords: object) -> BlockDevice:
            address = MACHINES[machine].format(image=image)
            disk = vioblk.open(f"{address}{options}", **keywords)  # type: ignore[arg-type]
            stack.enter_context(disk)
            return disk

        yield open_disk


def transport_of(disk: BlockDevice) -> PciTransport:
    transport = disk.device.transport
    assert isinstance(transport, PciTransport)
    return transport


def use(disk: BlockDevice) -> None:
    """Enough requests for the ring to wrap, and for interrupts to come late and early."""
    block = bytes(range(256)) * 16
    for offset in range(0, 64 * len(block), len(block)):
        disk.write(offset, block)
    disk.flush()
    for offset in range(0, 64 * len(block), len(block)):
        assert disk.read(offset, len(block)) == block


def resize(disk: BlockDevice, size_bytes: int) -> None:
    transport = transport_of(disk)
    if isinstance(transport, SoftwarePciTransport):
        transport.device.resize(size_bytes // 512)
    else:
        assert isinstance(transport.platform, QemuPlatform)
        transport.platform.resize(size_bytes)


def assert_no_violation(disk: BlockDevice) -> None:
    """The software device says what was done to its registers and to its configuration space that
    may not be."""
    transport = transport_of(disk)
    if isinstance(transport, SoftwarePciTransport):
        assert (transport.face.violations, transport.config.violations) == ([], [])


@clause("PCI-LEG-01", "PCI-LEG-03")
@pytest.mark.parametrize("interrupts", INTERRUPT_MODES)
@pytest.mark.parametrize("machine", sorted(set(MACHINES) - {"one-queue"}))
def test_requests_and_changes_come_by_every_kind_of_interrupt(
    open_disk: Open, machine: str, interrupts: str
) -> None:
    changed = threading.Event()
    disk = open_disk(
        machine, f"&interrupts={interrupts}", on_config_change=lambda config: changed.set()
    )
    mode = transport_of(disk).interrupts.mode
    assert mode == ("msix" if interrupts == "auto" else interrupts)
    use(disk)
    resize(disk, 2 * CAPACITY_BYTES)
    if interrupts != "none":
        assert changed.wait(WAIT_S)
        assert disk.capacity_bytes == 2 * CAPACITY_BYTES
        disk.write(2 * CAPACITY_BYTES - 512, bytes(512))
    use(disk)
    assert_no_violation(disk)


@clause("PCI-LEG-03")
@pytest.mark.parametrize("interrupts", ["msix", "intx"])
def test_the_configuration_of_a_legacy_device_is_found_with_and_without_msix(
    open_disk: Open, interrupts: str
) -> None:
    disk = open_disk("legacy", f"&interrupts={interrupts}")
    assert disk.capacity_bytes == CAPACITY_BYTES
    disk.reset()
    assert disk.capacity_bytes == CAPACITY_BYTES
    use(disk)


@pytest.mark.parametrize("machine", sorted(set(MACHINES) - {"one-queue"}))
def test_a_device_that_was_reset_is_heard_again(open_disk: Open, machine: str) -> None:
    changed = threading.Event()
    disk = open_disk(machine, on_config_change=lambda config: changed.set())
    for _ in range(2):
        disk.reset()
        use(disk)
    resize(disk, 2 * CAPACITY_BYTES)
    assert changed.wait(WAIT_S)
    assert_no_violation(disk)


@clause("PCI-CFGACC-01", "PCI-CFGACC-02", "PCI-CFGACC-03")
@pytest.mark.parametrize("machine", ["software", "modern", "root-port"])
@pytest.mark.parametrize("interrupts", ["auto", "shared", "intx"])
def test_a_device_is_driven_through_the_window_alone(
    open_disk: Open, machine: str, interrupts: str
) -> None:
    disk = open_disk(machine, f"&access=window&interrupts={interrupts}")
    transport = transport_of(disk)
    assert transport.choice.notify_window is not None
    if isinstance(transport, SoftwarePciTransport):
        # None of the doorbells is stored to but by the window.
        assert "notifications" in transport.choice.reason
    use(disk)
    disk.reset()
    use(disk)
    assert_no_violation(disk)


@clause("PCI-NOTIFY-01", "PCI-NOTIFY-03")
@pytest.mark.parametrize("multiplier", [0, 2, 4, 4096])
def test_without_data_two_bytes_hold_the_index(open_disk: Open, multiplier: int) -> None:
    disk = open_disk("one-queue", f"&notify_multiplier={multiplier}")
    assert {store[:2] for store in notifications(disk)} == {(2, 0)}


@clause("PCI-NOTIFY-02", "PCI-NOTIFY-04")
def test_with_data_four_bytes_hold_the_index_and_the_position(open_disk: Open) -> None:
    disk = open_disk("one-queue", "&offer=notification_data")
    stores = notifications(disk)
    assert {store[:2] for store in stores} == {(4, 0)}
    positions = [upper for _, _, upper in stores]
    assert positions == sorted(set(positions))
    assert positions[0] > 0


@clause("PCI-NOTIFY-05", "RSVD-09")
def test_with_configured_data_two_bytes_hold_what_the_device_asked_for(open_disk: Open) -> None:
    disk = open_disk("one-queue", "&offer=notif_config_data")
    assert disk.device.has(Feature.NOTIF_CONFIG_DATA)
    assert {store[:2] for store in notifications(disk)} == {(2, configured_data(disk))}


@clause("PCI-NOTIFY-06")
def test_with_both_the_lower_half_holds_what_the_device_asked_for(open_disk: Open) -> None:
    disk = open_disk("one-queue", "&offer=notification_data,notif_config_data")
    assert {store[:2] for store in notifications(disk)} == {(4, configured_data(disk))}


def notifications(disk: BlockDevice) -> list[tuple[int, int, int]]:
    """(width, lower half, upper half) of each store to a doorbell that a few requests lead to."""
    transport = transport_of(disk)
    assert isinstance(transport, SoftwarePciTransport)
    start, length = transport.face.structures["notify"]
    for index in range(8):
        disk.write(512 * index, bytes(512))
    assert transport.face.violations == []
    return [
        (width, value & 0xFFFF, value >> 16)
        for offset, width, value, written in transport.face.accesses
        if written and start <= offset < start + length
    ]


def configured_data(disk: BlockDevice) -> int:
    """What the device wants to be notified of queue 0 with. It is not the index."""
    value = transport_of(disk).layout.notify_place(0).value
    assert value != 0
    return value


@clause("PCI-VQRESET-02", "PCI-VQRESET-03")
@pytest.mark.parametrize("machine", ["software", "modern"])
def test_one_queue_is_reset_and_used_again_with_another_size(open_disk: Open, machine: str) -> None:
    offer = "" if machine == "modern" else "&offer=ring_reset"
    transport = transport_of(open_disk(machine, offer))
    layout = transport.layout
    assert isinstance(layout, ModernLayout)
    # By hand, as no driver here negotiates it.
    transport.write_status(0)
    assert transport.read_status() == 0
    transport.write_status(Status.ACKNOWLEDGE | Status.DRIVER)
    transport.write_features(1 << Feature.VERSION_1 | 1 << Feature.RING_RESET)
    negotiated = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK
    transport.write_status(negotiated)
    assert transport.read_status() == negotiated
    enable(transport, 64)
    transport.write_status(negotiated | Status.DRIVER_OK)
    layout.reset_queue(0)
    layout.set_queue_vector(0, 0)
    serial = read_serial(transport, *enable(transport, 32))
    assert len(serial) == 20


@clause("VQRESET-01", "VQRESET-03", "PCI-VQRESET-02", "PCI-VQRESET-03")
@pytest.mark.parametrize("interrupts", ["msix", "shared", "intx"])
@pytest.mark.parametrize("machine", ["software", "modern", "root-port"])
def test_a_disk_resets_one_queue_and_the_other_goes_on(
    open_disk: Open, machine: str, interrupts: str
) -> None:
    offer = "&offer=ring_reset" if machine == "software" else ""
    disk = open_disk(machine, f"{offer}&interrupts={interrupts}", queue_count=2)
    stop = threading.Event()
    raised: list[Exception] = []

    def go_on() -> None:
        with disk.alloc(4096) as region:
            record = REQUEST_RECORD.pack(RequestType.IN, 0, 0, 0, 4096, region.handle, 0)
            try:
                while not stop.is_set():
                    disk.execute(record, bytearray(1), WAIT_S, queue=0)
            except vioblk.VioblkError as error:
                raised.append(error)

    other = threading.Thread(target=go_on)
    other.start()
    try:
        for size in (64, 256, 16):
            with disk.alloc(4096 * 8) as region:
                reads = b"".join(
                    REQUEST_RECORD.pack(
                        RequestType.IN, 0, 8 * index, 4096 * index, 4096, region.handle, index
                    )
                    for index in range(8)
                )
                assert disk.submit_many(reads, queue=1) == 8
                lost = disk.reset_queue(1, size)
                assert set(lost) <= set(range(8))
            assert disk.info.queues[1].size == size
            use(disk)
    finally:
        stop.set()
        other.join(WAIT_S)
    assert not other.is_alive()
    assert raised == []
    assert_no_violation(disk)


def enable(transport: PciTransport, size: int) -> tuple[reference.SplitQueue, Callable[[], None]]:
    """Enable queue 0 at fresh memory; its ring, and how to notify."""
    if not transport.space.mappings:
        transport.map_memory(1 << 20)
    layout = split_layout(size)
    region = transport.space.alloc(layout.length)
    start = region.device_address
    addresses = QueueAddresses(
        size,
        start + layout.descriptors_offset,
        start + layout.available_offset,
        start + layout.used_offset,
    )
    wires = transport.enable_queue(0, addresses)
    assert wires.doorbell is not None
    return reference.SplitQueue(region, size), wires.doorbell.ring


def read_serial(
    transport: PciTransport, ring: reference.SplitQueue, notify: Callable[[], None]
) -> bytes:
    request = transport.space.alloc(64)
    view = memoryview(request)
    view[0] = 8  # GET_ID
    ring.push(Chain([(request, 0, 16)], [(request, 16, 20), (request, 36, 1)]))
    view[36] = 0xFF
    ring.publish()
    notify()
    for _ in range(10_000):
        if ring.reap():
            break
        threading.Event().wait(0.001)
    assert view[36] == 0
    data = bytes(view[16:36])
    view.release()
    return data


def test_the_function_that_is_pulled_out_is_left_alone(open_disk: Open) -> None:
    disk = open_disk("software")
    transport = transport_of(disk)
    assert isinstance(transport, SoftwarePciTransport)
    use(disk)
    transport.face.remove()
    with pytest.raises(vioblk.DeviceGoneError):
        disk.device.refresh_state()
    with pytest.raises(vioblk.DeviceGoneError):
        disk.read(0, 512)
    count = transport.face.access_count
    disk.close()
    assert transport.face.access_count == count
