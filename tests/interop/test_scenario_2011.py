"""The scene of the 2011 port: a disk on a PCI bus is found, known for what it is, attached, used,
let go of and attached again. On the very machine of then, and on one of today."""

import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import vioblk
from tests.clauses import clause
from tests.cli.command import succeeds
from tests.conftest import RingName
from tests.interop.eras import (
    CAPACITY_BYTES,
    ERAS,
    IO_ADDRESS,
    IRQ,
    MEMORY_ADDRESS,
    PORT_2011,
    DiskIn,
    Era,
    disk_of,
)
from tests.interop.qemu_machines import poll
from tests.support.leaks import no_leaks
from tests.support.qemu import qemu_of
from tests.support.qemu_trace import QemuTrace
from tests.support.rings import rings_in_turn
from vioblk import rng
from vioblk.block import attach as block
from vioblk.block.features import BLOCK_DEVICE_TYPE
from vioblk.bus import Bus, BusState
from vioblk.candidate import AddressCandidate
from vioblk.discovery import FoundDevice, PciFunction
from vioblk.discovery.describe import describe
from vioblk.driver import BusDriver
from vioblk.pci.command import Command
from vioblk.pci.header import read_header
from vioblk.pci.location import Location
from vioblk.transport import qemu
from vioblk.transport.qemu.interrupts import InterruptLines

PIIX3 = Location(0, 1)
PIRQA_ROUTING = 0x60

DATA = bytes(range(256)) * 32

on_both = pytest.mark.parametrize("era", ERAS, ids=[era.name for era in ERAS])
on_both_by_a_ring = rings_in_turn("era", ERAS)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(CAPACITY_BYTES)
    return path


# Finding


def test_the_listing_says_what_pciconf_said_in_2011(image: Path) -> None:
    """Name and place, class, card and chip; then the BARs, as they were in the post."""
    address = PORT_2011.address(image)
    listing = succeeds("list", "-v", address).decode()
    first, *lines = listing[: listing.index("none1@")].splitlines()
    assert first == (
        "none0@pci0:0:5:0: class=0x010000 card=0x00021af4 chip=0x10011af4 rev=0x00 hdr=0x00"
    )
    said = dict(re.split(r"\s*= ", line.strip(), maxsplit=1) for line in lines)
    assert said == {
        "address": "0000:00:05.0",
        "vendor": "'Red Hat, Inc.'",
        "device": "'Virtio block' (legacy)",
        "class": "mass storage",
        "subclass": "SCSI",
        "command": "0x0003 (io, memory)",
        "status": "0x0010 (capability list)",
        "interrupt": "INTA, line 10",
        "bar   [10]": "type I/O port, range 32, base 0xc300, size 64, enabled",
        "bar   [14]": "type memory, range 32, base 0xf2060000, size 4096, enabled",
        "cap 11[40]": "MSI-X, 2 messages, disabled, table in BAR 1 at 0x0, PBA in BAR 1 at 0x800",
        "open with": address,
    }


@clause("PCI-DISC-01", "PCI-DISC-02")
@on_both_by_a_ring
def test_the_disk_is_found_and_opened_as_it_was_found(
    image: Path, era: Era, ring: RingName
) -> None:
    (found,) = vioblk.find(era.address(image))
    assert (found.address, found.interface) == (era.place, era.interface)
    assert (found.header.chip, found.header.card) == (era.chip, era.card)
    assert (found.device_type, found.type_name) == (BLOCK_DEVICE_TYPE, "block")
    assert found.reason is None
    assert found.open_with is not None
    with vioblk.open(found.open_with, ring=ring) as disk:
        assert disk.capacity_bytes == CAPACITY_BYTES
        assert disk.device.legacy is (era.interface == "legacy")
        assert disk.info.transport_details["interrupts"].startswith(f"{era.interrupts}:")
        assert disk.write(512, DATA) == len(DATA)
        disk.flush()
        assert disk.read(512, len(DATA)) == DATA
    assert image.read_bytes()[512 : 512 + len(DATA)] == DATA


@on_both
def test_whatever_else_is_on_the_bus_says_why_it_is_not_taken(image: Path, era: Era) -> None:
    """Bridges of another vendor, and what has virtio's vendor ID without being virtio."""
    everything = vioblk.find(era.address(image), everything=True)
    others = [each for each in everything if each.address != era.place]
    assert len(others) >= 4
    assert {each.vendor_id for each in others} >= {0x8086, 0x1AF4}
    for other in others:
        assert (other.identity, other.open_with) == (None, None)
        assert (other.reason or "").startswith("no virtio device: ")


def test_the_registers_are_where_qemu_has_them_too(image: Path) -> None:
    with qemu.start(PORT_2011.address(image)) as machine:
        (bus,) = machine.qmp("query-pci")
        (device,) = (each for each in bus["devices"] if each["slot"] == 5)
        assert (device["irq"], device["irq_pin"]) == (IRQ, 1)
        assert [
            (bar["bar"], bar["type"], bar["address"], bar["size"]) for bar in device["regions"]
        ] == [(0, "io", IO_ADDRESS, 0x40), (1, "memory", MEMORY_ADDRESS, 0x1000)]
        assert machine.config(PIIX3).read(PIRQA_ROUTING, 1) == IRQ


OTHERS = {
    Location(0, 3): ("virtio-rng-pci", 0x1005, "entropy source"),
    Location(0, 4): ("virtio-balloon-pci", 0x1002, "memory balloon (traditional)"),
    Location(0, 6, 1): ("virtio-rng-pci", 0x1005, "entropy source"),
    Location(0, 6, 0): ("virtio-serial-pci", 0x1003, "console"),
}
"""Where something is put, and what: its name in QEMU, its device ID, its type."""


def test_each_function_of_a_full_bus_is_known_for_what_it_is(image: Path) -> None:
    """Before and after the disk there are others of the same vendor, which are no disks, two of
    them in one slot, and one that is no virtio device. IDs are those of the function that is asked
    for, and of no other; and nothing of the others is touched."""
    with qemu.start(PORT_2011.address(image)) as machine:
        for place, (name, _, _) in OTHERS.items():
            machine.qmp(
                "device_add",
                driver=name,
                id=f"other{place.device}{place.function}",
                addr=f"{place.device}.{place.function}",
                multifunction=place.device == 6,
                disable_modern=True,
            )
        found = {each.address: each for each in functions(machine)}
        for place, (_, device_id, type_name) in OTHERS.items():
            other = found[str(place)]
            assert (other.vendor_id, other.device_id) == (0x1AF4, device_id)
            assert other.type_name == type_name
        disk = found["0000:00:05.0"]
        assert (disk.header.chip, disk.device_type) == (PORT_2011.chip, BLOCK_DEVICE_TYPE)
        doorbells = found["0000:00:1e.0"]
        assert (doorbells.vendor_id, doorbells.identity) == (0x1AF4, None)
        assert "no virtio device" in (doorbells.reason or "")
        headers = [read_header(machine.config(place)) for place in OTHERS]
        bus = Bus()
        bus.register(block.DRIVER)
        attached = disk_of(bus.add(DiskIn(machine)))
        attached.write(0, DATA)
        assert image.read_bytes()[: len(DATA)] == DATA
        assert [read_header(machine.config(place)) for place in OTHERS] == headers
        bus.detach("0000:00:05.0")


def functions(machine: qemu.Machine) -> Iterator[FoundDevice]:
    """What a listing shows of a machine that runs."""
    for place, config, bars in machine.functions():
        found = describe(
            PciFunction(str(place), config, bars),
            drivers={BLOCK_DEVICE_TYPE: block.DRIVER.name},
            open_with=None,
        )
        assert found is not None
        yield found


@on_both
def test_a_driver_is_offered_no_device_of_another_type(era: Era) -> None:
    entropy, bus = f"qemu:/dev/urandom?device=rng&{era.machine}", Bus()
    bus.register(block.DRIVER)
    added = bus.add(AddressCandidate(entropy))
    assert added.state is BusState.WAITING
    assert added.reason == "no driver for type 4 (entropy source)"
    bus.register(rng.DRIVER)
    (device,) = bus.devices
    assert isinstance(device.attached, vioblk.EntropyDevice), device.reason
    assert len(device.attached.read(64)) == 64
    bus.detach(entropy)


# Attaching

Meet = Callable[[Bus, AddressCandidate], None]


def driver_first(bus: Bus, disk: AddressCandidate) -> None:
    bus.register(block.DRIVER)
    bus.add(disk)


def disk_first(bus: Bus, disk: AddressCandidate) -> None:
    assert bus.add(disk).state is BusState.WAITING
    bus.register(block.DRIVER)


@pytest.mark.parametrize(
    ("era", "meet", "ring"),
    [
        pytest.param(era, meet, ring, id=f"{era.name}-{meet.__name__}-{ring}")
        for (era, meet), ring in zip(
            itertools.product(ERAS, (driver_first, disk_first)),
            ("native", "reference", "reference", "native"),
            strict=True,
        )
    ],
)
def test_driver_and_disk_meet_whichever_is_there_first(
    image: Path, era: Era, ring: RingName, meet: Meet
) -> None:
    with no_leaks():
        bus, address = Bus(), era.address(image)
        meet(bus, AddressCandidate(address, {"ring": ring}))
        (device,) = bus.devices
        assert (device.state, device.driver) == (BusState.ATTACHED, "virtio-blk")
        disk = disk_of(device)
        disk.write(0, DATA)
        disk.flush()
        assert disk.read(0, len(DATA)) == DATA
        bus.detach(address)
        assert disk.closed
        assert [each.state for each in bus.devices] == [BusState.DETACHED]
        again = bus.attach(address)
        assert isinstance(again, vioblk.BlockDevice)
        assert again is not disk
        assert again.read(0, len(DATA)) == DATA
        bus.detach(address)
        del bus, device, disk, again
    assert image.read_bytes()[: len(DATA)] == DATA


@pytest.mark.parametrize(
    "drivers", [(block.DRIVER, rng.DRIVER), (rng.DRIVER, block.DRIVER)], ids=["disks", "entropy"]
)
def test_drivers_can_be_registered_in_any_order(
    image: Path, drivers: tuple[BusDriver, BusDriver]
) -> None:
    bus, address = Bus(), PORT_2011.address(image)
    bus.add(AddressCandidate(address))
    for driver in drivers:
        bus.register(driver)
    (device,) = bus.devices
    assert device.driver == "virtio-blk"
    assert disk_of(device).read(0, 512) == bytes(512)
    bus.detach(address)


@clause("INIT-01", "INIT-02", "INIT-03", "INIT-11")
@on_both_by_a_ring
def test_attaching_runs_and_the_device_sees_every_step(
    image: Path, tmp_path: Path, era: Era, ring: RingName
) -> None:
    """On one machine that runs on: attach, use, detach, three times."""
    with qemu.start(era.address(image)) as machine:
        trace = QemuTrace(machine, tmp_path / "log", "virtio_set_status")
        bus, place = Bus(), era.place
        bus.register(block.DRIVER)
        bus.add(DiskIn(machine, ring))
        for life in range(3):
            if life:
                bus.attach(place)
            (device,) = bus.devices
            disk = disk_of(device)
            assert qemu_of(disk.device).queue_status(0)["vring-desc"] != 0
            disk.write(life * 512, bytes([life + 1]) * 512)
            assert disk.read(0, 512) == bytes([1]) * 512
            bus.detach(place)
            command = Command(machine.config(machine.location).read(4, 2))
            assert not command & Command.BUS_MASTER, "the device is kept out of memory"
            assert machine.process.running
        statuses = [each.values["val"] for each in trace.seen()]
        assert [value for value, _ in itertools.groupby(statuses)] == [*era.steps * 3, 0]


def test_a_completion_is_an_interrupt_on_line_10(
    ring: RingName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk takes its time, so that nobody finds a completion without the interrupt."""
    seen: list[tuple[int, bool]] = []
    listen = InterruptLines.listen

    def recording(self: InterruptLines, line: int, call: Callable[[bool], None]) -> None:
        def record(level: bool) -> None:
            seen.append((line, level))
            call(level)

        listen(self, line, record)

    monkeypatch.setattr(InterruptLines, "listen", recording)
    with vioblk.open(PORT_2011.address("null:1M", latency=0.02), ring=ring) as disk:
        platform = qemu_of(disk.device)
        for _ in range(3):
            disk.read(0, 512)
        assert poll(lambda: len(seen) == 7), seen
        assert interrupts_on(IRQ, platform.hmp("info irq")) == 3
        assert platform.device_status()["isr"] == 0, "acknowledged by reading it"
    asserted_and_acknowledged = [(IRQ, True), (IRQ, False)]
    assert seen == [(IRQ, False), *asserted_and_acknowledged * 3]


def interrupts_on(line: int, statistics: str) -> int:
    """How often the I/O APIC has seen an input asserted, as QEMU tells it."""
    lines = statistics.partition("ioapic:")[2].partition("IRQ statistics")[0].splitlines()
    counts = dict(each.split(":") for each in lines if ":" in each)
    return int(counts.get(str(line), counts.get(f" {line}", "0")))


# Once and not twice


@on_both
def test_a_driver_that_is_registered_twice_is_an_error_and_nothing_else_happens(
    image: Path, era: Era
) -> None:
    bus, address = Bus(), era.address(image)
    bus.register(block.DRIVER)
    disk = disk_of(bus.add(AddressCandidate(address)))
    with pytest.raises(
        vioblk.DuplicateDriverError,
        match=r"virtio-blk cannot be registered for type 2 \(block\): virtio-blk is, and a "
        "type has one driver",
    ):
        bus.register(block.DRIVER)
    assert dict(bus.drivers) == {BLOCK_DEVICE_TYPE: block.DRIVER}
    assert [each.attached for each in bus.devices] == [disk]
    assert disk.read(0, 512) == bytes(512)
    bus.detach(address)


def test_another_module_cannot_define_what_one_has_defined(image: Path) -> None:
    """Neither a driver for disks nor the bits of their features."""
    mine = BusDriver("my-disks", BLOCK_DEVICE_TYPE, block.DRIVER.attach)
    bus, address = Bus(), PORT_2011.address(image)
    bus.register(mine)
    with pytest.raises(vioblk.DuplicateDriverError, match=r"virtio-blk cannot .*: my-disks is"):
        bus.register(block.DRIVER)
    device = bus.add(AddressCandidate(address))
    assert device.driver == "my-disks"
    assert disk_of(device).capacity_bytes == CAPACITY_BYTES
    bus.detach(address)


@on_both_by_a_ring
def test_a_device_has_one_driver_at_a_time(image: Path, era: Era, ring: RingName) -> None:
    with qemu.start(era.address(image)) as machine:
        bus = Bus()
        bus.register(block.DRIVER)
        disk = disk_of(bus.add(DiskIn(machine, ring)))
        with pytest.raises(vioblk.StateError, match=f"{era.place} is attached; detach it first"):
            bus.attach(era.place)
        with pytest.raises(ValueError, match=f"{era.place} is on the bus already"):
            bus.add(DiskIn(machine, ring))
        another = Bus()
        another.register(block.DRIVER)
        refused = another.add(DiskIn(machine, ring))
        assert refused.state is BusState.REFUSED
        assert f"the device at {era.place} is driven already" in (refused.reason or "")
        disk.write(0, DATA)
        assert disk.read(0, len(DATA)) == DATA, "it has noticed nothing of all that"
        bus.detach(era.place)
        second = another.attach(era.place)
        assert isinstance(second, vioblk.BlockDevice)
        assert second.read(0, len(DATA)) == DATA
        another.detach(era.place)


@on_both
def test_an_image_is_in_one_machine_at_a_time(image: Path, era: Era) -> None:
    address = era.address(image)
    with vioblk.open(address) as disk:
        with pytest.raises(vioblk.TransportError, match=r'(?s)Failed to get "write" lock.*disk'):
            vioblk.open(address)
        assert disk.read(0, 512) == bytes(512)
