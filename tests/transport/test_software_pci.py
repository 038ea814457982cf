"""The whole driver on the software device as a PCI function, whose registers are strict."""

import os
import select
import threading
from pathlib import Path

import pytest

import vioblk
from tests.clauses import clause
from tests.interop.qemu_machines import poll
from tests.support.drivers import PlainDriver, PlainQueue
from tests.support.leaks import no_leaks
from tests.support.patience import hasty
from tests.support.pci_machine import (
    CAPACITY_SECTORS,
    USUAL,
    assert_obedient,
    make_platform,
    make_transport,
    of,
    open_disk,
    uses,
)
from tests.transport.conftest import MakeDisk, MakeTransport
from vioblk._native import split_layout
from vioblk.block.disk import BlockDevice
from vioblk.block.features import BlockFeature
from vioblk.block.request import RequestType
from vioblk.device import VirtioDevice
from vioblk.errors import AddressError, NegotiationError, ResetTimeoutError, TransportError
from vioblk.features import Feature, Wish
from vioblk.pci.modern import ModernLayout
from vioblk.ring import Chain
from vioblk.status import DeviceState
from vioblk.transport.base import QueueAddresses
from vioblk.transport.pci.interrupts import InterruptMode
from vioblk.transport.software_pci import SoftwarePciTransport

WAIT_S = 30.0
LENGTH = 1 << 16
MODES: list[InterruptMode] = ["msix", "shared", "config", "intx", "none"]
NO_VECTOR = 0xFFFF

Ring = str


def transport_of(disk: BlockDevice) -> SoftwarePciTransport:
    transport = disk.device.transport
    assert isinstance(transport, SoftwarePciTransport)
    return transport


def use(disk: BlockDevice) -> None:
    """A bit of everything that a disk does."""
    data = os.urandom(LENGTH)
    disk.write(4096, data)
    disk.flush()
    assert disk.read(4096, LENGTH) == data
    disk.discard(0, 4096)
    disk.write_zeroes(4096, LENGTH)
    assert disk.read(4096, LENGTH) == bytes(LENGTH)


def live(disk: BlockDevice) -> None:
    """A life with a reset in it."""
    use(disk)
    disk.reset()
    use(disk)


# Addresses and options


@pytest.mark.parametrize("interrupts", ["auto", *MODES])
def test_an_address_with_bus_pci_is_a_disk(interrupts: str, ring: Ring) -> None:
    with no_leaks():
        check_address(f"mem:1M?bus=pci&interrupts={interrupts}", ring, interrupts)


def check_address(address: str, ring: Ring, interrupts: str) -> None:
    with vioblk.open(address, ring=ring) as disk:
        use(disk)
        transport = transport_of(disk)
        assert transport.interrupts.mode == ("msix" if interrupts == "auto" else interrupts)
        assert disk.info.transport == "software"
        assert_obedient(transport)


def test_a_file_is_served_on_pci_too(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    with vioblk.open(f"file:{image}?bus=pci") as disk:
        disk.write(512, b"x" * 512)
    assert image.read_bytes()[512:1024] == b"x" * 512


def test_the_device_can_be_served_by_its_caller_on_pci_too() -> None:
    with vioblk.open("mem:1M?bus=pci&threaded=off&interrupts=none", timeout_s=0.05) as disk:
        with pytest.raises(vioblk.RequestTimeoutError):
            disk.read(0, 512)
        assert transport_of(disk).device.serve() == 1


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ("interrupts=msix", "interrupts cannot be given without bus=pci"),
        ("vectors=2&access=bar", "vectors and access cannot be given without bus=pci"),
        ("bus=none&notify_multiplier=4", "notify_multiplier cannot be given without bus=pci"),
        ("bus=isa", "bus=isa is not valid; one of none, pci"),
        ("bus=pci&interrupts=loud", "interrupts=loud is not valid; one of auto, msix"),
        ("bus=pci&vectors=2049", "a number from 0 to 2048"),
        ("bus=pci&interrupts=msix&vectors=1", "interrupts=msix needs 2 vectors, and vectors= is 1"),
        ("bus=pci&queues=4&interrupts=msix&vectors=4", "interrupts=msix needs 5 vectors"),
        ("bus=pci&interrupts=shared&vectors=0", "interrupts=shared needs 1 vector, and"),
        ("bus=pci&interrupts=config&vectors=0", "interrupts=config needs 1 vector, and"),
        ("bus=pci&notify_multiplier=3", "notify_multiplier is 3, not 0 or a power of two"),
        ("bus=pci&notify_multiplier=2&offer=notification_data", "need 0 or a multiple of 4"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: str, what: str) -> None:
    with no_leaks(), pytest.raises(AddressError, match=f"mem:1M.*: .*{what}"):
        vioblk.open(f"mem:1M?{options}")


@pytest.mark.parametrize("feature", ["notification_data", "notif_config_data"])
def test_a_notification_feature_that_is_insisted_on_is_offered(feature: str) -> None:
    with vioblk.open(f"mem:1M?bus=pci&{feature}=on") as disk:
        assert feature in disk.device.accepted.names
        use(disk)
        assert_obedient(transport_of(disk))
    with pytest.raises(NegotiationError, match=feature):
        vioblk.open(f"mem:1M?{feature}=on")


# Registers


@clause("PCI-ACC-01", "PCI-ACC-02", "PCI-ACC-03", "PCI-COMMON-01")
@pytest.mark.parametrize("interrupts", MODES)
def test_no_register_is_accessed_but_in_the_way_that_it_has(
    open_function: MakeDisk, interrupts: str, ring: Ring
) -> None:
    """The face notices every other width and every write to what is read-only."""
    disk = open_function(queues=2, interrupts=interrupts, ring=ring)
    transport = transport_of(disk)
    live(disk)
    transport.device.resize(CAPACITY_SECTORS * 2)
    disk.close()
    assert_obedient(transport)


@clause("PCI-ACC-03", "PCI-ACC-04")
def test_an_address_is_written_as_two_halves(open_function: MakeDisk) -> None:
    transport = transport_of(open_function())
    for field in ("queue_desc", "queue_driver", "queue_device"):
        (low,), (high,) = (of(uses(transport.face), "common", field + end) for end in ("", " + 4"))
        assert (low.width, high.width) == (4, 4)
        assert high.value == 1, "memory starts at 4 GiB"
    assert_obedient(transport)


@clause("PCI-ACC-03", "PCI-ACC-04")
def test_a_field_of_eight_bytes_is_read_as_two_halves(open_function: MakeDisk) -> None:
    transport = transport_of(open_function())
    capacity = [each for each in of(uses(transport.face), "device") if each.name in ("0x0", "0x4")]
    assert {(each.name, each.width) for each in capacity} == {("0x0", 4), ("0x4", 4)}


@clause("PCI-COMMON-03", "PCI-COMMON-04", "PCI-COMMON-06")
@pytest.mark.parametrize("ring_size", [None, 4, 128])
def test_a_queue_is_programmed_whole_before_it_is_enabled(
    open_function: MakeDisk, ring_size: int | None
) -> None:
    options = {} if ring_size is None else {"ring_size": ring_size}
    disk = open_function(queues=2, queue_count=2, **options)
    live(disk)
    transport = transport_of(disk)
    seen = [each for each in of(uses(transport.face), "common") if each.is_write]
    enabled = [index for index, each in enumerate(seen) if each.name == "queue_enable"]
    assert [seen[index].value for index in enabled] == [1] * 4, "two queues, in two lives"
    for index in enabled:
        selected = max(at for at in range(index) if seen[at].name == "queue_select")
        programmed = {each.name for each in seen[selected:index]}
        addresses = {"queue_desc", "queue_driver", "queue_device"}
        assert {"queue_size", *addresses, *(f"{each} + 4" for each in addresses)} <= programmed
    sizes = {each.value for each in seen if each.name == "queue_size"}
    assert len(sizes) == 1
    assert ring_size is None or sizes == {ring_size}
    assert_obedient(transport)


@clause("PCI-COMMON-05")
def test_a_slow_reset_is_waited_for_and_nothing_is_written_meanwhile(
    open_function: MakeDisk,
) -> None:
    disk = open_function()
    transport = transport_of(disk)
    transport.device.inject("slow_reset", value=20)
    transport.face.clear_log()
    disk.reset()
    written, *after = of(uses(transport.face), "common")
    assert (written.name, written.value, written.is_write) == ("device_status", 0, True)
    waited = after[:21]
    assert {(each.name, each.is_write) for each in waited} == {("device_status", False)}
    assert [each.value == 0 for each in waited] == [False] * 20 + [True]
    use(disk)
    assert_obedient(transport)


@clause("PCI-CAP-08")
@pytest.mark.parametrize("access", ["bar", "window"])
def test_no_virtio_capability_is_written_but_the_window(
    open_function: MakeDisk, access: str
) -> None:
    disk = open_function(access=access)
    live(disk)
    transport = transport_of(disk)
    disk.close()
    assert transport.config.violations == []


# The window


@clause("PCI-CFGACC-01", "PCI-CFGACC-02", "PCI-CFGACC-03")
@pytest.mark.parametrize("interrupts", ["config", "intx", "none"])
def test_a_function_whose_bar_is_not_mapped_is_driven_through_the_window(
    open_function: MakeDisk, interrupts: str
) -> None:
    vectors = 0 if interrupts != "config" else 1
    if interrupts == "config":
        # The MSI-X table is no virtio structure, so that the window cannot reach it.
        disk = open_function(access="window", interrupts=interrupts, vectors=vectors)
    else:
        disk = open_function(bar_mapped=False, interrupts=interrupts, vectors=vectors)
    live(disk)
    transport = transport_of(disk)
    assert "window" in transport.choice.reason
    assert len(of(uses(transport.face), "notify")) > 0
    disk.close()
    assert_obedient(transport)


@clause("PCI-NOTIFY-01", "PCI-NOTIFY-03")
def test_a_doorbell_rings_through_the_window_by_the_index_in_two_bytes(
    reach_function: MakeTransport,
) -> None:
    transport = reach_function(queues=2, bar_mapped=False, interrupts="none")
    driver = PlainDriver([], wish=Wish(wanted=frozenset({BlockFeature.MQ})), queues=2)
    VirtioDevice(transport).initialize(driver)
    doorbell = driver.handles[1].queue.parts.wires.doorbell
    assert doorbell is not None
    transport.face.clear_log()
    doorbell.ring()
    assert poll(lambda: of(uses(transport.face), "notify") or transport.face.violations)
    assert_obedient(transport)
    assert [(each.width, each.value) for each in of(uses(transport.face), "notify")] == [(2, 1)]


def test_msix_needs_a_bar_that_is_mapped(reach_function: MakeTransport) -> None:
    transport = reach_function(bar_mapped=False, interrupts="auto")
    with open_disk(transport) as disk:
        assert transport.interrupts.mode == "intx"
        assert any("msix is not used: BAR 4" in why for why in transport.interrupts.passed_over)
        use(disk)


# Notifications


NOTIFICATION_FEATURES = [
    frozenset[int](),
    frozenset({Feature.NOTIFICATION_DATA}),
    frozenset({Feature.NOTIF_CONFIG_DATA}),
    frozenset({Feature.NOTIFICATION_DATA, Feature.NOTIF_CONFIG_DATA}),
]


def notifications(
    open_function: MakeDisk, features: frozenset[int], ring: Ring, **options: object
) -> tuple[SoftwarePciTransport, list[tuple[int, int]]]:
    """(width, value) of the notifications of four requests, one after the other, on queue 0."""
    disk = open_function(offer=features, ring=ring, **options)
    transport = transport_of(disk)
    for bit in features:
        assert disk.device.has(bit)
    transport.face.clear_log()
    for sector in range(4):
        disk.read(512 * sector, 512)
    assert_obedient(transport)
    found = of(uses(transport.face), "notify")
    assert found, "the device was notified"
    return transport, [(each.width, each.value) for each in found]


@clause("PCI-NOTIFY-01", "PCI-NOTIFY-03")
def test_a_plain_notification_is_the_index_in_two_bytes(
    open_function: MakeDisk, ring: Ring
) -> None:
    _, seen = notifications(open_function, frozenset(), ring)
    assert set(seen) == {(2, 0)}


@clause("PCI-NOTIFY-01", "PCI-NOTIFY-05", "RSVD-09")
def test_a_notification_of_configured_data_is_that_in_two_bytes(
    open_function: MakeDisk, ring: Ring
) -> None:
    _, seen = notifications(open_function, frozenset({Feature.NOTIF_CONFIG_DATA}), ring)
    assert set(seen) == {(2, 0xA500)}, "queue_notif_config_data of the face's first queue"


@clause("PCI-NOTIFY-02", "PCI-NOTIFY-04", "PCI-NOTIFY-06")
@pytest.mark.parametrize(
    ("features", "name"), [(NOTIFICATION_FEATURES[1], 0), (NOTIFICATION_FEATURES[3], 0xA500)]
)
def test_a_notification_with_data_says_how_far_the_ring_is_in_four_bytes(
    open_function: MakeDisk, ring: Ring, features: frozenset[int], name: int
) -> None:
    """Attaching asked for the serial number, which was the first chain."""
    _, seen = notifications(open_function, features, ring)
    assert {width for width, _ in seen} == {4}
    assert {value & 0xFFFF for _, value in seen} == {name}
    positions = [value >> 16 for _, value in seen]
    assert positions == sorted(positions)
    assert 0 < positions[0] <= positions[-1] <= 5
    if ring == "reference":
        assert len(set(positions)) == 4, "it notifies of each"


@clause("PCI-NOTIFY-03", "PCI-NOTIFY-04", "PCI-NOTIFY-05", "PCI-NOTIFY-06")
@pytest.mark.parametrize("features", NOTIFICATION_FEATURES)
@pytest.mark.parametrize("multiplier", [0, 4, 4096])
def test_each_queue_is_notified_at_its_place_with_its_name(
    open_function: MakeDisk, features: frozenset[int], multiplier: int
) -> None:
    """The face takes a notification at the place of its queue with the name of it only."""
    disk = open_function(
        queues=3, queue_count=3, offer=features, notify_multiplier=multiplier, interrupts="none"
    )
    transport = transport_of(disk)
    threads = [
        threading.Thread(target=use_some, args=(disk, start)) for start in range(0, 12 * 4096, 4096)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    queues = {each.value & 0xFF for each in of(uses(transport.face), "notify")}
    assert queues <= {0, 1, 2}
    assert transport.device.counters()["failed_requests"] == 0
    assert_obedient(transport)


def use_some(disk: BlockDevice, offset: int, rounds: int = 20) -> None:
    for _ in range(rounds):
        disk.write(offset, bytes([offset // 4096]) * 4096)
        assert disk.read(offset, 4096) == bytes([offset // 4096]) * 4096


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("features", NOTIFICATION_FEATURES)
@pytest.mark.parametrize("multiplier", [0, 2, 8])
def test_a_doorbell_is_where_its_queue_is_notified(
    reach_function: MakeTransport, features: frozenset[int], multiplier: int, index: int
) -> None:
    if multiplier == 2 and Feature.NOTIFICATION_DATA in features:
        with pytest.raises(ValueError, match="need 0 or a multiple of 4"):
            reach_function(offer=features, notify_multiplier=multiplier)
        return
    transport = reach_function(queues=3, offer=features, notify_multiplier=multiplier)
    driver = PlainDriver([], wish=Wish(wanted=frozenset({BlockFeature.MQ})), queues=3)
    VirtioDevice(transport).initialize(driver)
    doorbell = driver.handles[index].queue.parts.wires.doorbell
    assert doorbell is not None
    transport.face.clear_log()
    doorbell.ring(0)
    (seen,) = of(uses(transport.face), "notify")
    place = (2 * index + 1) * multiplier
    name = 0xA500 | index if Feature.NOTIF_CONFIG_DATA in features else index
    assert (int(seen.name, 16), seen.value) == (place, name)
    assert_obedient(transport)


# Interrupts


@clause("PCI-ISR-01")
@pytest.mark.parametrize("interrupts", ["msix", "shared", "config"])
def test_the_isr_is_never_read_while_msix_is_enabled(
    open_function: MakeDisk, interrupts: str, ring: Ring
) -> None:
    disk = open_function(queues=2, interrupts=interrupts, ring=ring)
    live(disk)
    transport = transport_of(disk)
    transport.device.inject("spurious_interrupt", count=3)
    use(disk)
    disk.close()
    assert of(uses(transport.face), "isr") == []


@clause("PCI-CFGINT-01")
@pytest.mark.parametrize("interrupts", ["intx", "shared"])
def test_one_interrupt_may_stand_for_a_change_and_for_used_buffers_of_two_queues(
    reach_function: MakeTransport, interrupts: str
) -> None:
    """It is held back until all of it has happened."""
    transport = reach_function(queues=2, threaded=False, interrupts=interrupts)
    changed = threading.Event()
    driver = PlainDriver([], wish=Wish(wanted=frozenset({BlockFeature.MQ})), queues=2)
    driver.steps["config_changed"] = lambda _: changed.set()
    device = VirtioDevice(transport)
    device.initialize(driver)
    mask_interrupts(transport, True)
    for handle in driver.handles:
        ask_for_serial(handle.queue)
    assert transport.device.serve() == 2
    transport.device.resize(CAPACITY_SECTORS * 2)
    assert not changed.wait(0.01)
    mask_interrupts(transport, False)
    assert changed.wait(WAIT_S)
    for handle in driver.handles:
        fd = handle.queue.parts.wires.interrupt_fd
        assert fd is not None
        assert select.select([fd], [], [], WAIT_S)[0]
        assert len(handle.queue.ring.reap()) == 1
    if interrupts == "intx":
        assert [each.value for each in of(uses(transport.face), "isr")] == [3]
    assert_obedient(transport)


def ask_for_serial(queue: PlainQueue) -> None:
    buffer = queue.parts.memory.alloc(512)
    memoryview(buffer)[0:4] = int(RequestType.GET_ID).to_bytes(4, "little")
    queue.ring.push(Chain([(buffer, 0, 16)], [(buffer, 16, 20), (buffer, 36, 1)]))
    queue.ring.publish()


def mask_interrupts(transport: SoftwarePciTransport, masked: bool) -> None:
    if transport.interrupts.mode == "intx":
        transport.face.set_command(memory=True, bus_master=True, intx_disabled=masked)
    else:
        transport.face.set_msix(enabled=True, masked=masked)


@pytest.mark.parametrize("interrupts", ["msix", "shared", "config", "intx"])
def test_a_change_of_configuration_calls_back_and_shows(
    open_function: MakeDisk, interrupts: str
) -> None:
    seen: list[int] = []
    called = threading.Event()

    def note(config: vioblk.BlockConfig) -> None:
        seen.append(config.capacity_sectors)
        called.set()

    disk = open_function(interrupts=interrupts, on_config_change=note)
    transport_of(disk).device.resize(CAPACITY_SECTORS * 4)
    assert called.wait(WAIT_S)
    assert seen == [CAPACITY_SECTORS * 4]
    disk.write(CAPACITY_SECTORS * 512 * 3, bytes(512))
    assert_obedient(transport_of(disk))


@clause("MSIX-01", "MSIX-03", "MSIX-04")
@pytest.mark.parametrize("queues", [1, 4])
@pytest.mark.parametrize("vectors", [1, 2, 3, 5, 64, 2048])
def test_a_table_of_any_size_is_used_as_far_as_it_goes(
    open_function: MakeDisk, vectors: int, queues: int
) -> None:
    """A vector that the table does not have would be noticed by the face."""
    disk = open_function(queues=queues, vectors=vectors)
    use(disk)
    transport = transport_of(disk)
    assert transport.interrupts.mode == ("msix" if vectors > queues else "shared")
    found = uses(transport.face)
    registers = ("config_msix_vector", "queue_msix_vector")
    mapped = [each.value for each in found if each.name in registers and each.is_write]
    assert mapped
    assert all(vector < vectors for vector in mapped if vector != NO_VECTOR)
    assert_obedient(transport)


@clause("MSIX-05", "MSIX-06")
@pytest.mark.parametrize(
    ("first", "queues", "mode"),
    [(0, 1, "intx"), (1, 1, "shared"), (2, 2, "msix")],
)
def test_a_device_that_refuses_vectors_is_driven_with_fewer_or_none(
    reach_function: MakeTransport, first: int, queues: int, mode: str
) -> None:
    """Of the last kind, both queues share vector 1."""
    transport = reach_function(queues=queues)
    transport.device.inject("refuse_vector", count=1000, value=first)
    with open_disk(transport, queue_count=queues) as disk:
        assert transport.interrupts.mode == mode
        refusals = [why for why in transport.interrupts.passed_over if "refused" in why]
        assert bool(refusals) == (mode != "msix")
        use(disk)
    found = uses(transport.face)
    for name in ("config_msix_vector", "queue_msix_vector"):
        writes = [at for at, each in enumerate(found) if each.name == name and each.is_write]
        for at in writes:
            assert found[at + 1].name == name, "read back at once"
            assert not found[at + 1].is_write
    assert_obedient(transport)


@clause("MSIX-06")
@pytest.mark.parametrize("interrupts", ["msix", "shared", "config"])
def test_vectors_that_were_asked_for_by_name_and_are_refused_are_an_error(
    reach_function: MakeTransport, interrupts: str
) -> None:
    transport = reach_function(interrupts=interrupts)
    transport.device.inject("refuse_vector", count=1000)
    with pytest.raises(TransportError, match="the device refused vector 0"):
        open_disk(transport)


@clause("MSIX-05", "MSIX-06")
def test_a_vector_that_one_queue_is_refused_is_named(reach_function: MakeTransport) -> None:
    transport = reach_function(queues=2, interrupts="msix")
    transport.device.inject("refuse_vector", count=1000, value=2)
    with pytest.raises(TransportError, match="refused vector 2 for queue 1"):
        open_disk(transport, queue_count=2)


@clause("SPLIT-INTR-05")
@pytest.mark.parametrize("interrupts", ["msix", "shared", "config", "intx"])
def test_interrupts_for_nothing_do_no_harm(
    open_function: MakeDisk, interrupts: str, ring: Ring
) -> None:
    calls: list[object] = []
    disk = open_function(interrupts=interrupts, ring=ring, on_config_change=calls.append)
    device = transport_of(disk).device
    for _ in range(20):
        device.inject("spurious_interrupt", count=50)
        device.inject("spurious_config_interrupt", count=50)
        use(disk)
    assert disk.device.state is DeviceState.LIVE
    assert_obedient(transport_of(disk))


def test_the_isr_is_read_once_for_each_interrupt_of_the_pin(
    reach_function: MakeTransport,
) -> None:
    transport = reach_function(threaded=False, interrupts="intx")
    driver = PlainDriver([])
    VirtioDevice(transport).initialize(driver)
    fd = driver.queue.parts.wires.interrupt_fd
    assert fd is not None
    for _ in range(3):
        ask_for_serial(driver.queue)
        assert transport.device.serve() == 1
        assert select.select([fd], [], [], WAIT_S)[0]
        os.eventfd_read(fd)
        assert len(driver.queue.ring.reap()) == 1
        assert not driver.queue.ring.arm()
    reads = of(uses(transport.face), "isr")
    assert [(each.width, each.value, each.is_write) for each in reads] == [(1, 1, False)] * 3


# Bus mastering, and the end


def test_the_device_reaches_no_memory_before_driver_ok_and_none_after_closing() -> None:
    platform = make_platform()
    transport = make_transport(platform)
    assert platform.config.read(0x04, 2) & 4 == 0
    with open_disk(transport) as disk:
        use(disk)
        assert platform.config.read(0x04, 2) & 4
    assert platform.config.read(0x04, 2) & 4 == 0
    platform.close()


def test_requests_wait_while_bus_mastering_is_off(open_function: MakeDisk) -> None:
    disk = open_function()
    platform = transport_of(disk).platform
    disk.write(0, b"a" * 512)
    platform.set_bus_master(False)
    with hasty(disk, 0.1), pytest.raises(vioblk.RequestTimeoutError):
        disk.write(0, b"b" * 512)
    platform.set_bus_master(True)
    disk.flush()
    assert disk.read(0, 512) == b"b" * 512


def test_everything_is_given_back() -> None:
    with no_leaks():
        for interrupts in MODES:
            with open_disk(make_transport(make_platform(queues=2), interrupts=interrupts)) as disk:
                use(disk)


def test_the_usual_features_are_those_of_an_address() -> None:
    with vioblk.open("mem:1M?bus=pci") as disk:
        assert disk.device.offered == USUAL
        assert BlockFeature.FLUSH in disk.device.accepted


@pytest.mark.parametrize("interrupts", ["msix", "shared", "intx"])
def test_requests_get_through_while_everything_around_them_moves(
    open_function: MakeDisk, interrupts: str
) -> None:
    """Masks, bus mastering, the capacity, interrupts for nothing; nothing of it loses a request."""
    features = [Feature.NOTIFICATION_DATA, Feature.NOTIF_CONFIG_DATA]
    disk = open_function(queues=3, queue_count=3, offer=features, interrupts=interrupts)
    transport = transport_of(disk)
    workers = [
        threading.Thread(target=use_some, args=(disk, start, 200))
        for start in range(0, 6 * 4096, 4096)
    ]
    for worker in workers:
        worker.start()
    rounds = 0
    while any(worker.is_alive() for worker in workers) or rounds < 20:
        rounds += 1
        mask_interrupts(transport, True)
        transport.platform.set_bus_master(False)
        transport.device.resize(CAPACITY_SECTORS + rounds % 2)
        transport.device.inject("spurious_interrupt", value=rounds % 3)
        transport.platform.set_bus_master(True)
        mask_interrupts(transport, False)
    for worker in workers:
        worker.join(WAIT_S)
        assert not worker.is_alive()
    assert transport.device.counters()["failed_requests"] == 0
    use(disk)
    assert_obedient(transport)


# Queue reset, by the register layout alone


def start_with_ring_reset(reach_function: MakeTransport) -> SoftwarePciTransport:
    transport = reach_function(offer=[Feature.RING_RESET], interrupts="none")
    transport.map_memory(1 << 16)
    transport.write_status(0)
    assert transport.read_status() == 0
    transport.write_status(1)
    transport.write_status(3)
    transport.write_features(1 << Feature.VERSION_1 | 1 << Feature.RING_RESET)
    transport.write_status(11)
    transport.enable_queue(0, addresses(transport, 64))
    transport.write_status(15)
    return transport


def addresses(transport: SoftwarePciTransport, size: int) -> QueueAddresses:
    layout, start = split_layout(size), transport.space.mappings[0].device_address
    return QueueAddresses(
        size,
        start + layout.descriptors_offset,
        start + layout.available_offset,
        start + layout.used_offset,
    )


@clause("PCI-VQRESET-02", "PCI-VQRESET-03")
def test_a_queue_is_reset_and_enabled_with_another_size(reach_function: MakeTransport) -> None:
    transport = start_with_ring_reset(reach_function)
    layout = transport.layout
    assert isinstance(layout, ModernLayout)
    layout.reset_queue(0)
    transport.enable_queue(0, addresses(transport, 16))
    sizes = [each.value for each in of(uses(transport.face), "common", "queue_size")]
    assert sizes[-1] == 16
    assert transport.read_status() == 15
    assert_obedient(transport)


@clause("PCI-VQRESET-01")
def test_a_queue_reset_that_never_ends_is_given_up(reach_function: MakeTransport) -> None:
    transport = start_with_ring_reset(reach_function)
    transport.device.inject("queue_reset_never_ends")
    layout = transport.layout
    assert isinstance(layout, ModernLayout)
    with pytest.raises(ResetTimeoutError, match=r"queue 0 did not confirm its reset within 0\.05"):
        layout.reset_queue(0, timeout_s=0.05)
    assert_obedient(transport)


@pytest.mark.parametrize("ring", ["native", "reference"])
def test_an_error_says_that_the_device_was_unplugged(ring: Ring) -> None:
    with vioblk.open("mem:1M?bus=pci", ring=ring) as disk:
        transport_of(disk).machine.unplug()
        for call in (lambda: disk.read(0, 512), disk.flush, disk.reset, disk.flush):
            with pytest.raises(vioblk.DeviceGoneError, match="gone: the device was unplugged"):
                call()
