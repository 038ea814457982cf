"""Where the structures of a virtio device are, and why a capability is not used."""

from collections.abc import Sequence

import pytest

from tests.clauses import clause
from tests.pci.spaces import ModelSpace, chained, endpoint, memory_bar, recorded, virtio_cap
from vioblk.pci.bars import Bar, read_bars
from vioblk.pci.capabilities import walk
from vioblk.pci.virtio_capabilities import (
    ConfigWindow,
    NotifyStructure,
    Skipped,
    Structure,
    StructureType,
    VendorData,
    VirtioCapabilities,
    parse,
    read_vendor_data,
)

BARS = (memory_bar(),)
MULTIPLIER = (4).to_bytes(4, "little")


def parsed(*capabilities: bytes, bars: Sequence[Bar] = BARS) -> VirtioCapabilities:
    return parse_space(endpoint(capabilities=chained(*capabilities)), bars)


def parse_space(space: ModelSpace, bars: Sequence[Bar] = BARS) -> VirtioCapabilities:
    return parse(space, walk(space), bars)


def reasons(found: VirtioCapabilities) -> list[str]:
    return [each.reason for each in found.skipped]


def of_qemu(name: str) -> VirtioCapabilities:
    config = recorded(name)
    return parse(config, walk(config), read_bars(config))


@clause("PCI-DETECT-01", "PCI-LEG-04")
@pytest.mark.parametrize("name", ["modern_1042", "transitional_1001", "q35_behind_root_port"])
def test_the_structures_of_a_device_are_found_in_its_list(name: str) -> None:
    found = of_qemu(name)
    (common,), (notify,), (isr,), (device,) = found.common, found.notify, found.isr, found.device
    assert [(each.bar, each.offset, each.length) for each in (common, notify, isr, device)] == [
        (4, 0x0000, 64),
        (4, 0x3000, 0x1000),
        (4, 0x1000, 1),
        (4, 0x2000, 0x1000),
    ]
    assert notify.multiplier == 4
    assert len(found.pci_cfg) == 1
    assert (found.skipped, found.present, found.why_not_modern()) == ((), True, None)


@clause("PCI-LEG-04")
def test_a_legacy_device_has_none() -> None:
    found = of_qemu("legacy_1001")
    assert found == VirtioCapabilities()
    assert not found.present
    assert found.why_not_modern() == "there is no virtio capability"


@clause("PCI-CAP-02")
def test_of_several_the_order_of_the_list_is_kept() -> None:
    found = of_qemu("modern_pio_notify")
    assert [(each.bar, each.multiplier, each.length) for each in found.notify] == [
        (2, 0, 4),
        (4, 4096, 0x400000),
    ]


@clause("PCI-CAP-02")
def test_the_first_usable_of_several_comes_first() -> None:
    found = parsed(
        virtio_cap(1, bar=3),
        virtio_cap(1, offset=0x1000),
        virtio_cap(1, offset=0x2000),
    )
    assert [each.offset for each in found.common] == [0x1000, 0x2000]
    assert reasons(found) == ["BAR 3 is not there"]


@clause("PCI-CAP-01")
@pytest.mark.parametrize("cfg_type", [0, 6, 7, 10, 11, 0x80, 0xFF])
def test_a_reserved_type_is_skipped(cfg_type: int) -> None:
    found = parsed(virtio_cap(cfg_type), virtio_cap(1))
    assert found.skipped == (Skipped(0x40, cfg_type, "the type is reserved"),)
    assert str(found.skipped[0]) == f"type {cfg_type} at 0x40: the type is reserved"
    assert len(found.common) == 1
    assert not parsed(virtio_cap(cfg_type)).present


@clause("PCI-CAP-04")
@pytest.mark.parametrize("cfg_type", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("bar", [6, 7, 0xFF])
def test_a_reserved_bar_is_skipped(cfg_type: int, bar: int) -> None:
    found = parsed(virtio_cap(cfg_type, bar=bar, extra=bytes(8)))
    assert found.skipped == (Skipped(0x40, cfg_type, f"BAR {bar} is a reserved value"),)


@clause("PCI-CAP-03")
@pytest.mark.parametrize("capability_length", [16, 17, 20, 64, 255])
def test_a_capability_may_be_longer_than_its_fields(capability_length: int) -> None:
    found = parsed(virtio_cap(1, capability_length=capability_length))
    assert len(found.common) == 1
    assert found.skipped == ()


@pytest.mark.parametrize(
    ("cfg_type", "needed"), [(1, 16), (2, 20), (3, 16), (4, 16), (5, 20), (8, 24), (9, 6)]
)
def test_a_capability_that_is_too_short_is_skipped(cfg_type: int, needed: int) -> None:
    short = virtio_cap(cfg_type, extra=bytes(8), capability_length=needed - 1)
    found = parsed(short)
    reason = f"the capability has {needed - 1} bytes and needs {needed}"
    assert found.skipped == (Skipped(0x40, cfg_type, reason),)


@pytest.mark.parametrize("offset", [0xF0, 0xF4, 0xFC])
def test_a_capability_that_the_space_cuts_off_is_skipped(offset: int) -> None:
    found = parse_space(endpoint(capabilities=[(offset, bytes([0x09, 20, 2]))]))
    assert reasons(found) == ["the capability is cut off: the space ends at 0x100"]


@clause("PCI-CAP-05", "PCI-CAP-06", "PCI-CAP-09")
@pytest.mark.parametrize("claimed", [0x40, 0x1000, 0x4000, 0x4001, 0x100000, 0xFFFFFFFF])
@pytest.mark.parametrize(("cfg_type", "most"), [(1, 64), (3, 1), (4, 4096)])
def test_of_a_huge_structure_only_what_can_be_needed_is_used(
    claimed: int, cfg_type: int, most: int
) -> None:
    found = parsed(virtio_cap(cfg_type, length=claimed))
    (structure,) = found.common + found.isr + found.device
    assert structure.length == min(claimed, most)
    assert structure.claimed_length == claimed


@clause("PCI-CAP-05")
def test_of_the_notifications_only_what_a_queue_can_reach_is_used() -> None:
    bars = (memory_bar(length=1 << 32),)
    found = parsed(virtio_cap(2, length=0xFFFFFFFF, extra=MULTIPLIER), bars=bars)
    assert found.notify[0].length == 0xFFFF * 4 + 4
    single = parsed(virtio_cap(2, length=0xFFFFFFFF, extra=bytes(4)), bars=bars)
    assert single.notify[0].length == 4


@clause("PCI-CAP-06")
def test_a_structure_that_goes_on_beyond_its_bar_is_used_as_far_as_the_bar_goes() -> None:
    found = parsed(
        virtio_cap(1, offset=0x4000 - 0x38, length=0x10000),
        virtio_cap(2, offset=0x3FFE, length=0x1000, extra=MULTIPLIER),
        virtio_cap(4, offset=0x3FFC, length=0x1000),
    )
    assert found.common[0].length == 0x38
    assert found.notify[0].length == 2
    assert found.device[0].length == 4


@clause("PCI-CAP-07")
@pytest.mark.parametrize(
    ("cfg_type", "length", "needed"), [(1, 0x37, 0x38), (2, 1, 2), (3, 0, 1), (4, 0, 1), (8, 0, 1)]
)
def test_a_structure_that_is_too_short_is_not_used(cfg_type: int, length: int, needed: int) -> None:
    found = parsed(virtio_cap(cfg_type, length=length, extra=bytes(8)))
    bytes_ = "1 byte" if length == 1 else f"{length} bytes"
    assert reasons(found) == [f"it has {bytes_} and needs {needed}"]


@pytest.mark.parametrize(
    ("cfg_type", "offset", "needed"),
    [(1, 0x3FCC, 0x38), (2, 0x4000, 2), (3, 0x4000, 1), (4, 0x4000, 1), (4, 0xFFFFFFFC, 1)],
)
def test_a_structure_beyond_its_bar_is_not_used(cfg_type: int, offset: int, needed: int) -> None:
    found = parsed(virtio_cap(cfg_type, offset=offset, extra=bytes(4)))
    assert reasons(found) == [
        f"{needed:#x} bytes at {offset:#x} do not lie in BAR 4, which has 0x4000"
    ]


@pytest.mark.parametrize(
    ("cfg_type", "offset", "alignment"), [(1, 2, 4), (1, 1, 4), (2, 1, 2), (2, 3, 2), (4, 2, 4)]
)
def test_a_misaligned_structure_is_not_used(cfg_type: int, offset: int, alignment: int) -> None:
    found = parsed(virtio_cap(cfg_type, offset=offset, extra=MULTIPLIER))
    assert reasons(found) == [f"offset {offset:#x} is no multiple of {alignment}"]


@pytest.mark.parametrize(("cfg_type", "offset"), [(2, 2), (3, 1), (3, 3), (8, 1)])
def test_some_structures_need_no_more_alignment(cfg_type: int, offset: int) -> None:
    assert parsed(virtio_cap(cfg_type, offset=offset, extra=bytes(8))).skipped == ()


@pytest.mark.parametrize(
    ("bar", "reason"),
    [
        (memory_bar(2), "BAR 4 is not there"),
        (memory_bar(4, 0, "its size is zero"), "BAR 4: its size is zero"),
        (memory_bar(4, None, "no size"), "BAR 4: no size"),
    ],
)
def test_a_structure_in_a_bar_that_cannot_be_used_is_not_used(bar: Bar, reason: str) -> None:
    assert reasons(parsed(virtio_cap(1), bars=[bar])) == [reason]


def test_a_structure_may_be_in_an_io_bar() -> None:
    bars = [Bar(0, "io", 32, False, 0xC000, 0x80)]
    assert parsed(virtio_cap(3, bar=0, offset=0x13, length=1), bars=bars).isr[0].bar == 0


def test_without_lengths_of_bars_what_a_capability_claims_is_taken() -> None:
    found = parsed(virtio_cap(4, offset=0x100000, length=0x60), bars=[memory_bar(length=None)])
    assert found.device[0].length == 0x60


def test_shared_memory_has_64_bits() -> None:
    high = (2).to_bytes(4, "little") + (1).to_bytes(4, "little")
    bars = [memory_bar(length=1 << 36)]
    found = parsed(virtio_cap(8, offset=0x1000, length=0x2000, identifier=7, extra=high), bars=bars)
    assert found.shared_memory == (
        Structure(
            StructureType.SHARED_MEMORY,
            capability_offset=0x40,
            bar=4,
            id=7,
            offset=0x2_0000_1000,
            length=0x1_0000_2000,
            claimed_length=0x1_0000_2000,
        ),
    )


def test_shared_memory_has_to_lie_in_its_bar_whole() -> None:
    found = parsed(virtio_cap(8, offset=0x3000, length=0x2000, extra=bytes(8)))
    assert reasons(found) == ["0x2000 bytes at 0x3000 do not lie in BAR 4, which has 0x4000"]


def test_the_identifier_of_a_structure_is_told() -> None:
    assert parsed(virtio_cap(1, identifier=9)).common[0].id == 9


def test_the_configuration_window_is_found_and_its_fields_are_not_read() -> None:
    """PCI_CFG: they are the driver's to write, and reading the data is an access to the BAR."""
    space = endpoint(capabilities=chained(virtio_cap(5, bar=0, length=0, extra=bytes(4))))
    found = parse_space(space, bars=())
    assert found.pci_cfg == (ConfigWindow(0x40),)
    window = found.pci_cfg[0]
    assert (window.bar_offset, window.offset_offset, window.length_offset, window.data_offset) == (
        0x44,
        0x48,
        0x4C,
        0x50,
    )
    assert found.present
    touched = {offset + index for _, offset, width, _ in space.log for index in range(width)}
    assert not touched & set(range(0x50, 0x54))


@pytest.mark.parametrize("cfg_type", [1, 2, 3, 4, 5, 8, 9, 77])
def test_nothing_is_written(cfg_type: int) -> None:
    space = endpoint(capabilities=chained(virtio_cap(cfg_type, extra=bytes(8))))
    parse_space(space)
    assert not space.writes()


def vendor_capability(vendor: int, content: bytes, length: int | None = None) -> bytes:
    length = 6 + len(content) if length is None else length
    return bytes([0x09, length, 9]) + vendor.to_bytes(2, "little") + content


@clause("PCI-VNDR-02")
def test_vendor_data_is_read_only_for_its_vendor() -> None:
    space = endpoint(capabilities=chained(vendor_capability(0x8086, b"private..."), virtio_cap(1)))
    found = parse_space(space)
    assert found.vendor_data == (VendorData(0x40, 0x8086, 10),)
    content = {offset for _, offset, _, _ in space.log} & set(range(0x46, 0x50))
    assert not content, "the content was read before its vendor was checked"
    with pytest.raises(ValueError, match="at 0x40 is of vendor 0x8086, not 0x1022"):
        read_vendor_data(space, found.vendor_data[0], 0x1022)
    assert read_vendor_data(space, found.vendor_data[0], 0x8086) == b"private..."


@clause("PCI-VNDR-01")
def test_vendor_data_changes_nothing_but_the_report() -> None:
    others = [virtio_cap(1), virtio_cap(2, extra=MULTIPLIER), virtio_cap(3, offset=1)]
    without = parsed(*others)
    vendor = parsed(*others, vendor_capability(0x8086, bytes(range(10))))
    assert vendor.vendor_data
    assert (vendor.common, vendor.notify, vendor.isr) == (
        without.common,
        without.notify,
        without.isr,
    )
    assert vendor.why_not_modern() == without.why_not_modern()
    only = parsed(vendor_capability(0x8086, bytes(2)))
    assert (only.present, only.skipped) == (False, ())


def test_vendor_data_of_the_vendor_of_virtio_is_skipped() -> None:
    found = parsed(vendor_capability(0x1AF4, bytes(2)))
    assert reasons(found) == ["vendor 0x1af4 is not allowed there"]
    assert not found.present


def test_vendor_data_ends_where_the_space_does() -> None:
    space = endpoint(capabilities=[(0xF0, vendor_capability(0x8086, bytes(10), length=255))])
    (data,) = parse_space(space).vendor_data
    assert data.length == 10


@pytest.mark.parametrize(
    ("capabilities", "why"),
    [
        ((virtio_cap(9, extra=bytes(4)),), "there is no virtio capability"),
        (
            (virtio_cap(1), virtio_cap(3)),
            "no usable notifications",
        ),
        (
            (virtio_cap(1, bar=0), virtio_cap(2, extra=MULTIPLIER), virtio_cap(3, bar=9)),
            "no usable common configuration (BAR 0 is not there); "
            "no usable ISR status (BAR 9 is a reserved value)",
        ),
        ((virtio_cap(1), virtio_cap(2, extra=MULTIPLIER), virtio_cap(3)), None),
    ],
)
def test_what_keeps_a_device_from_its_modern_interface_is_said(
    capabilities: Sequence[bytes], why: str | None
) -> None:
    assert parsed(*capabilities).why_not_modern() == why


def test_a_broken_virtio_capability_still_shows_that_the_device_is_no_legacy_one() -> None:
    assert parsed(virtio_cap(1, bar=0)).present


def test_a_notification_structure_says_where_its_queues_are() -> None:
    (notify,) = parsed(virtio_cap(2, offset=0x3000, extra=MULTIPLIER)).notify
    assert notify == NotifyStructure(StructureType.NOTIFY, 0x40, 4, 0, 0x3000, 0x1000, 0x1000, 4)
