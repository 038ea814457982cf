"""The modern registers: every access has the width, the order and the place that it must have."""

import threading
from collections.abc import Callable

import pytest

from tests.clauses import clause
from tests.support.pci_model import (
    COMMON_READ_ONLY,
    ModernModel,
    QueueModel,
    RecordingRegisters,
    RegisterAccess,
)
from vioblk.errors import (
    DeviceGoneError,
    ProtocolError,
    ResetTimeoutError,
    StateError,
    UnsupportedError,
)
from vioblk.features import Feature
from vioblk.pci.access import NotifyPlace
from vioblk.pci.layout import NO_VECTOR
from vioblk.pci.modern import ModernLayout
from vioblk.pci.virtio_capabilities import NotifyStructure, StructureType
from vioblk.transport.base import QueueAddresses

ADDRESSES = QueueAddresses(64, 0x1_2345_6000, 0x2_3456_7002, 0x3_4567_8004)

VERSION_1 = 1 << Feature.VERSION_1


def structure(
    *, multiplier: int = 4, offset: int = 0x3000, length: int = 0x1000, bar: int = 4
) -> NotifyStructure:
    return NotifyStructure(
        StructureType.NOTIFY, 0x70, bar, 0, offset, length, length, multiplier=multiplier
    )


def layout_of(
    common: ModernModel,
    notify: NotifyStructure | None = None,
    device: RecordingRegisters | None = None,
    isr: RecordingRegisters | None = None,
) -> ModernLayout:
    return ModernLayout(
        common,
        notify or structure(),
        isr or RecordingRegisters(1),
        device or RecordingRegisters(96),
    )


@clause("PCI-ACC-01", "PCI-ACC-02", "PCI-ACC-03", "PCI-COMMON-01")
def test_every_field_is_accessed_with_its_own_width_and_only_the_drivers_are_written() -> None:
    # The model refuses any other width and any write to a field that is the device's.
    common = ModernModel(offered=(1 << 128) - 1)
    layout = layout_of(common)
    layout.write_status(0)
    layout.read_status()
    layout.write_features(layout.read_features())
    layout.config_generation()
    layout.queue_count()
    layout.queue_size_max(1)
    assert layout.set_config_vector(0)
    assert layout.set_queue_vector(1, 1)
    layout.notify_place(1)
    layout.enable_queue(1, ADDRESSES)
    layout.reset_queue(1)
    touched = {each.offset for each in common.log}
    assert touched == set(range(0, 0x14, 4)) | {0x12, 0x14, 0x15} | set(range(0x16, 0x20, 2)) | set(
        range(0x20, 0x38, 4)
    ) | {0x38, 0x3A}
    written = {offset for offset, _ in common.writes()}
    assert not written & COMMON_READ_ONLY


def test_the_128_feature_bits_are_read_in_four_windows() -> None:
    offered = 0x0004_0000_0003_0000_0002_0000_0001_0000 | VERSION_1
    common = ModernModel(offered=offered)
    assert layout_of(common).read_features() == offered
    assert common.writes() == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert [(each.kind, each.offset) for each in common.log] == [("write", 0), ("read", 4)] * 4


def test_all_four_windows_of_accepted_features_are_written() -> None:
    common = ModernModel()
    accepted = 1 << 127 | VERSION_1 | 1 << 5
    layout_of(common).write_features(accepted)
    assert common.accepted == accepted
    assert [offset for offset, _ in common.writes()] == [8, 12] * 4


@pytest.mark.parametrize("accepted", [1 << 128, -1])
def test_features_beyond_the_registers_are_refused_before_anything_is_written(
    accepted: int,
) -> None:
    common = ModernModel()
    with pytest.raises(ValueError, match="do not fit"):
        layout_of(common).write_features(accepted)
    assert common.log == []


@clause("PCI-COMMON-04", "PCI-COMMON-06", "PCI-ACC-03", "PCI-ACC-04")
def test_a_queue_is_enabled_after_everything_else_was_programmed() -> None:
    common = ModernModel()
    layout = layout_of(common)
    assert layout.set_queue_vector(1, 2)
    layout.enable_queue(1, ADDRESSES)
    assert common.queues[1] == QueueModel(
        notify_off=1,
        size=64,
        vector=2,
        enabled=1,
        descriptors=0x1_2345_6000,
        driver=0x2_3456_7002,
        device=0x3_4567_8004,
    )
    assert common.writes() == [
        (0x16, 1),
        (0x1A, 2),
        (0x16, 1),
        (0x18, 64),
        (0x20, 0x2345_6000),
        (0x24, 1),
        (0x28, 0x3456_7002),
        (0x2C, 2),
        (0x30, 0x4567_8004),
        (0x34, 3),
        (0x1C, 1),
    ]


def test_a_queue_that_is_enabled_already_is_left_alone() -> None:
    common = ModernModel()
    layout = layout_of(common)
    layout.enable_queue(0, ADDRESSES)
    writes = len(common.writes())
    with pytest.raises(ProtocolError, match="queue 0 is enabled already"):
        layout.enable_queue(0, ADDRESSES._replace(size=32))
    assert common.writes()[writes:] == [(0x16, 0)]


@clause("PCI-COMMON-03")
@pytest.mark.parametrize("size", [0, 3, 48, 0x10000, -1])
def test_a_split_ring_has_a_power_of_two_of_descriptors(size: int) -> None:
    common = ModernModel()
    with pytest.raises(ValueError, match="a power of two up to 32768 is needed"):
        layout_of(common).enable_queue(0, ADDRESSES._replace(size=size))
    assert common.log == []


@clause("PCI-COMMON-02")
def test_a_packed_ring_has_any_number_of_descriptors_but_zero() -> None:
    common = ModernModel()
    layout = layout_of(common)
    layout.write_features(VERSION_1 | 1 << Feature.RING_PACKED)
    written = len(common.log)
    with pytest.raises(ValueError, match="1 to 32768 is needed"):
        layout.enable_queue(0, ADDRESSES._replace(size=0))
    assert len(common.log) == written
    layout.enable_queue(0, ADDRESSES._replace(size=20))
    assert common.queues[0].size == 20


def test_queues_are_counted_and_sized_as_the_device_says() -> None:
    common = ModernModel(queues=3)
    common.queues[2].size = 16
    layout = layout_of(common)
    assert layout.queue_count() == 3
    assert [layout.queue_size_max(index) for index in range(5)] == [256, 256, 16, 0, 0]
    assert layout.queue_size_max(0x10000) == layout.queue_size_max(-1) == 0


# Configuration


@clause("PCI-ACC-01", "PCI-ACC-02", "PCI-ACC-03", "PCI-ACC-04")
@pytest.mark.parametrize(
    ("offset", "length", "accesses"),
    [
        (0x20, 1, [(0x20, 1)]),
        (0x21, 1, [(0x21, 1)]),
        (0x22, 2, [(0x22, 2)]),
        (0x24, 4, [(0x24, 4)]),
        (0x08, 8, [(0x08, 4), (0x0C, 4)]),
        (0x0C, 8, [(0x0C, 4), (0x10, 4)]),
    ],
)
def test_configuration_is_accessed_by_natural_width(
    offset: int, length: int, accesses: list[tuple[int, int]]
) -> None:
    device = RecordingRegisters(96, bytes(range(96)))
    layout = layout_of(ModernModel(), device=device)
    assert layout.read_config(offset, length) == bytes(range(offset, offset + length))
    assert [(each.offset, each.width) for each in device.log] == accesses
    device.log.clear()
    layout.write_config(offset, b"\xab" * length)
    assert [(each.offset, each.width) for each in device.log] == accesses
    assert layout.read_config(offset, length) == b"\xab" * length


@pytest.mark.parametrize(("offset", "length"), [(1, 2), (2, 4), (2, 8), (0, 3), (0, 0), (-4, 4)])
def test_configuration_that_is_no_aligned_field_is_refused(offset: int, length: int) -> None:
    device = RecordingRegisters(96)
    layout = layout_of(ModernModel(), device=device)
    with pytest.raises(ValueError, match=r"aligned|1, 2, 4 or 8"):
        layout.read_config(offset, length)
    with pytest.raises(ValueError, match=r"aligned|1, 2, 4 or 8"):
        layout.write_config(offset, bytes(length))
    assert device.log == []


def test_a_field_beyond_the_structure_is_nothing_to_read_and_cannot_be_written() -> None:
    device = RecordingRegisters(12)
    layout = layout_of(ModernModel(), device=device)
    assert layout.read_config(8, 8) == layout.read_config(12, 1) == b""
    with pytest.raises(ValueError, match="has 12 bytes"):
        layout.write_config(8, bytes(8))
    assert device.log == []


def test_a_device_without_a_configuration_structure_has_none() -> None:
    layout = ModernLayout(ModernModel(), structure(), RecordingRegisters(1), None)
    assert layout.read_config(0, 4) == b""
    with pytest.raises(ValueError, match="has 0 bytes"):
        layout.write_config(0, bytes(4))


# Structures that are shorter or longer


def test_a_structure_without_the_newer_fields_is_enough() -> None:
    common = ModernModel(length=0x38)
    layout = layout_of(common)
    layout.enable_queue(0, ADDRESSES)
    assert layout.notify_place(0) == NotifyPlace(4, 0x3000, 0, carries_data=False)
    assert layout.usable_features == {Feature.NOTIFICATION_DATA}
    with pytest.raises(UnsupportedError, match="cannot reset a single queue"):
        layout.reset_queue(0)


def test_the_newer_fields_are_there_as_far_as_the_structure_goes() -> None:
    everything = {Feature.NOTIFICATION_DATA, Feature.NOTIF_CONFIG_DATA, Feature.RING_RESET}
    assert layout_of(ModernModel(length=0x3A)).usable_features == everything - {Feature.RING_RESET}
    assert layout_of(ModernModel(length=0x3C)).usable_features == everything


def test_a_structure_that_is_too_short_is_refused() -> None:
    with pytest.raises(ProtocolError, match="has 52 bytes"):
        layout_of(ModernModel(length=0x34))


# Vectors


@clause("MSIX-05")
def test_a_vector_is_read_back_after_it_was_written() -> None:
    common = ModernModel(refuses=frozenset({7}))
    layout = layout_of(common)
    assert layout.set_config_vector(3)
    assert not layout.set_config_vector(7)
    assert layout.set_queue_vector(1, 3)
    assert not layout.set_queue_vector(1, 7)
    assert layout.set_queue_vector(1, NO_VECTOR)
    assert common.log == [
        RegisterAccess("write", 0x10, 2, 3),
        RegisterAccess("read", 0x10, 2, 3),
        RegisterAccess("write", 0x10, 2, 7),
        RegisterAccess("read", 0x10, 2, NO_VECTOR),
        RegisterAccess("write", 0x16, 2, 1),
        RegisterAccess("write", 0x1A, 2, 3),
        RegisterAccess("read", 0x1A, 2, 3),
        RegisterAccess("write", 0x16, 2, 1),
        RegisterAccess("write", 0x1A, 2, 7),
        RegisterAccess("read", 0x1A, 2, NO_VECTOR),
        RegisterAccess("write", 0x16, 2, 1),
        RegisterAccess("write", 0x1A, 2, NO_VECTOR),
        RegisterAccess("read", 0x1A, 2, NO_VECTOR),
    ]


def test_the_isr_is_read_as_one_byte() -> None:
    isr = RecordingRegisters(1, b"\x03")
    layout = layout_of(ModernModel(), isr=isr)
    assert layout.read_isr() == 3
    assert isr.log == [RegisterAccess("read", 0, 1, 3)]
    layout.set_msix_enabled(True)
    assert len(isr.log) == 1


# Doorbells


@pytest.mark.parametrize("multiplier", [0, 2, 3, 4, 7, 4096, 1 << 24])
def test_a_doorbell_is_where_offset_and_multiplier_put_it(multiplier: int) -> None:
    common = ModernModel()
    common.queues[1].notify_off = 6
    layout = layout_of(common, structure(multiplier=multiplier, length=1 << 30, offset=0x1000))
    if (6 * multiplier) % 2:
        with pytest.raises(ProtocolError, match="not aligned"):
            layout.notify_place(1)
        return
    assert layout.notify_place(1) == NotifyPlace(4, 0x1000 + 6 * multiplier, 1, carries_data=False)


def test_the_notification_structure_may_be_in_an_io_bar() -> None:
    place = layout_of(ModernModel(), structure(bar=5, offset=0, length=4, multiplier=0))
    assert place.notify_place(1) == NotifyPlace(5, 0, 1, carries_data=False)


@pytest.mark.parametrize(
    ("notify_off", "length", "data", "fits"),
    [
        (0, 2, False, True),
        (0, 2, True, False),
        (3, 14, False, True),
        (3, 13, False, False),
        (3, 15, True, False),
        (3, 16, True, True),
        (0xFFFF, 0x1000, False, False),
    ],
)
def test_a_doorbell_outside_the_notification_structure_is_an_error(
    notify_off: int, length: int, data: bool, fits: bool
) -> None:
    common = ModernModel()
    common.queues[0].notify_off = notify_off
    layout = layout_of(common, structure(length=length))
    if data:
        layout.write_features(VERSION_1 | 1 << Feature.NOTIFICATION_DATA)
    if fits:
        assert layout.notify_place(0).offset == 0x3000 + 4 * notify_off
    else:
        with pytest.raises(ProtocolError, match=f"beyond the {length} bytes of the notification"):
            layout.notify_place(0)


def test_a_doorbell_that_carries_data_is_aligned_to_four_bytes() -> None:
    layout = layout_of(ModernModel(), structure(offset=0x3002))
    assert layout.notify_place(0).offset == 0x3002
    layout.write_features(VERSION_1 | 1 << Feature.NOTIFICATION_DATA)
    with pytest.raises(ProtocolError, match="not aligned to its 4 bytes"):
        layout.notify_place(0)


@pytest.mark.parametrize(
    ("features", "value", "carries_data"),
    [
        ((), 1, False),
        ((Feature.NOTIFICATION_DATA,), 1, True),
        ((Feature.NOTIF_CONFIG_DATA,), 0xBEEF, False),
        ((Feature.NOTIF_CONFIG_DATA, Feature.NOTIFICATION_DATA), 0xBEEF, True),
    ],
)
@clause("PCI-NOTIFY-03", "PCI-NOTIFY-04", "PCI-NOTIFY-05", "PCI-NOTIFY-06")
def test_what_a_notification_holds_is_as_the_features_have_it(
    features: tuple[Feature, ...], value: int, carries_data: bool
) -> None:
    common = ModernModel()
    common.queues[1].notif_config_data = 0xBEEF
    layout = layout_of(common)
    layout.write_features(VERSION_1 | sum(1 << each for each in features))
    assert layout.notify_place(1) == NotifyPlace(4, 0x3004, value, carries_data)


# The reset of a queue


def with_ring_reset(common: ModernModel) -> ModernLayout:
    layout = layout_of(common)
    layout.write_features(VERSION_1 | 1 << Feature.RING_RESET)
    return layout


@clause("PCI-VQRESET-01")
def test_a_queue_is_reset_when_the_register_reads_zero() -> None:
    common = ModernModel()
    layout = with_ring_reset(common)
    layout.enable_queue(1, ADDRESSES)
    answers = [0, 1, 1, 1, 0]
    common.on_read[0x3A] = lambda: answers.pop(0)
    layout.reset_queue(1)
    assert answers == []
    assert common.writes(0x3A) == [(0x3A, 1)]
    assert not common.queues[1].enabled


@clause("PCI-VQRESET-02", "PCI-VQRESET-03", "PCI-COMMON-06")
def test_a_queue_that_was_reset_can_be_enabled_with_other_settings() -> None:
    common = ModernModel()
    layout = with_ring_reset(common)
    layout.enable_queue(1, ADDRESSES)
    layout.reset_queue(1)
    assert layout.queue_size_max(1) == 256
    layout.enable_queue(1, ADDRESSES._replace(size=128))
    assert (common.queues[1].size, common.queues[1].enabled) == (128, 1)


@clause("PCI-VQRESET-01")
def test_a_reset_of_a_queue_that_never_ends_is_given_up() -> None:
    common = ModernModel()
    common.on_read[0x3A] = lambda: 1
    with pytest.raises(ResetTimeoutError, match="queue 1 did not confirm"):
        with_ring_reset(common).reset_queue(1, timeout_s=0.01)


@clause("PCI-VQRESET-01")
@pytest.mark.parametrize("enabled", [0, 1], ids=["disabled at once", "disabled at the end"])
def test_a_reset_of_a_queue_that_is_under_way_is_waited_for_and_not_asked_for_again(
    enabled: int,
) -> None:
    common = ModernModel()
    layout = with_ring_reset(common)
    layout.enable_queue(1, ADDRESSES)
    asked = common.writes
    common.on_read[0x3A] = lambda: len(asked(0x3A))
    common.on_read[0x1C] = lambda: 0 if asked(0x3A) and not enabled else 1
    for _ in range(2):
        with pytest.raises(ResetTimeoutError):
            layout.reset_queue(1, timeout_s=0.01)
    common.on_read.clear()
    layout.reset_queue(1)
    assert asked(0x3A) == [(0x3A, 1)]


def test_whoever_is_not_there_confirms_no_reset_of_a_queue() -> None:
    common = ModernModel()
    layout = with_ring_reset(common)
    layout.enable_queue(1, ADDRESSES)
    common.on_read[0x3A] = lambda: 0xFFFF

    def judge(value: int) -> int:
        assert value == 0xFFFF
        raise DeviceGoneError("unplugged")

    with pytest.raises(DeviceGoneError, match="unplugged"):
        layout.reset_queue(1, judge=judge)


def test_a_queue_is_not_reset_unless_that_was_negotiated() -> None:
    common = ModernModel()
    with pytest.raises(StateError, match="RING_RESET"):
        layout_of(common).reset_queue(0)
    assert common.log == []


# Threads


def test_a_selection_holds_until_what_it_selects_was_accessed() -> None:
    common = ModernModel(offered=1 << 127 | VERSION_1 | 5, queues=8)
    for index, queue in enumerate(common.queues):
        queue.size = 1 << index
    layout = layout_of(common)
    wrong: list[object] = []
    start = threading.Barrier(3)

    def repeat(look: Callable[[], object], expected: object) -> None:
        start.wait()
        for _ in range(300):
            found = look()
            if found != expected:
                wrong.append(found)

    looks: list[tuple[Callable[[], object], object]] = [
        (lambda: layout.queue_size_max(3), 8),
        (lambda: layout.queue_size_max(6), 64),
        (layout.read_features, common.offered),
    ]
    threads = [threading.Thread(target=repeat, args=each) for each in looks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    # Each selection is followed at once by the access that it is for.
    pairs = list(zip(common.log, common.log[1:], strict=False))
    for select, data in ((0x16, 0x18), (0x00, 0x04)):
        followers = {b.offset for a, b in pairs if a.kind == "write" and a.offset == select}
        assert followers == {data}
