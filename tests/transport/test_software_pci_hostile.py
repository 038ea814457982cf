"""Devices that lie, refuse, or go: a clear error in good time, or they are driven all the same."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.clauses import clause
from tests.support.drivers import PlainDriver
from tests.support.leaks import no_leaks
from tests.support.pci_machine import (
    CAPACITY_SECTORS,
    RegisterUse,
    assert_obedient,
    make_platform,
    make_transport,
    of,
    open_disk,
    uses,
)
from tests.transport.conftest import MakeDisk, MakeTransport
from vioblk.block.disk import BlockDevice
from vioblk.device import VirtioDevice
from vioblk.errors import (
    DeviceGoneError,
    NegotiationError,
    ProtocolError,
    QueueBroken,
    RequestTimeoutError,
    ResetTimeoutError,
    TransportError,
    VioblkError,
)
from vioblk.features import Feature
from vioblk.pci.capabilities import MSIX, VENDOR
from vioblk.pci.virtio_capabilities import StructureType
from vioblk.status import DeviceState, Status
from vioblk.transport.software_pci import SoftwarePciPlatform, SoftwarePciTransport
from vioblk.transport.software_pci.description import (
    CapabilityEntry,
    FunctionDescription,
    MemoryBar,
    msix_entry,
    notify_entry,
    virtio_entry,
)

WAIT_S = 30.0
SOON_S = 20.0
"""Less than any wait for a request that no test bounds, and enough for a busy machine."""

Describe = Callable[[FunctionDescription], FunctionDescription]
Entries = Sequence[CapabilityEntry]


@contextmanager
def soon() -> Iterator[None]:
    """Fails if what is inside takes longer."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started < SOON_S


def works(disk: BlockDevice) -> None:
    disk.write(512, b"x" * 512)
    assert disk.read(512, 512) == b"x" * 512


def status_writes(found: Sequence[RegisterUse]) -> list[int]:
    return [each.value for each in of(found, "common", "device_status") if each.is_write]


# Registers that lie


def test_refused_features_are_an_error_and_the_device_is_given_up(
    reach_function: MakeTransport,
) -> None:
    transport = reach_function()
    transport.device.inject("refuse_features")
    with soon(), pytest.raises(NegotiationError, match="it cleared FEATURES_OK; offered were"):
        open_disk(transport)
    written = status_writes(uses(transport.face))
    assert any(value & Status.FAILED for value in written)
    assert not any(value & Status.DRIVER_OK for value in written)
    assert_obedient(transport)


def test_a_reset_that_never_ends_is_given_up_and_nothing_is_written_after_it(
    open_function: MakeDisk,
) -> None:
    disk = open_function()
    transport = transport_of(disk)
    transport.device.inject("reset_never_ends")
    transport.face.clear_log()
    with soon(), pytest.raises(ResetTimeoutError, match=r"within 0\.1 s: its status still reads"):
        disk.reset(timeout_s=0.1)
    found = of(uses(transport.face), "common")
    assert found[0].is_write
    assert not any(each.is_write for each in found[1:])
    assert len(found) < 100, "it waits between its looks"


def transport_of(disk: BlockDevice) -> SoftwarePciTransport:
    transport = disk.device.transport
    assert isinstance(transport, SoftwarePciTransport)
    return transport


def test_a_first_reset_that_never_ends_keeps_the_device_from_being_started(
    reach_function: MakeTransport,
) -> None:
    transport = reach_function()
    transport.device.write_status(1)
    transport.device.inject("reset_never_ends")
    device = VirtioDevice(transport)
    with soon(), pytest.raises(ResetTimeoutError, match=r"confirm its reset within 0\.1 s"):
        device.initialize(PlainDriver([]), timeout_s=0.1)
    assert device.state is DeviceState.FAILED


def test_a_configuration_that_changes_while_it_is_read_is_read_again(
    reach_function: MakeTransport,
) -> None:
    """After the lower half of the capacity, the generation changes, and the capacity with it."""
    transport = reach_function()
    transport.device.inject("config_flicker", value=1 << 8)
    with open_disk(transport) as disk:
        assert disk.capacity_bytes == (CAPACITY_SECTORS - 256) * 512
        works(disk)
    assert_obedient(transport)


def test_a_configuration_that_never_holds_still_is_an_error(reach_function: MakeTransport) -> None:
    transport = reach_function()
    transport.device.inject("config_flicker", count=1 << 20)
    with soon(), pytest.raises(ProtocolError, match="changed during each of 64 attempts"):
        open_disk(transport)
    assert_obedient(transport)


@pytest.mark.parametrize("shown", ["queue_count_shown", "queue_size_shown"])
def test_a_device_without_queues_is_an_error(reach_function: MakeTransport, shown: str) -> None:
    transport = reach_function(**{shown: 0})
    with soon(), pytest.raises((VioblkError, ValueError), match="queue"):
        open_disk(transport)
    assert_obedient(transport)


@pytest.mark.parametrize("shown", [1, 2, 3])
def test_a_queue_that_is_too_small_for_a_request_is_an_error(
    reach_function: MakeTransport, shown: int
) -> None:
    transport = reach_function(queue_size_shown=shown)
    with soon(), pytest.raises(NegotiationError, match="cannot hold a request"):
        open_disk(transport)
    assert_obedient(transport)


@pytest.mark.parametrize("shown", [4, 100, 255])
def test_a_queue_size_that_is_no_power_of_two_is_rounded_down(
    reach_function: MakeTransport, shown: int
) -> None:
    transport = reach_function(queue_size_shown=shown)
    with open_disk(transport) as disk:
        works(disk)
        assert disk.info.queues[0].size == 1 << shown.bit_length() - 1
    assert_obedient(transport)


def test_more_queues_than_there_can_be_vectors_share_one(reach_function: MakeTransport) -> None:
    transport = reach_function(queue_count_shown=0xFFFE)
    with open_disk(transport) as disk:
        works(disk)
        assert transport.interrupts.mode == "shared"
    assert_obedient(transport)


def test_a_common_configuration_without_the_newer_fields_is_enough(
    reach_function: MakeTransport,
) -> None:
    transport = reach_function(short_common=True)
    with open_disk(transport) as disk:
        works(disk)
    assert_obedient(transport)


# Hostile capabilities


def without(entries: Entries, cfg_type: int) -> list[CapabilityEntry]:
    return [each for each in entries if not is_of(each, cfg_type)]


def is_of(entry: CapabilityEntry, cfg_type: int) -> bool:
    return entry.content[0] == VENDOR and entry.content[2] == cfg_type


def capabilities(change: Callable[[list[CapabilityEntry]], Entries]) -> Describe:
    return lambda honest: replace(honest, capabilities=tuple(change(list(honest.capabilities))))


def aside(entry: CapabilityEntry, **changes: int) -> CapabilityEntry:
    """An entry of struct virtio_pci_cap with other fields."""
    content = bytearray(entry.content)
    for name, value in changes.items():
        at, width = {"length": (1, 1), "type": (2, 1), "bar": (3, 1), "offset": (7, 4)}[name]
        content[at : at + width] = value.to_bytes(width, "little")
    return replace(entry, content=bytes(content))


def swap(cfg_type: int, **changes: int) -> Describe:
    """The honest entry of a type gives way to one with other fields."""
    return capabilities(
        lambda entries: [
            aside(each, **changes) if is_of(each, cfg_type) else each for each in entries
        ]
    )


def before_all(*extra: CapabilityEntry) -> Describe:
    """Entries that stand before the honest ones."""
    return capabilities(lambda entries: [*extra, *entries])


COMMON = virtio_entry(StructureType.COMMON, 4, 0, 0x40)

HARMLESS: dict[str, Describe] = {
    "a type that is reserved": before_all(virtio_entry(0x77, 4, 0, 16)),
    "type 0": before_all(virtio_entry(0, 4, 0, 16)),
    "a BAR that is reserved": before_all(aside(COMMON, bar=6), aside(COMMON, bar=255)),
    "a BAR that is not there": before_all(aside(COMMON, bar=1)),
    "the upper half of a BAR": before_all(aside(COMMON, bar=5)),
    "a structure beyond its BAR": before_all(virtio_entry(1, 4, 0x1000_0000, 0x40)),
    "a structure that wraps around": before_all(virtio_entry(1, 4, 0xFFFF_FFFC, 0x40)),
    "a structure that is too short": before_all(virtio_entry(1, 4, 0, 4)),
    "a structure of no bytes": before_all(virtio_entry(1, 4, 0, 0)),
    "a structure that is not aligned": before_all(virtio_entry(1, 4, 2, 0x40)),
    "a capability that is too short": before_all(aside(COMMON, length=8)),
    "a capability of no bytes": before_all(aside(COMMON, length=0)),
    "longer capabilities": capabilities(
        lambda entries: [
            aside(each, length=0x40) if is_of(each, StructureType.ISR) else each for each in entries
        ]
    ),
    "far longer structures": capabilities(
        lambda entries: [
            replace(each, content=each.content[:11] + b"\xff\xff\xff\x7f" + each.content[15:])
            if is_of(each, StructureType.DEVICE)
            else each
            for each in entries
        ]
    ),
    "shared memory of 64 bits": before_all(
        virtio_entry(StructureType.SHARED_MEMORY, 4, 0, 0, extra=b"\x01\0\0\0\x01\0\0\0")
    ),
    "vendor data": before_all(CapabilityEntry(b"\x09\x08\x09\x36\x1b\0\0")),
    "a second of each type that is wrong": capabilities(
        lambda entries: [*entries, aside(COMMON, bar=3)]
    ),
    "a pointer back to the first at the end": capabilities(
        lambda entries: [*entries[:-1], replace(entries[-1], next_offset=0x40)]
    ),
    "a pointer into the header at the end": capabilities(
        lambda entries: [*entries[:-1], replace(entries[-1], next_offset=0x10)]
    ),
    "a pointer past the end at the end": capabilities(
        lambda entries: [*entries[:-1], replace(entries[-1], next_offset=0xFF)]
    ),
    "a subsystem of another vendor": lambda honest: replace(
        honest, subsystem_vendor_id=0x8086, subsystem_id=1
    ),
    "any revision": lambda honest: replace(honest, revision=0xFE),
    "an odd class": lambda honest: replace(honest, class_code=0xFF0000),
}


@clause("PCI-CAP-01", "PCI-CAP-02", "PCI-CAP-03", "PCI-CAP-04")
@pytest.mark.parametrize("describe", HARMLESS.values(), ids=HARMLESS)
def test_what_a_driver_has_to_put_up_with_does_no_harm(
    open_function: MakeDisk, describe: Describe
) -> None:
    with soon():
        disk = open_function(describe=describe)
        works(disk)
        transport = transport_of(disk)
        disk.close()
    assert_obedient(transport)


@clause("PCI-CAP-06")
def test_structures_that_claim_far_more_than_they_hold_are_used_as_far_as_they_go(
    open_function: MakeDisk,
) -> None:
    huge = (0x7FFF_FFFF).to_bytes(4, "little")
    describe = capabilities(
        lambda entries: [
            replace(each, content=each.content[:11] + huge + each.content[15:])
            if each.content[0] == VENDOR and not is_of(each, StructureType.PCI_CFG)
            else each
            for each in entries
        ]
    )
    disk = open_function(describe=describe)
    works(disk)
    assert_obedient(transport_of(disk))


@clause("PCI-DISC-01", "PCI-DISC-03", "PCI-DISC-04")
@pytest.mark.parametrize("revision", [0, 1, 0xFF])
def test_a_block_device_of_any_revision_and_subsystem_is_driven(
    open_function: MakeDisk, revision: int
) -> None:
    def describe(honest: FunctionDescription) -> FunctionDescription:
        return replace(honest, revision=revision, subsystem_vendor_id=0xABCD, subsystem_id=0x1234)

    works(open_function(describe=describe))


@clause("PCI-DISC-02")
def test_a_transitional_id_with_virtio_capabilities_is_driven_by_the_modern_interface(
    open_function: MakeDisk,
) -> None:
    disk = open_function(describe=lambda honest: replace(honest, device_id=0x1001, revision=0))
    works(disk)
    assert transport_of(disk).layout.interface == "modern"


HOPELESS: dict[str, tuple[Describe, str]] = {
    "no capabilities at all": (
        capabilities(lambda entries: []),
        "the legacy interface cannot be used: a modern only device has none",
    ),
    "a list that points at itself": (
        capabilities(lambda entries: [replace(entries[0], next_offset=0x40)]),
        "0x40",
    ),
    "a list in the header": (
        lambda honest: replace(honest, first_capability=0x10),
        "the legacy interface cannot be used",
    ),
    "a space that ends before the list": (
        lambda honest: replace(honest, length=64),
        "the legacy interface cannot be used",
    ),
    "no common configuration": (
        capabilities(lambda entries: without(entries, StructureType.COMMON)),
        "no usable common configuration",
    ),
    "no notifications": (
        capabilities(lambda entries: without(entries, StructureType.NOTIFY)),
        "no usable notifications",
    ),
    "no ISR": (
        capabilities(lambda entries: without(entries, StructureType.ISR)),
        "no usable ISR status",
    ),
    "only a common configuration beyond its BAR": (
        swap(StructureType.COMMON, offset=0x1000_0000),
        "do not lie in BAR 4",
    ),
    "only a common configuration that is too short": (
        capabilities(
            lambda entries: [
                virtio_entry(StructureType.COMMON, 4, 0, 0x34),
                *without(entries, StructureType.COMMON),
            ]
        ),
        "no usable common configuration",
    ),
    "only a common configuration in a reserved BAR": (
        swap(StructureType.COMMON, bar=7),
        "BAR 7 is a reserved value",
    ),
    "a common configuration where its BAR just ends": (
        lambda honest: swap(StructureType.COMMON, offset=honest.bars[0].length - 0x34)(honest),
        "do not lie in BAR 4",
    ),
    "a BAR without an address": (
        lambda honest: replace(
            honest,
            bars=(replace(honest.bars[0], address=0),),
            capabilities=without(honest.capabilities, StructureType.PCI_CFG),
        ),
        "BAR 4: BAR 4 was given no address",
    ),
    "no BAR": (lambda honest: replace(honest, bars=()), "BAR 4 is not there"),
    "a BAR that has no registers behind it": (
        lambda honest: replace(
            swap(StructureType.COMMON, bar=0)(honest),
            bars=(*honest.bars, MemoryBar(0, 4096, 0xF000_0000, 32, False)),
            capabilities=without(
                swap(StructureType.COMMON, bar=0)(honest).capabilities, StructureType.PCI_CFG
            ),
        ),
        "BAR 0 is not mapped",
    ),
    "another vendor": (
        lambda honest: replace(honest, vendor_id=0x8086),
        "no virtio device: vendor 0x8086 is not 0x1af4",
    ),
    "no vendor": (lambda honest: replace(honest, vendor_id=0xFFFF), "no PCI function answers"),
    "an ID outside the range": (
        lambda honest: replace(honest, device_id=0x1110),
        "no virtio device: device ID 0x1110",
    ),
    "the header of a bridge": (
        lambda honest: replace(honest, patches={0x0E: b"\x01"}),
        "header is of type 0x01",
    ),
}


@clause("PCI-DETECT-01", "PCI-DETECT-02", "PCI-CAP-04", "PCI-CAP-07")
@pytest.mark.parametrize(("describe", "why"), HOPELESS.values(), ids=HOPELESS)
def test_what_cannot_be_driven_is_refused_with_the_reason_and_left_alone(
    describe: Describe, why: str
) -> None:
    with soon(), no_leaks():
        check_hopeless(describe, why)


def check_hopeless(describe: Describe, why: str) -> None:
    platform = make_platform(describe=describe)
    with pytest.raises(TransportError, match=why):
        make_transport(platform)
    assert platform.face.access_count == 0
    assert platform.modelled.violations == []


def test_a_device_of_another_type_is_refused_by_the_block_driver(
    reach_function: MakeTransport,
) -> None:
    transport = reach_function(describe=lambda honest: replace(honest, device_id=0x1041))
    with soon(), pytest.raises(NegotiationError, match="is of type 1"):
        open_disk(transport)
    assert not any(value & Status.DRIVER for value in status_writes(uses(transport.face)))


def test_doorbells_beyond_their_structure_are_an_error(reach_function: MakeTransport) -> None:
    notify = notify_entry(4, 0xC000, 16, 0x8000_0000)
    describe = capabilities(lambda entries: [*without(entries, StructureType.NOTIFY), notify])
    transport = reach_function(describe=describe)
    with soon(), pytest.raises(ProtocolError, match=r"multiplier of 2147483648\) is beyond"):
        open_disk(transport)
    assert_obedient(transport)


def test_doorbells_that_are_not_aligned_are_an_error(reach_function: MakeTransport) -> None:
    """A multiplier of 2, though notifications have 4 bytes."""
    notify = notify_entry(4, 0xC000, 16, 2)
    describe = capabilities(lambda entries: [*without(entries, StructureType.NOTIFY), notify])
    transport = reach_function(describe=describe, offer=[Feature.NOTIFICATION_DATA])
    with soon(), pytest.raises(ProtocolError, match="not aligned to its 4 bytes"):
        open_disk(transport)
    assert_obedient(transport)


MSIX_LIES: dict[str, CapabilityEntry] = {
    "a table beyond its BAR": msix_entry(2, 4, 0xFFFF_0000, 4, 0xB000),
    "pending bits beyond their BAR": msix_entry(2, 4, 0x3000, 4, 0xFFFF_0000),
    "a table in a BAR that is not there": msix_entry(2, 1, 0x3000, 4, 0xB000),
    "a table in a reserved BAR": msix_entry(2, 7, 0x3000, 4, 0xB000),
}


@pytest.mark.parametrize("entry", MSIX_LIES.values(), ids=MSIX_LIES)
def test_msix_that_cannot_be_set_up_is_done_without(
    open_function: MakeDisk, entry: CapabilityEntry
) -> None:
    describe = capabilities(
        lambda entries: [entry, *(each for each in entries if each.content[0] != MSIX)]
    )
    disk = open_function(describe=describe)
    works(disk)
    transport = transport_of(disk)
    assert transport.interrupts.mode == "intx"
    assert any("msix is not used" in why for why in transport.interrupts.passed_over)
    assert_obedient(transport)


@pytest.mark.parametrize("entry", MSIX_LIES.values(), ids=MSIX_LIES)
def test_msix_that_was_asked_for_and_cannot_be_set_up_is_an_error(
    reach_function: MakeTransport, entry: CapabilityEntry
) -> None:
    describe = capabilities(
        lambda entries: [entry, *(each for each in entries if each.content[0] != MSIX)]
    )
    transport = reach_function(describe=describe, interrupts="msix")
    with soon(), pytest.raises(TransportError, match="interrupts cannot be set up: msix"):
        open_disk(transport)


def test_a_function_without_any_interrupt_is_polled(open_function: MakeDisk) -> None:
    disk = open_function(vectors=0, describe=lambda honest: replace(honest, interrupt_pin=0))
    works(disk)
    assert transport_of(disk).interrupts.mode == "none"


# Any bytes


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.integers(0x00, 0xBF), st.integers(0, 255), min_size=1, max_size=12),
    st.sampled_from([64, 0x80, 256, 4096]),
)
def test_any_bytes_of_configuration_space_are_driven_or_refused_in_good_time(
    bytes_changed: dict[int, int], length: int
) -> None:
    patches = {offset: bytes([value]) for offset, value in bytes_changed.items()}
    platform = make_platform(
        describe=lambda honest: replace(honest, length=length, patches=patches)
    )
    with soon():
        drive_or_refuse(platform)


def drive_or_refuse(platform: SoftwarePciPlatform) -> None:
    try:
        transport = make_transport(platform)
    except VioblkError:
        return
    device = VirtioDevice(transport)
    with suppress(VioblkError):
        device.initialize(PlainDriver([]), timeout_s=0.05)
    with suppress(VioblkError):
        device.close(timeout_s=0.05)
    assert device.state is DeviceState.CLOSED


# A device that goes


INTERRUPTS = ["msix", "shared", "config", "intx", "none"]


@pytest.mark.parametrize("interrupts", INTERRUPTS)
def test_all_requests_of_a_device_that_is_unplugged_fail_at_once(
    open_function: MakeDisk, interrupts: str, ring: str
) -> None:
    disk = open_function(interrupts=interrupts, ring=ring, timeout_s=30.0)
    transport = transport_of(disk)
    transport.device.inject("silence", count=1000)
    errors: list[BaseException] = []

    def read() -> None:
        try:
            disk.read(0, 512)
        except BaseException as error:
            errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    taken = transport.device.counters()["chains"]
    for reader in readers:
        reader.start()
    await_chains(transport, taken + 3)
    transport.machine.unplug()
    with soon():
        for reader in readers:
            reader.join(WAIT_S)
    assert len(errors) == 3
    assert all(isinstance(error, DeviceGoneError) for error in errors), errors
    assert_left_alone(transport, disk)


def await_chains(transport: SoftwarePciTransport, count: int) -> None:
    """Until the device has taken so many."""
    deadline = time.monotonic() + WAIT_S
    while transport.device.counters()["chains"] < count:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def assert_left_alone(transport: SoftwarePciTransport, disk: BlockDevice) -> None:
    """Once it is known that the device has gone, nobody touches its registers any more."""
    before = transport.face.access_count
    for use in (lambda: disk.read(0, 512), disk.flush, disk.reset):
        with soon(), pytest.raises(VioblkError):
            use()
    with soon():
        try:
            disk.close()
        except VioblkError:
            assert disk.closed
    assert transport.face.access_count == before
    assert_obedient(transport)


@pytest.mark.parametrize("interrupts", INTERRUPTS)
def test_a_device_that_goes_quietly_is_found_out_by_its_registers(
    open_function: MakeDisk, interrupts: str
) -> None:
    disk = open_function(interrupts=interrupts)
    transport = transport_of(disk)
    transport.machine.unplug(quietly=True)
    with soon(), pytest.raises(DeviceGoneError, match="read as if nothing were there"):
        disk.reset()
    assert_left_alone(transport, disk)


def test_a_request_that_times_out_finds_out_that_the_device_has_gone(
    open_function: MakeDisk,
) -> None:
    disk = open_function(timeout_s=0.1)
    transport = transport_of(disk)
    transport.machine.unplug(quietly=True)
    with soon(), pytest.raises(DeviceGoneError, match=r"nothing were there.*; seen after 0\.1 s"):
        disk.read(0, 512)
    assert_left_alone(transport, disk)


ACCESSES_OF_OPENING = 60


@pytest.mark.parametrize("quietly", [False, True])
@pytest.mark.parametrize("at", range(0, ACCESSES_OF_OPENING, 4))
def test_a_device_that_goes_while_it_is_being_opened_is_an_error(at: int, quietly: bool) -> None:
    with soon(), no_leaks():
        open_and_lose(at, quietly)


class CutRegisters:
    """The registers of a machine, which unplugs the device before one of the accesses."""

    def __init__(self, platform: SoftwarePciPlatform, at: int, quietly: bool) -> None:
        self.count = 0
        self._platform = platform
        self._at = at
        self._quietly = quietly
        self._window = platform.face.window

    @property
    def length(self) -> int:
        return self._window.length

    def _pass(self) -> None:
        if self.count == self._at:
            self._platform.unplug(quietly=self._quietly)
        self.count += 1

    def read(self, offset: int, width: int) -> int:
        self._pass()
        return self._window.read(offset, width)

    def write(self, offset: int, width: int, value: int) -> None:
        self._pass()
        self._window.write(offset, width, value)


def open_and_lose(at: int, quietly: bool) -> None:
    platform = make_platform()
    registers = CutRegisters(platform, at, quietly)
    platform.registers = lambda bar: registers  # type: ignore[method-assign]
    transport = make_transport(platform)
    with pytest.raises(VioblkError):
        open_disk(transport, timeout_s=0.2)
    transport.close()
    assert registers.count > at


# A device that fails


@pytest.mark.parametrize("interrupts", ["msix", "shared", "config", "intx"])
def test_a_device_that_needs_a_reset_fails_what_is_pending_and_comes_back(
    open_function: MakeDisk, interrupts: str, ring: str
) -> None:
    disk = open_function(interrupts=interrupts, ring=ring, timeout_s=30.0)
    transport = transport_of(disk)
    disk.write(0, b"k" * 512)
    transport.device.inject("silence")
    failed: list[BaseException] = []

    def read() -> None:
        try:
            disk.read(0, 512)
        except BaseException as error:
            failed.append(error)

    reader = threading.Thread(target=read)
    taken = transport.device.counters()["chains"]
    reader.start()
    await_chains(transport, taken + 1)
    with soon():
        transport.device.inject("needs_reset")
        reader.join(WAIT_S)
    assert [type(error) for error in failed] == [DeviceGoneError]
    assert "needs a reset" in str(failed[0])
    assert disk.device.state is DeviceState.NEEDS_RESET
    disk.reset()
    assert disk.read(0, 512) == b"k" * 512
    assert_obedient(transport)


@pytest.mark.parametrize("fault", ["id_out_of_range", "id_not_outstanding", "index_ahead"])
def test_a_ring_that_lies_is_broken_until_a_reset(open_function: MakeDisk, fault: str) -> None:
    disk = open_function()
    transport = transport_of(disk)
    transport.device.inject(fault)
    with soon(), pytest.raises(QueueBroken):
        disk.read(0, 512)
    disk.reset()
    works(disk)
    assert_obedient(transport)


def test_interrupts_that_never_come_end_in_a_time_out(open_function: MakeDisk) -> None:
    disk = open_function(interrupts="intx", timeout_s=0.2)
    transport = transport_of(disk)
    transport.face.set_command(memory=True, bus_master=True, intx_disabled=True)
    transport.device.inject("silence")
    with soon(), pytest.raises(RequestTimeoutError):
        disk.read(0, 512)
