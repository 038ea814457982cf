"""Which interface a device is driven by, how its registers are reached, and why not."""

import threading

import pytest

from tests.clauses import clause
from tests.pci.spaces import ModelSpace, chained, endpoint, recorded, virtio_cap
from tests.support.pci_model import (
    COMMON_AT,
    DEVICE_AT,
    ISR_AT,
    NOTIFY_AT,
    LegacyModel,
    ModelPlatform,
    ModernModel,
    Mosaic,
    RecordingRegisters,
    WindowSpace,
    legacy_space,
    modern_space,
)
from vioblk.errors import TransportError
from vioblk.pci.access import NotifyPlace, Registers
from vioblk.pci.bars import read_bars
from vioblk.pci.capabilities import MsixCapability, walk
from vioblk.pci.choose import Interface, choose_layout
from vioblk.pci.legacy import LegacyLayout
from vioblk.pci.modern import ModernLayout
from vioblk.pci.virtio_capabilities import parse

MULTIPLIER = (4).to_bytes(4, "little")


def modern_bar(common: ModernModel | None = None) -> Mosaic:
    parts: dict[int, Registers] = {
        COMMON_AT: common or ModernModel(),
        ISR_AT: RecordingRegisters(0x1000),
        DEVICE_AT: RecordingRegisters(0x1000),
        NOTIFY_AT: RecordingRegisters(0x1000),
    }
    return Mosaic(0x4000, parts)


def transitional(*capabilities: bytes) -> ModelPlatform:
    """Both interfaces; `capabilities` come first in its list."""
    space = modern_space(*capabilities, device=0x1001)
    space.add_bar(0, 0x80, flags=1, address=0xC000)
    return ModelPlatform(space, {0: LegacyModel(), 4: modern_bar()})


def legacy(space: ModelSpace | None = None) -> ModelPlatform:
    return ModelPlatform(space or legacy_space(), {0: LegacyModel()})


@clause("PCI-DETECT-01", "PCI-LEG-04")
def test_the_modern_interface_is_preferred() -> None:
    choice = choose_layout(transitional())
    assert isinstance(choice.layout, ModernLayout)
    assert choice.layout.interface == "modern"
    assert (choice.identity.device_type, choice.identity.transitional) == (2, True)
    assert choice.reason == "modern interface: the device has virtio capabilities"
    assert choice.notify_window is None


def test_the_legacy_interface_is_taken_on_request() -> None:
    choice = choose_layout(transitional(), "legacy")
    assert isinstance(choice.layout, LegacyLayout)
    assert choice.reason == "legacy interface: it was asked for"


@clause("PCI-LEG-04", "PCI-LEG-05")
def test_a_device_without_virtio_capabilities_is_driven_by_the_legacy_interface() -> None:
    choice = choose_layout(legacy())
    assert isinstance(choice.layout, LegacyLayout)
    assert "no virtio capability" in choice.reason


@clause("PCI-LEG-03")
@pytest.mark.parametrize("enabled", [False, True])
def test_a_legacy_device_whose_msix_was_left_enabled_has_its_configuration_further_back(
    enabled: bool,
) -> None:
    space = legacy_space(vector_count=4)
    control = walk(space).first_of(MsixCapability)
    assert control is not None
    space.data[control.control_offset + 1] |= 0x80 if enabled else 0
    registers = LegacyModel(config=b"\xc0\xf1" + bytes(38))
    registers.msix_enabled = enabled
    choice = choose_layout(ModelPlatform(space, {0: registers}))
    assert choice.layout.read_config(0, 2) == b"\xc0\xf1"
    assert registers.writes() == []


@clause("PCI-DETECT-01", "PCI-DETECT-02")
def test_a_legacy_device_is_let_alone_by_who_wants_the_modern_interface() -> None:
    platform = legacy()
    with pytest.raises(TransportError) as refusal:
        choose_layout(platform, "modern")
    assert str(refusal.value) == (
        "this is a legacy device: it has no virtio capability, so the modern interface cannot "
        "drive it; found: BAR 0 (I/O at 0xc300)"
    )
    assert platform.space_writes == []


@pytest.mark.parametrize("name", ["modern_1042", "transitional_1001", "q35_behind_root_port"])
def test_what_qemu_shows_is_driven_by_the_modern_interface(name: str) -> None:
    platform = ModelPlatform(recorded(name), {4: modern_bar()})
    choice = choose_layout(platform)
    assert choice.layout.interface == "modern"
    assert choice.msix is not None
    assert choice.msix.vector_count == 2


def test_what_qemu_shows_of_a_legacy_device_is_driven_so() -> None:
    platform = ModelPlatform(recorded("legacy_1001"), {0: LegacyModel()})
    assert choose_layout(platform).layout.interface == "legacy"


def test_a_notification_structure_in_an_io_bar_comes_first_if_it_does_in_the_list() -> None:
    config = recorded("modern_pio_notify")
    (io_bar,) = [bar.index for bar in read_bars(config) if bar.kind == "io" and bar.index != 0]
    platform = ModelPlatform(config, {4: modern_bar(), io_bar: RecordingRegisters(4)})
    place = choose_layout(platform, "modern").layout.notify_place(1)
    assert place == NotifyPlace(io_bar, 0, 1, carries_data=False)


# The earliest that is usable


@clause("PCI-CAP-02")
def test_the_earliest_structure_that_can_be_reached_is_taken() -> None:
    earlier = virtio_cap(1, bar=2, offset=0, length=0x40)
    space = modern_space(earlier)
    space.add_bar(2, 0x1000, address=0xF000_0000)
    first, second = ModernModel(queues=1), ModernModel(queues=2)
    both = ModelPlatform(space, {2: first, 4: modern_bar(second)})
    assert choose_layout(both).layout.queue_count() == 1
    # Nobody can reach BAR 2, so the later one it is, though a window would lead to it.
    one = ModelPlatform(space, {4: modern_bar(second)})
    assert choose_layout(one).layout.queue_count() == 2


@clause("PCI-CAP-02")
def test_structures_that_do_not_lie_in_their_bar_are_passed_over() -> None:
    beyond = virtio_cap(1, bar=4, offset=0x3FF0, length=0x40)
    absent = virtio_cap(1, bar=3, offset=0, length=0x40)
    platform = ModelPlatform(modern_space(beyond, absent), {4: modern_bar(ModernModel(queues=7))})
    assert choose_layout(platform).layout.queue_count() == 7


# The window


def test_a_bar_that_cannot_be_reached_is_reached_through_the_window() -> None:
    choice = choose_layout(ModelPlatform(modern_space(), {}))
    assert choice.layout.interface == "modern"
    assert choice.notify_window is not None
    assert "by the window of the configuration space: common configuration" in choice.reason


def test_the_window_is_used_for_what_needs_it_only() -> None:
    notify = virtio_cap(2, bar=2, extra=MULTIPLIER)
    structures = [virtio_cap(1, length=0x40), virtio_cap(3, offset=0x1000, length=1)]
    window = virtio_cap(5, bar=0, length=0, extra=bytes(4))
    space = endpoint(capabilities=chained(*structures, notify, window))
    space.add_bar(4, 0x4000, flags=0xC, address=0xE000_0000, width_bits=64)
    space.add_bar(2, 0x1000, address=0xF000_0000)
    choice = choose_layout(ModelPlatform(space, {4: modern_bar()}))
    assert choice.layout.queue_count() == 2
    assert choice.notify_window is not None
    assert choice.reason.endswith("space: notifications")


def test_the_window_is_used_for_everything_on_request() -> None:
    choice = choose_layout(transitional(), access="window")
    assert choice.notify_window is not None
    assert choice.reason.endswith(
        "common configuration, notifications, ISR status, device configuration"
    )


def test_a_doorbell_keeps_out_of_an_access_to_another_structure() -> None:
    """The window is aimed in several steps, and whoever came between would be aimed elsewhere."""

    class Interrupted(WindowSpace):
        def write(self, offset: int, width: int, value: int) -> None:
            super().write(offset, width, value)
            if offset == self.offset_at and threading.current_thread() is threading.main_thread():
                thread.start()
                thread.join(0.1)  # It is at the lock, where nothing tells of it.

    plain = modern_space()
    (capability,) = parse(plain, walk(plain), read_bars(plain)).pci_cfg
    behind = {4: (0, modern_bar(ModernModel(queues=3)))}
    space = Interrupted(bytes(plain.data), capability.capability_offset, behind)
    choice = choose_layout(ModelPlatform(space, {}))
    window = choice.notify_window
    assert window is not None
    thread = threading.Thread(target=window.write, args=(4, NOTIFY_AT, 2, 1))
    assert choice.layout.queue_count() == 3
    thread.join()
    assert space.log[-1] == ("write", space.data_at, 2, 1)


def test_without_a_window_what_cannot_be_reached_is_refused() -> None:
    with pytest.raises(TransportError) as refusal:
        choose_layout(ModelPlatform(modern_space(window=False), {}))
    assert "the common configuration cannot be reached: BAR 4: BAR 4 is not there" in str(
        refusal.value
    )
    assert "there is no PCI configuration access capability" in str(refusal.value)


def test_the_window_is_left_alone_on_request() -> None:
    with pytest.raises(TransportError, match="common configuration cannot be reached"):
        choose_layout(ModelPlatform(modern_space(), {}), access="bar")


def test_a_window_that_was_asked_for_and_is_not_there_is_missed() -> None:
    platform = ModelPlatform(modern_space(window=False), {4: modern_bar()})
    with pytest.raises(TransportError, match="there is no PCI configuration access capability"):
        choose_layout(platform, access="window")


def test_the_window_is_not_for_the_legacy_registers() -> None:
    with pytest.raises(TransportError, match="no virtio structure"):
        choose_layout(legacy(), access="window")


# Refusals, each of which says what was found


def test_a_modern_device_has_no_legacy_interface() -> None:
    platform = ModelPlatform(modern_space(), {4: modern_bar()})
    with pytest.raises(TransportError, match="a modern only device has none") as refusal:
        choose_layout(platform, "legacy")
    assert "common configuration in BAR 4 at 0x0" in str(refusal.value)


@pytest.mark.parametrize("flags", [None, 0])
def test_the_legacy_interface_needs_an_io_bar(flags: int | None) -> None:
    space = endpoint(device=0x1001)
    if flags is not None:
        space.add_bar(0, 0x1000, flags=flags, address=0xF000_0000)
    with pytest.raises(TransportError, match="BAR 0, where its registers would be, is not an I/O"):
        choose_layout(ModelPlatform(space, {0: LegacyModel()}))


def test_legacy_registers_that_cannot_be_reached_are_missed() -> None:
    with pytest.raises(TransportError, match="in BAR 0, which cannot be reached: BAR 0 is not"):
        choose_layout(ModelPlatform(legacy_space(), {}))


@pytest.mark.parametrize("interface", ["auto", "modern"])
def test_capabilities_that_are_broken_are_not_taken_for_none(interface: Interface) -> None:
    space = endpoint(device=0x1001, capabilities=chained(virtio_cap(1, bar=6), virtio_cap(3)))
    space.add_bar(0, 0x40, flags=1, address=0xC300)
    space.add_bar(4, 0x4000, address=0xE000_0000)
    platform = ModelPlatform(space, {0: LegacyModel(), 4: modern_bar()})
    with pytest.raises(TransportError) as refusal:
        choose_layout(platform, interface)
    text = str(refusal.value)
    assert "no usable common configuration (BAR 6 is a reserved value)" in text
    assert "no usable notifications" in text
    assert "skipped: common configuration at 0x40: BAR 6 is a reserved value" in text
    assert "interface=legacy" in text
    assert choose_layout(platform, "legacy").layout.interface == "legacy"


def test_what_is_no_virtio_device_is_refused() -> None:
    platform = ModelPlatform(endpoint(vendor=0x8086), {})
    with pytest.raises(TransportError, match="no virtio device: vendor 0x8086 is not 0x1af4"):
        choose_layout(platform)


def test_what_is_not_there_is_refused() -> None:
    platform = ModelPlatform(ModelSpace(b"\xff" * 256), {})
    with pytest.raises(TransportError, match="no PCI function answers"):
        choose_layout(platform)


def test_other_words_are_refused() -> None:
    with pytest.raises(ValueError, match="one of auto, modern, legacy, not 'newest'"):
        choose_layout(transitional(), "newest")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one of auto, bar, window, not 'door'"):
        choose_layout(transitional(), access="door")  # type: ignore[arg-type]


@clause("PCI-CAP-08", "PCI-DETECT-01")
@pytest.mark.parametrize("interface", ["auto", "modern", "legacy"])
def test_nothing_is_written_to_find_out(interface: Interface) -> None:
    platform = transitional()
    choose_layout(platform, interface)
    assert platform.space_writes == []
    registers, bar = platform.bars[0], platform.bars[4]
    assert isinstance(registers, LegacyModel)
    assert registers.log == []
    assert isinstance(bar, Mosaic)
    for part in bar.parts.values():
        assert isinstance(part, RecordingRegisters)
        assert part.log == []
