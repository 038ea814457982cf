"""How QEMU's disk behaves where the specification leaves it open, and what a driver therefore has
to be prepared for."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

import vioblk
from tests.clauses import clause
from tests.conftest import RingName
from tests.interop.qemu_machines import (
    CAPACITY_SECTORS,
    LEGACY_WAYS,
    MODERN_WAYS,
    WAIT_S,
    WAYS,
    Way,
    blank_disk,
    content_of,
    numbered_disk,
    on,
    poll,
    settle,
)
from tests.interop.raw_disk import SEGMENT, RawDisk, RawDriver, raw_disk
from tests.support.qemu import qemu_of
from vioblk.block.request import (
    ID_BYTES,
    REQUEST_RECORD,
    STATUS_PENDING,
    UNMAP,
    RequestStatus,
    RequestType,
)
from vioblk.device import VirtioDevice
from vioblk.features import Feature
from vioblk.pci.command import Command, read_command
from vioblk.pci.layout import ISR_CONFIG, ISR_QUEUE
from vioblk.pci.modern import ModernLayout
from vioblk.ring.raw import NO_INTERRUPT, NO_NOTIFY
from vioblk.ring.reference import SplitQueue
from vioblk.status import Status
from vioblk.transport.base import QueueAddresses
from vioblk.transport.pci import PciTransport
from vioblk.transport.qemu import attach, start
from vioblk.transport.qemu.interrupts import InterruptLines

# Negotiation


def features_ok(transport: PciTransport, accepted: int) -> bool:
    """Whether FEATURES_OK sticks."""
    before = Status.ACKNOWLEDGE | Status.DRIVER
    transport.write_status(0)
    assert transport.read_status() == 0
    transport.write_status(before)
    transport.write_features(accepted)
    transport.write_status(before | Status.FEATURES_OK)
    return bool(transport.read_status() & Status.FEATURES_OK)


@pytest.mark.parametrize("offer", ["", "&offer=access_platform"], ids=["plain", "access_platform"])
@on(MODERN_WAYS)
def test_features_ok_is_refused_only_without_an_offered_access_platform(
    way: Way, offer: str
) -> None:
    address = f"qemu:null:1M?{way.options}{offer}"
    if offer:
        address = address.replace("interface=transitional&drive=modern", "interface=modern")
    with start(address, interrupts="none") as machine:
        transport = attach(machine)
        offered = transport.read_features()
        bits = [bit for bit in range(128) if offered >> bit & 1]
        assert (Feature.ACCESS_PLATFORM in bits) is bool(offer)
        refused = [bit for bit in bits if not features_ok(transport, offered & ~(1 << bit))]
        assert refused == ([Feature.ACCESS_PLATFORM] if offer else [])
        assert features_ok(transport, 1 << Feature.ACCESS_PLATFORM if offer else 0)
        transport.close()


@clause("INIT-09")
def test_a_refusal_is_a_clear_error() -> None:
    with pytest.raises(vioblk.NegotiationError, match="it cleared FEATURES_OK"):
        vioblk.open("qemu:null:1M?offer=access_platform&access_platform=off")


# Requests


@on(WAYS)
def test_used_lengths(tmp_path: Path, way: Way) -> None:
    address = f"qemu:{numbered_disk(tmp_path)}?{way.options}"
    with raw_disk(address, serial="parity") as disk:
        read = disk.request(RequestType.IN, 7, in_bytes=4096)
        assert disk.queue.run(read).length == 4097
        assert read.data[:512] == content_of(7)
        write = disk.request(RequestType.OUT, 7, out=bytes(4096))
        assert disk.queue.run(write).length == 1
        flush = disk.request(RequestType.FLUSH)
        assert disk.queue.run(flush).length == 1
        serial = disk.request(RequestType.GET_ID, in_bytes=ID_BYTES)
        assert disk.queue.run(serial).length == ID_BYTES + 1
        assert serial.data == b"parity\0".ljust(ID_BYTES, b"\xee"), "less than the length says"
        assert {each.status for each in (read, write, flush, serial)} == {RequestStatus.OK}


@on(WAYS)
def test_an_unknown_type_is_unsupported(way: Way) -> None:
    with raw_disk(f"qemu:null:1M?{way.options}") as disk:
        for kind in (99, 0x7FFFFFFE, 0xFFFFFFFE):
            request = disk.request(kind, in_bytes=512)
            disk.queue.run(request)
            assert request.status == RequestStatus.UNSUPP
        assert request.data == b"\xee" * 512, "nothing was written"


@on(WAYS)
def test_out_of_range_and_odd_lengths_are_io_errors(tmp_path: Path, way: Way) -> None:
    image = numbered_disk(tmp_path)
    with raw_disk(f"qemu:{image}?{way.options}") as disk:
        for sector, length_bytes in (
            (CAPACITY_SECTORS, 512),
            (CAPACITY_SECTORS - 1, 1024),
            ((1 << 55) - 1, 512),
            (0, 511),
        ):
            read = disk.request(RequestType.IN, sector, in_bytes=length_bytes)
            write = disk.request(RequestType.OUT, sector, out=b"x" * length_bytes)
            for request in (read, write):
                disk.queue.run(request)
                assert request.status == RequestStatus.IOERR, (sector, length_bytes)
    assert image.stat().st_size == CAPACITY_SECTORS * 512
    assert image.read_bytes()[:512] == content_of(0)


# Two segments and reserved flags: in test_qemu_parity.


@clause("BLK-DISCARD-02")
def test_a_discard_that_may_unmap_is_unsupported(tmp_path: Path) -> None:
    """So the driver, which has the flag zero, is shown to leave it so by its discards' success."""
    address = f"qemu:{blank_disk(tmp_path)}"
    with raw_disk(address) as disk:
        request = disk.request(RequestType.DISCARD, out=SEGMENT.pack(0, 1, UNMAP))
        disk.queue.run(request)
        assert request.status == RequestStatus.UNSUPP
    with vioblk.open(address) as whole:
        whole.discard(0, 4096)


# Interrupts


@pytest.mark.parametrize("negotiated", [False, True])
@on(LEGACY_WAYS)
def test_notify_on_empty_overrides_no_interrupt(way: Way, negotiated: bool) -> None:
    def insist(device: VirtioDevice) -> None:
        """The package never accepts it; on this interface it can still be written now."""
        assert Feature.NOTIFY_ON_EMPTY in device.offered
        if negotiated:
            device.transport.write_features(device.accepted.mask | 1 << Feature.NOTIFY_ON_EMPTY)

    driver = RawDriver(vectors=True, before_queues=insist)
    with raw_disk(f"qemu:null:1M?{way.options}", driver) as disk:
        disk.queue.raw.available_flags = NO_INTERRUPT
        disk.queue.run(disk.request(RequestType.IN, in_bytes=512))
        settle(disk.platform)
        assert disk.vectors.arrived(1) is negotiated
        disk.queue.raw.available_flags = 0
        disk.vectors.forget(1)
        disk.queue.run(disk.request(RequestType.IN, in_bytes=512))
        disk.vectors.wait(1)


@pytest.mark.parametrize("slot", [2, 3, 4, 6])
@pytest.mark.parametrize("machine", ["pc", "q35&root_port=off"])
def test_the_pin_of_each_slot_comes_out_where_it_is_listened_to(
    monkeypatch: pytest.MonkeyPatch, machine: str, slot: int
) -> None:
    """Those of neighbouring slots are connected to different inputs."""
    levels: list[bool] = []
    listen = InterruptLines.listen

    def recording(self: InterruptLines, line: int, call: Callable[[bool], None]) -> None:
        def record(level: bool) -> None:
            levels.append(level)
            call(level)

        listen(self, line, record)

    monkeypatch.setattr(InterruptLines, "listen", recording)
    with raw_disk(f"qemu:null:1M?machine={machine}&slot={slot}", interrupts="intx") as disk:
        disk.queue.run(disk.request(RequestType.IN, in_bytes=512))
        settle(disk.platform)
        assert True in levels


@on(WAYS)
def test_a_resize_sets_both_bits_of_the_isr(tmp_path: Path, way: Way) -> None:
    with raw_disk(f"qemu:{blank_disk(tmp_path)}?{way.options}") as disk:
        assert disk.layout.read_isr() == 0
        disk.platform.resize(1 << 20)
        assert poll(disk.layout.read_isr) == ISR_QUEUE | ISR_CONFIG
        assert disk.layout.read_isr() == 0, "reading clears it"


@on(WAYS)
def test_messages_set_the_isr_as_well(way: Way) -> None:
    with raw_disk(f"qemu:null:1M?{way.options}", RawDriver(vectors=True)) as disk:
        disk.queue.run(disk.request(RequestType.IN, in_bytes=512))
        disk.vectors.wait(1)
        assert disk.layout.read_isr() == ISR_QUEUE


# IN_ORDER

LOST_AFTER_S = 0.5


@pytest.mark.parametrize(
    ("ring_size", "options"),
    [(32, ""), (32, "&packed=on"), (31, "&packed=on&indirect_desc=off")],
    ids=["split-full", "packed-full", "packed-odd"],
)
def test_in_order_loses_requests_that_fill_the_ring_and_a_reset_brings_the_disk_back(
    tmp_path: Path, known_properties: frozenset[str], ring_size: int, options: str
) -> None:
    """QEMU 10.0 never returns them, nor some of a packed ring whose size is no power of two, nor
    some of a ring as large as the device's largest if they end out of order. Later ones may; what
    matters is that it comes to a clear end here, and that nothing is lost for good."""
    address = f"qemu:{numbered_disk(tmp_path)}?interface=modern&in_order=on{options}"
    if "in_order" not in known_properties:
        with pytest.raises(vioblk.TransportError, match="in_order is known from QEMU 10 on"):
            vioblk.open(address)
        return
    with vioblk.open(address, ring_size=ring_size, timeout_s=WAIT_S) as disk:
        region = disk.alloc(64 * 512)
        batch = b"".join(
            # Every other sector: QEMU would make one request of neighbours.
            REQUEST_RECORD.pack(
                RequestType.IN, 0, 2 * index, 512 * index, 512, region.handle, index
            )
            for index in range(32)
        )
        statuses = bytearray([STATUS_PENDING] * 32)
        try:
            disk.execute(batch, statuses, LOST_AFTER_S)
        except vioblk.RequestTimeoutError:
            assert STATUS_PENDING in statuses
            with pytest.raises(BufferError):
                region.close()
            disk.reset(WAIT_S)
        else:
            assert statuses == bytes(32)
        region.close()
        assert disk.read(7 * 512, 512) == content_of(7)


# Reset

LATENCY_S = 0.1


@on(WAYS)
def test_a_reset_waits_for_requests_in_flight_and_fills_the_used_ring(way: Way) -> None:
    with raw_disk(f"qemu:null:1M?{way.options}&latency={LATENCY_S}") as disk:
        # On a machine that is busy with something else they may end before the reset begins.
        assert poll(lambda: resets_with_requests_in_flight(disk))
        disk.queue.run(disk.request(RequestType.IN, in_bytes=512))


def resets_with_requests_in_flight(disk: RawDisk) -> bool:
    """Whether they were in flight; those that were have been waited for."""
    requests = [disk.request(RequestType.IN, 2 * index, in_bytes=512) for index in range(4)]
    started = time.monotonic()
    for request in requests:
        disk.queue.publish(request)
    disk.notify()
    were_in_flight = disk.queue.raw.used_index == 0
    disk.transport.write_status(0)
    assert poll(lambda: disk.transport.read_status() == 0)
    assert time.monotonic() - started >= LATENCY_S
    assert disk.queue.raw.used_index == 4, "the device wrote to memory until then"
    assert {request.status for request in requests} == {RequestStatus.OK}
    disk.restart()
    return bool(were_in_flight)


@clause("CLEAN-02")
def test_buffers_in_flight_are_free_only_after_the_reset(tmp_path: Path, ring: RingName) -> None:
    with vioblk.open(f"qemu:null:1M?latency={LATENCY_S}", ring=ring) as disk:
        region = disk.alloc(4 * 512)
        batch = b"".join(
            REQUEST_RECORD.pack(RequestType.IN, 0, index, 512 * index, 512, region.handle, index)
            for index in range(4)
        )
        assert disk.submit_many(batch) == 4
        with pytest.raises(BufferError):
            region.close()
        lost = disk.reset(WAIT_S)
        assert sorted(lost[0]) == [0, 1, 2, 3]
        region.close()


# Reset of a queue


@on(MODERN_WAYS)
def test_a_queue_reset_leaves_requests_in_flight_which_end_in_the_ring_that_comes_next(
    tmp_path: Path, way: Way
) -> None:
    """It is confirmed at once, although the device goes on to write to the buffers, and then to a
    ring that knows nothing of them. So a driver must not ask for one while requests are in flight
    (VIRTIO 1.4, 2.6.1 Virtqueue Reset, expects that the device touches none of them any more)."""
    with raw_disk(f"qemu:{numbered_disk(tmp_path)}?{way.options}") as disk:
        disk.platform.hold_requests("read")
        request = disk.request(RequestType.IN, 7, in_bytes=512)
        disk.queue.publish(request)
        disk.notify()
        assert disk.platform.queue_status(0)["inuse"] == 1
        # Not by the transport, which is careful.
        assert isinstance(disk.layout, ModernLayout)
        disk.layout.reset_queue(0)
        assert disk.platform.queue_status(0)["inuse"] == 0
        assert request.data == b"\xee" * 512
        layout = disk.queue.ring.layout
        region = disk.device.memory.alloc(layout.length)
        ring = SplitQueue(region, disk.queue.ring.size, strict=True)
        start = region.device_address
        disk.transport.enable_queue(
            0,
            QueueAddresses(
                ring.size,
                start + layout.descriptors_offset,
                start + layout.available_offset,
                start + layout.used_offset,
            ),
        )
        disk.platform.release_requests("read")
        assert poll(lambda: ring.raw.used_index == 1), "of a ring with nothing in it"
        assert (request.status, request.data) == (RequestStatus.OK, content_of(7))
        with pytest.raises(vioblk.QueueBroken):
            ring.reap()
        disk.restart()
        disk.queue.run(disk.request(RequestType.IN, 7, in_bytes=512))


# Memory

NOWHERE = 0x70_0000_0000
"""No memory of the machine, and no device."""


@on(WAYS)
def test_reading_to_addresses_without_memory_seems_to_succeed(tmp_path: Path, way: Way) -> None:
    """So a driver must never rely on the device to find such a mistake."""
    with raw_disk(f"qemu:{numbered_disk(tmp_path)}?{way.options}") as disk:
        request = disk.request(RequestType.IN, 7, in_bytes=512)
        head = disk.queue.ring.push(request.chain())
        data = disk.queue.raw.read_descriptor(head).next
        _, length, flags, next_index = disk.queue.raw.read_descriptor(data)
        disk.queue.raw.write_descriptor(data, NOWHERE, length, flags, next_index)
        disk.queue.ring.publish()
        disk.queue.notify()
        assert disk.queue.reap()[0].written_bytes == 513
        assert request.status == RequestStatus.OK
        assert request.data == b"\xee" * 512


@on(WAYS)
def test_without_bus_mastering_nothing_is_served_until_it_is_back_and_notified_again(
    tmp_path: Path, way: Way
) -> None:
    with raw_disk(f"qemu:{numbered_disk(tmp_path)}?{way.options}") as disk:
        platform = disk.platform
        assert Command.BUS_MASTER in read_command(platform.config)
        platform.set_bus_master(False)
        request = disk.request(RequestType.IN, 7, in_bytes=512)
        disk.queue.publish(request)
        disk.notify()
        settle(platform)
        assert disk.queue.raw.used_index == 0
        platform.set_bus_master(True)
        settle(platform)
        assert disk.queue.raw.used_index == 0, "the notification was lost"
        disk.queue.notify()
        disk.queue.reap()
        assert (request.status, request.data) == (RequestStatus.OK, content_of(7))


# Threads

THREAD = "/objects/thread0"
POLL_NS = 1_000_000_000


@on(WAYS)
def test_an_iothread_serves_what_it_was_not_notified_of(tmp_path: Path, way: Way) -> None:
    """While it polls it asks not to be notified, and serves a driver that obeys all the same."""
    address = f"qemu:{numbered_disk(tmp_path)}?{way.options}&iothread=on"
    with raw_disk(address) as disk:
        disk.platform.qmp("qom-set", path=THREAD, property="poll-max-ns", value=POLL_NS)
        # It polls longer each time that polling would have been worth it.
        assert poll(lambda: is_served_without_notification(disk))


def is_served_without_notification(disk: RawDisk) -> bool:
    """Make a request available, and notify the device unless it asks not to be."""
    request = disk.request(RequestType.IN, 7, in_bytes=512)
    disk.queue.publish(request)
    # Python has no fence, which is needed here; what this does is more than one.
    disk.platform.config.read(0, 2)
    asked_not_to = bool(disk.queue.raw.used_flags == NO_NOTIFY)
    if not asked_not_to:
        disk.notify()
    disk.queue.reap()
    assert (request.status, request.data) == (RequestStatus.OK, content_of(7))
    return asked_not_to


@clause("SPLIT-KICK-03")
def test_a_driver_does_not_notify_an_iothread_that_polls(tmp_path: Path) -> None:
    address = f"qemu:{numbered_disk(tmp_path)}?iothread=on&event_idx=off"
    with vioblk.open(address, timeout_s=WAIT_S) as disk:
        qemu_of(disk.device).qmp("qom-set", path=THREAD, property="poll-max-ns", value=POLL_NS)

        def is_served_without() -> bool:
            kicks = disk.info.queues[0].kick_count
            assert disk.read(0, 512) == content_of(0)
            return disk.info.queues[0].kick_count == kicks

        assert poll(is_served_without)
