"""The PCI transport: what it makes of a platform and a register layout, and how it ends."""

import gc
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.clauses import clause
from tests.pci.spaces import ModelSpace
from tests.support.drivers import PlainDriver
from tests.support.leaks import no_leaks
from tests.support.pci_model import (
    GoneRegisters,
    LegacyFunction,
    LegacyModel,
    ModelPlatform,
    ModernFunction,
    ModernModel,
    RecordingRegisters,
    RegisterAccess,
    WindowSpace,
    modern_space,
)
from tests.support.scripted import Access
from vioblk._native import split_layout
from vioblk.device import VirtioDevice
from vioblk.errors import (
    DeviceGoneError,
    NegotiationError,
    ProtocolError,
    ResetTimeoutError,
    StateError,
    TransportError,
    UnsupportedError,
)
from vioblk.features import Feature
from vioblk.pci.bars import read_bars
from vioblk.pci.capabilities import walk
from vioblk.pci.command import Command, read_command
from vioblk.pci.legacy import LegacyLayout
from vioblk.pci.virtio_capabilities import parse
from vioblk.status import DeviceState, Status
from vioblk.transport.base import QueueAddresses
from vioblk.transport.pci import PciTransport
from vioblk.transport.pci.interrupts import InterruptMode
from vioblk.transport.pci.presence import Presence

WAIT_S = 30.0
QUIET_S = 0.03
"""How long nothing has to happen."""

ADDRESSES = QueueAddresses(64, 0x10_0000, 0x10_0400, 0x10_0600)
PAGED = split_layout(256, legacy_align=4096)
LEGACY_ADDRESSES = QueueAddresses(
    256, 0x10_0000, 0x10_0000 + PAGED.available_offset, 0x10_0000 + PAGED.used_offset
)

Reach = Callable[..., PciTransport]


@pytest.fixture
def reach() -> Iterator[Reach]:
    with ExitStack() as stack:

        def reach(platform: ModelPlatform, **options: object) -> PciTransport:
            transport = PciTransport("model:0", platform, **options)  # type: ignore[arg-type]
            stack.callback(transport.close)
            return transport

        yield reach


def hung_up(transport: PciTransport) -> bool:
    assert transport.hangup_fd is not None
    with socket.socket(fileno=socket.dup(transport.hangup_fd)) as copy:
        copy.setblocking(False)
        try:
            return copy.recv(1) == b""
        except BlockingIOError:
            return False


# What it is


def test_what_it_says_of_itself_is_the_platforms_and_the_devices(reach: Reach) -> None:
    function = ModernFunction()
    transport = reach(function.platform)
    assert (transport.address, transport.name, transport.device_type) == ("model:0", "model", 2)
    assert transport.space is function.platform.space
    assert transport.legacy_align is None
    assert transport.explain_failure() == "the model knows of nothing"
    mapping = transport.map_memory(4096)
    assert transport.space.mappings[0].device_address == mapping.device_address
    assert dict(transport.details()) == {
        "interface": "modern interface: the device has virtio capabilities",
        "interrupts": "not chosen yet: the device was not started yet",
    }


def test_a_legacy_device_has_the_alignment_of_its_interface(reach: Reach) -> None:
    transport = reach(LegacyFunction().platform)
    assert isinstance(transport.layout, LegacyLayout)
    assert transport.legacy_align == 4096
    assert transport.transport_features == frozenset()


def test_a_legacy_device_resets_no_single_queue(reach: Reach) -> None:
    function = LegacyFunction()
    transport = reach(function.platform)
    function.registers.log.clear()
    with pytest.raises(UnsupportedError, match="reset the whole device"):
        transport.reset_queue(0)
    assert function.registers.log == []


ALL = frozenset({Feature.NOTIFICATION_DATA, Feature.NOTIF_CONFIG_DATA, Feature.ACCESS_PLATFORM})


@pytest.mark.parametrize(
    ("length", "access", "missing"),
    [
        (0x40, "auto", set()),
        (0x3A, "auto", {Feature.RING_RESET}),
        (0x38, "auto", {Feature.NOTIF_CONFIG_DATA, Feature.RING_RESET}),
        (0x40, "window", {Feature.NOTIFICATION_DATA}),
    ],
)
def test_features_are_usable_if_platform_and_registers_can_do_them(
    reach: Reach, length: int, access: str, missing: set[Feature]
) -> None:
    function = ModernFunction(ModernModel(length=length), features=ALL)
    usable = (ALL | {Feature.RING_RESET}) - missing  # which asks nothing of the platform
    assert reach(function.platform, access=access).transport_features == usable


def test_a_platform_that_cannot_be_driven_is_closed() -> None:
    with no_leaks():
        platform = ModelPlatform(modern_space(window=False), {})
        with pytest.raises(TransportError, match="cannot be reached"):
            PciTransport("model:0", platform)
    assert platform.closed == 1


@pytest.mark.parametrize("option", ["interface", "access", "interrupts"])
def test_another_word_is_refused_and_the_platform_closed(option: str) -> None:
    platform = ModernFunction().platform
    with pytest.raises(ValueError, match=r"not 'strange'"):
        PciTransport("model:0", platform, **{option: "strange"})  # type: ignore[arg-type]
    assert platform.closed == 1


# Queues and notifications


def test_a_queue_is_programmed_and_its_wires_are_handed_over(reach: Reach) -> None:
    function = ModernFunction()
    transport = reach(function.platform)
    wires = transport.enable_queue(1, ADDRESSES)
    queue = function.common.queues[1]
    assert (queue.enabled, queue.size, queue.vector) == (1, 64, 2)
    assert wires.doorbell is not None
    assert wires.interrupt_fd == function.platform.vectors[2]
    assert function.platform.places[1].offset == 0x3004


@pytest.mark.parametrize("data", [False, True])
def test_the_platform_is_told_how_wide_a_notification_is(reach: Reach, data: bool) -> None:
    function = ModernFunction(features=frozenset({Feature.NOTIFICATION_DATA}))
    transport = reach(function.platform)
    transport.write_features(1 << Feature.VERSION_1 | data << Feature.NOTIFICATION_DATA)
    transport.enable_queue(0, ADDRESSES)
    assert function.platform.places[0].carries_data is data


def test_a_queue_whose_doorbell_is_nowhere_is_not_enabled(reach: Reach) -> None:
    function = ModernFunction()
    function.common.queues[0].notify_off = 0x400
    with pytest.raises(ProtocolError, match="beyond the 4096 bytes of the notification"):
        reach(function.platform).enable_queue(0, ADDRESSES)
    assert not function.common.queues[0].enabled


def test_without_a_way_to_the_bar_notifications_go_through_the_window(reach: Reach) -> None:
    function = ModernFunction()
    config = modern_space()
    (window,) = parse(config, walk(config), read_bars(config)).pci_cfg
    space = WindowSpace(bytes(config.data), window.capability_offset, {4: (0, function.bar)})
    notified = threading.Event()
    function.notify.on_write[4] = lambda value: notified.set()
    platform = ModelPlatform(space, {})
    transport = reach(platform, interrupts="none")
    assert "notifications" in transport.choice.reason
    wires = transport.enable_queue(1, ADDRESSES)
    assert function.common.queues[1].enabled
    assert wires.doorbell is not None
    transport.write_status(0xF)
    wires.doorbell.ring()
    assert notified.wait(WAIT_S)
    assert function.notify.log == [RegisterAccess("write", 4, 2, 1)]
    # The same doorbell serves the next life, and is silent until then.
    transport.write_status(0)
    assert transport.enable_queue(1, ADDRESSES).doorbell is wires.doorbell
    notified.clear()
    wires.doorbell.ring()
    assert not notified.wait(QUIET_S)
    transport.write_status(0xF)
    wires.doorbell.ring()
    assert notified.wait(WAIT_S)


def test_a_doorbell_through_a_window_that_was_late_is_rung_again(
    reach: Reach, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = ModernFunction()
    config = modern_space()
    (window,) = parse(config, walk(config), read_bars(config)).pci_cfg
    space = WindowSpace(bytes(config.data), window.capability_offset, {4: (0, function.bar)})
    notified = threading.Event()
    function.notify.on_write[4] = lambda value: notified.set()
    transport = reach(ModelPlatform(space, {}), interrupts="none")
    wires = transport.enable_queue(1, ADDRESSES)
    transport.write_status(0xF)
    write, failures = space.write, [TransportError("it has not answered")] * 2

    def write_late(offset: int, width: int, value: int) -> None:
        if failures:
            raise failures.pop()
        write(offset, width, value)

    monkeypatch.setattr(space, "write", write_late)
    assert wires.doorbell is not None
    wires.doorbell.ring()
    assert notified.wait(WAIT_S)
    assert failures == []


# The life of a device


def test_the_device_is_let_into_memory_before_driver_ok_and_out_at_the_end(reach: Reach) -> None:
    function = ModernFunction()
    seen: list[tuple[int, bool]] = []

    def note(value: int) -> None:
        seen.append((value, bool(read_command(function.platform.config) & Command.BUS_MASTER)))

    function.platform.set_bus_master(False)
    function.common.on_write[0x14] = note
    transport = reach(function.platform)
    for status in (0, 1, 3, 0xB, 0xF):
        transport.write_status(status)
    assert seen == [(0, False), (1, False), (3, False), (0xB, False), (0xF, True)]
    assert function.platform.notifying == [False, False, False, False, True]
    transport.close()
    assert function.platform.bus_master == [False, True, False]
    assert function.platform.closed == 1


def test_a_device_that_failed_is_not_started_on_the_way(reach: Reach) -> None:
    function = ModernFunction()
    transport = reach(function.platform)
    transport.write_status(0x8F)
    assert function.platform.bus_master == []
    assert transport.interrupts.mode is None


@clause("PCI-COMMON-05")
def test_a_reset_is_over_when_the_status_reads_zero(reach: Reach) -> None:
    function = ModernFunction()
    device = VirtioDevice(reach(function.platform))
    device.initialize(PlainDriver([]))
    answers = [0xF, 0xF, 0xF, 0]
    function.common.on_read[0x14] = lambda: answers.pop(0) if answers else function.common.status
    device.reset()
    assert answers == []
    assert device.state is DeviceState.RESET
    device.initialize(PlainDriver([]))
    assert function.common.status == 0xF
    device.close()


@clause("PCI-COMMON-05")
def test_a_device_that_never_finishes_its_reset_is_given_up(reach: Reach) -> None:
    function = ModernFunction()
    device = VirtioDevice(reach(function.platform))
    device.initialize(PlainDriver([]))
    function.common.resets = False
    with pytest.raises(ResetTimeoutError, match=r"did not confirm its reset within 0\.05 s"):
        device.reset(timeout_s=0.05)
    assert function.common.status == 0xF
    function.common.resets = True
    device.close()


@clause("FEAT-LEG-01")
def test_a_function_that_does_not_offer_version_1_is_taken_for_a_legacy_device(
    reach: Reach,
) -> None:
    function = ModernFunction(ModernModel(offered=(1 << 32) - 1))
    with pytest.raises(NegotiationError, match="a legacy device"):
        VirtioDevice(reach(function.platform)).initialize(PlainDriver([]))
    assert function.common.accepted == 0
    assert not function.common.status & Status.FEATURES_OK


@pytest.mark.parametrize("interrupts", ["msix", "shared", "config", "intx", "none", "auto"])
def test_what_a_reset_unmaps_is_mapped_again_at_each_start(
    reach: Reach, interrupts: InterruptMode
) -> None:
    function = ModernFunction()
    device = VirtioDevice(reach(function.platform, interrupts=interrupts))
    device.initialize(PlainDriver([], queues=2))
    vectors = [function.common.config_vector, *(each.vector for each in function.common.queues)]
    for _ in range(2):
        device.reset()
        assert function.common.config_vector == 0xFFFF
        device.initialize(PlainDriver([], queues=2))
        found = [function.common.config_vector, *(each.vector for each in function.common.queues)]
        assert found == vectors
    device.close()


@clause("PCI-LEG-01", "PCI-LEG-03", "PCI-LEG-05")
@pytest.mark.parametrize("interrupts", ["msix", "shared", "config", "intx", "none"])
def test_a_legacy_device_is_brought_to_life(reach: Reach, interrupts: InterruptMode) -> None:
    registers = LegacyModel(config=(0x1234).to_bytes(8, "little"))
    function = LegacyFunction(registers)
    transport = reach(function.platform, interrupts=interrupts)
    transport.write_status(0)
    for status in (1, 3):
        transport.write_status(status)
    assert transport.read_config(0, 8) == (0x1234).to_bytes(8, "little")
    assert transport.queue_count() == 2
    assert [transport.queue_size_max(index) for index in range(3)] == [256, 128, 0]
    transport.enable_queue(0, LEGACY_ADDRESSES)
    transport.write_status(7)
    assert registers.pages == [0x100, 0]
    msix = interrupts in ("msix", "shared", "config")
    assert registers.msix_enabled is msix
    assert registers.config_vector == (0 if msix else 0xFFFF)
    # Where it is now.
    assert transport.read_config(0, 8) == (0x1234).to_bytes(8, "little")
    assert transport.config_generation() == 0


# A device that has gone


def test_a_device_that_reads_as_all_ones_has_gone_and_is_left_alone(reach: Reach) -> None:
    function = ModernFunction()
    transport = reach(function.platform)
    transport.enable_queue(0, ADDRESSES)
    transport.write_status(0xF)
    assert not hung_up(transport)
    function.platform.unplug()
    with pytest.raises(DeviceGoneError, match="was it unplugged"):
        transport.read_status()
    assert hung_up(transport)
    accesses = len(function.common.log)
    for call in (
        transport.read_status,
        transport.read_features,
        transport.config_generation,
        transport.queue_count,
        lambda: transport.read_config(0, 8),
        lambda: transport.write_config(0x20, b"\x01"),
        lambda: transport.write_status(0),
        lambda: transport.write_features(0),
        lambda: transport.queue_size_max(0),
        lambda: transport.enable_queue(0, ADDRESSES),
    ):
        with pytest.raises(DeviceGoneError, match="was it unplugged"):
            call()
    bus_master = list(function.platform.bus_master)
    transport.close()
    assert len(function.common.log) == accesses
    assert function.platform.bus_master == bus_master


def test_a_device_that_reads_as_zeros_has_gone_too(reach: Reach) -> None:
    function = ModernFunction()
    transport = reach(function.platform)
    function.common.status = 0
    assert transport.read_status() == 0
    assert isinstance(function.platform.config, ModelSpace)
    function.platform.config.data[:] = bytes(function.platform.config.length)
    with pytest.raises(DeviceGoneError, match="was it unplugged"):
        transport.read_status()
    assert hung_up(transport)


@pytest.mark.parametrize(
    "look",
    [
        PciTransport.read_status,
        PciTransport.read_features,
        PciTransport.config_generation,
        PciTransport.queue_count,
        lambda transport: transport.queue_size_max(0),
        lambda transport: transport.read_config(0, 8),
        lambda transport: transport.read_config(0, 1),
    ],
    ids=["status", "features", "generation", "queues", "size", "capacity", "byte"],
)
def test_whatever_is_read_first_tells(reach: Reach, look: Callable[[PciTransport], object]) -> None:
    function = ModernFunction()
    transport = reach(function.platform)
    function.platform.unplug()
    with pytest.raises(DeviceGoneError):
        look(transport)


def test_all_ones_of_a_device_that_is_there_are_a_value(reach: Reach) -> None:
    function = ModernFunction()
    function.device.data[:] = b"\xff" * 0x60
    function.common.generation = 0xFF
    transport = reach(function.platform)
    assert transport.read_config(0, 8) == b"\xff" * 8
    assert transport.config_generation() == 0xFF
    assert not hung_up(transport)


def test_a_device_that_has_gone_cannot_confirm_a_reset(reach: Reach) -> None:
    # On some machines what is not there reads as zeros, in the BARs at least.
    function = ModernFunction()
    transport = reach(function.platform)
    transport.write_status(0xF)
    assert isinstance(function.platform.config, ModelSpace)
    function.platform.config.data[0:2] = b"\xff\xff"
    function.common.status = 0
    with pytest.raises(DeviceGoneError):
        transport.read_status()


def test_a_platform_that_hangs_up_ends_all_access(reach: Reach) -> None:
    function = ModernFunction(hangs_up=True)
    transport = reach(function.platform)
    transport.read_status()
    function.platform.hang_up()
    assert hung_up(transport)
    accesses = len(function.common.log)
    with pytest.raises(DeviceGoneError, match="its machine ended"):
        transport.read_features()
    assert len(function.common.log) == accesses


def test_a_platform_that_has_hung_up_is_closed_without_a_touch(reach: Reach) -> None:
    function = ModernFunction(hangs_up=True)
    transport = reach(function.platform)
    transport.write_status(0xF)
    function.platform.hang_up()
    accesses = len(function.common.log)
    transport.close()
    assert len(function.common.log) == accesses
    assert function.platform.bus_master == [True]
    assert function.platform.closed == 1


def test_a_platform_that_says_it_in_an_access_is_believed(reach: Reach) -> None:
    platform = ModelPlatform(modern_space(), {4: GoneRegisters(0x4000)})
    transport = reach(platform)
    with pytest.raises(DeviceGoneError, match="unplugged"):
        transport.read_status()
    assert hung_up(transport)


def test_requests_of_a_device_that_has_gone_are_given_up(reach: Reach) -> None:
    function = ModernFunction()
    log: list[Access] = []
    driver = PlainDriver(log)
    device = VirtioDevice(reach(function.platform))
    device.initialize(driver)
    function.platform.unplug()
    with pytest.raises(DeviceGoneError):
        device.refresh_state()
    device.close()
    assert function.platform.closed == 1


# The end


def test_closing_is_idempotent_and_gives_everything_back() -> None:
    with no_leaks():
        function = ModernFunction(hangs_up=True)
        transport = PciTransport("model:0", function.platform)
        transport.enable_queue(0, ADDRESSES)
        transport.on_config_change(lambda: None)
        transport.write_status(0xF)
        transport.close()
        transport.close()
        assert function.platform.closed == 1
        assert transport.hangup_fd is None
        with pytest.raises(StateError, match="model:0 was closed"):
            transport.read_status()


@pytest.mark.parametrize("interrupts", ["msix", "shared", "config", "intx", "none"])
def test_one_that_is_forgotten_ends_its_threads(interrupts: InterruptMode) -> None:
    before = set(threading.enumerate())
    function = ModernFunction()
    transport = PciTransport("model:0", function.platform, interrupts=interrupts)
    transport.enable_queue(0, ADDRESSES)
    transport.write_status(0xF)
    started = set(threading.enumerate()) - before
    assert bool(started) is (interrupts != "none")
    del transport
    gc.collect()
    for thread in started:
        thread.join(WAIT_S)
        assert not thread.is_alive()
    function.platform.close()


@pytest.mark.parametrize("answers_again", [False, True])
def test_a_machine_that_did_not_answer_is_not_asked_again_at_closing(
    reach: Reach, monkeypatch: pytest.MonkeyPatch, answers_again: bool
) -> None:
    function = ModernFunction()
    transport = reach(function.platform)
    transport.write_status(0xF)

    def say_nothing() -> int:
        raise TransportError("no answer within 10 s")

    with monkeypatch.context() as patch:
        patch.setattr(transport.layout, "read_status", say_nothing)
        with pytest.raises(TransportError, match="no answer"):
            transport.read_status()
    if answers_again:
        transport.read_status()
    accesses = len(function.common.log)
    transport.close()
    assert function.platform.bus_master == ([True, False] if answers_again else [True])
    assert answers_again or len(function.common.log) == accesses
    assert function.platform.closed == 1


def test_a_machine_that_answered_against_the_rules_is_still_tidied_up(reach: Reach) -> None:
    function = ModernFunction()
    function.common.queues[0].notify_off = 0xFFFF
    transport = reach(function.platform)
    with pytest.raises(ProtocolError, match="the doorbell of queue 0"):
        transport.enable_queue(0, ADDRESSES)
    transport.close()
    assert function.platform.log == [("open_vectors", 3), ("open_vectors", 0)]
    assert function.platform.bus_master == [False]


def test_a_platform_that_fails_does_not_keep_the_rest_from_ending() -> None:
    function = ModernFunction()
    transport = PciTransport("model:0", function.platform)
    transport.write_status(0xF)

    def refuse(enabled: bool) -> None:
        raise TransportError("no way")

    function.platform.set_bus_master = refuse  # type: ignore[method-assign]
    transport.close()
    assert function.platform.closed == 1


def test_who_looks_while_it_is_closed_sees_no_unplugging(monkeypatch: pytest.MonkeyPatch) -> None:
    function = ModernFunction(hangs_up=True)
    presence = Presence(function.platform, "model:0")

    def close_and_hang_up() -> bool:
        presence.close()
        return True

    monkeypatch.setattr(presence, "_hung_up", close_and_hang_up)
    with pytest.raises(StateError, match="model:0 was closed"), presence.access():
        pass
    function.platform.close()


@pytest.mark.parametrize("error", [OSError, TransportError, StateError])
@pytest.mark.parametrize("step", ["unmap", "switch off", "move"])
@pytest.mark.parametrize("legacy", [False, True], ids=["modern", "legacy"])
def test_what_fails_at_closing_keeps_nothing_else_from_being_undone(
    step: str, error: type[Exception], legacy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = LegacyFunction() if legacy else ModernFunction()
    platform = function.platform
    transport = PciTransport("model:0", platform)
    transport.write_status(0x7 if legacy else 0xF)
    switched: list[bool] = []

    def fail(*_: object) -> None:
        raise error("no way")

    monkeypatch.setattr(transport.layout, "set_msix_enabled", lambda on: switched.append(on))
    if step == "unmap":
        monkeypatch.setattr(transport.layout, "set_config_vector", fail)
    elif step == "switch off":
        platform.on_vectors = fail
    else:
        monkeypatch.setattr(transport.layout, "set_msix_enabled", fail)
    transport.close()
    assert platform.log == [("open_vectors", 3), ("open_vectors", 0)]
    assert switched == ([] if step == "move" else [False])
    assert platform.closed == 1


def test_the_isr_register_is_the_models() -> None:
    # What the tests of interrupts stand on.
    function = ModernFunction()
    function.isr_value = 3
    assert isinstance(function.isr, RecordingRegisters)
    assert [function.isr.read(0, 1), function.isr.read(0, 1)] == [3, 0]
    function.platform.close()


def test_several_threads_may_access_a_device_at_once(reach: Reach) -> None:
    transport = reach(ModernFunction().platform)
    errors: list[BaseException] = []

    def look() -> None:
        try:
            for _ in range(2000):
                transport.read_status()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert errors == []
