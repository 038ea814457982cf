"""How a function's events reach this process: which plan is taken, and what it passes on."""

import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.clauses import clause
from tests.pci.spaces import ModelSpace
from tests.support.drivers import PlainDriver
from tests.support.pci_model import (
    LegacyFunction,
    LegacyModel,
    ModelPlatform,
    ModernFunction,
    ModernModel,
)
from tests.transport.test_pci import ADDRESSES, LEGACY_ADDRESSES, QUIET_S, WAIT_S
from vioblk.device import VirtioDevice
from vioblk.errors import DeviceGoneError, TransportError
from vioblk.pci.capabilities import walk
from vioblk.pci.layout import ISR_CONFIG, ISR_QUEUE, NO_VECTOR
from vioblk.status import DeviceState, Status
from vioblk.transport.pci import PciTransport
from vioblk.transport.pci.interrupts import InterruptMode
from vioblk.transport.pci.plans import IntxPlan

Reach = Callable[..., PciTransport]


@pytest.fixture
def reach() -> Iterator[Reach]:
    with ExitStack() as stack:

        def reach(platform: ModelPlatform, interrupts: InterruptMode = "auto") -> PciTransport:
            transport = PciTransport("model:0", platform, interrupts=interrupts)
            stack.callback(transport.close)
            return transport

        yield reach


class Waiter:
    """Waits for an eventfd as a queue does: for the edge, and never reads it."""

    def __init__(self, fd: int | None) -> None:
        assert fd is not None, "the queue is polled"
        self.epoll = select.epoll()
        self.epoll.register(fd, select.EPOLLIN | select.EPOLLET)
        self.epoll.poll(0)

    def woken(self, timeout_s: float = WAIT_S) -> bool:
        return bool(self.epoll.poll(timeout_s))


class Calls:
    """Counts the calls of a callback."""

    def __init__(self) -> None:
        self.count = 0
        self.semaphore = threading.Semaphore(0)

    def __call__(self) -> None:
        self.count += 1
        self.semaphore.release()

    def came(self, timeout_s: float = WAIT_S) -> bool:
        return self.semaphore.acquire(timeout=timeout_s)


def live(transport: PciTransport, queues: int = 1) -> tuple[list[int | None], Calls]:
    """Start the device; the eventfds of its queues, and the calls for configuration changes."""
    calls = Calls()
    legacy = transport.legacy_align is not None
    addresses = LEGACY_ADDRESSES if legacy else ADDRESSES
    fds = [transport.enable_queue(index, addresses).interrupt_fd for index in range(queues)]
    transport.on_config_change(calls)
    transport.write_status(0x7 if legacy else 0xF)
    return fds, calls


def both(*sizes: int) -> LegacyModel:
    return LegacyModel(sizes=sizes or (256, 256))


# Which plan is taken


def test_auto_takes_a_vector_for_each_queue(reach: Reach) -> None:
    function = ModernFunction()
    transport = reach(function.platform)
    fds, _ = live(transport, 2)
    vectors = function.platform.vectors
    assert fds == [vectors[1], vectors[2]]
    assert (function.common.config_vector, [q.vector for q in function.common.queues]) == (
        0,
        [1, 2],
    )
    assert str(transport.interrupts) == (
        "msix: MSI-X, 3 vectors: one for configuration changes and one for each queue"
    )


@clause("MSIX-03", "MSIX-04")
@pytest.mark.parametrize(
    ("table", "platform", "queues", "mode"),
    [
        (1, 8, 1, "shared"),
        (2, 8, 1, "msix"),
        (2, 8, 2, "shared"),
        (2048, 8, 2, "msix"),
        (2048, 2, 2, "shared"),
        (2048, 2048, 100, "msix"),
        (4, 0, 2, "intx"),
        (0, 8, 2, "intx"),
    ],
)
def test_the_plan_fits_the_vectors_that_there_are(
    reach: Reach, table: int, platform: int, queues: int, mode: str
) -> None:
    function = ModernFunction(
        ModernModel(queues=queues), vector_count=table, vector_count_max=platform
    )
    transport = reach(function.platform)
    live(transport, queues)
    assert transport.interrupts.mode == mode
    used = {each.vector for each in function.common.queues} | {function.common.config_vector}
    if mode == "intx":
        assert used == {NO_VECTOR}
    else:
        assert max(used) < min(table, platform)


@clause("MSIX-02")
def test_a_device_with_one_vector_is_driven_by_the_pin_on_request(reach: Reach) -> None:
    function = ModernFunction(vector_count=1)
    fds, _ = live(reach(function.platform, "intx"), 2)
    waiter = Waiter(fds[1])
    function.interrupt_pin(ISR_QUEUE)
    assert waiter.woken()
    assert function.platform.log == ["open_intx"]


@clause("MSIX-01")
@pytest.mark.parametrize("table", [1, 2, 3, 4, 1024, 2047, 2048])
def test_a_device_with_a_table_of_any_size_is_driven(reach: Reach, table: int) -> None:
    function = ModernFunction(vector_count=table, vector_count_max=table)
    fds, calls = live(reach(function.platform), 2)
    waiter = Waiter(fds[1])
    function.platform.interrupt(len(function.platform.vectors) - 1)
    assert waiter.woken()
    function.common.generation += 1
    function.platform.interrupt(0)
    assert calls.came()


@clause("MSIX-05", "MSIX-06")
@pytest.mark.parametrize(
    ("refuses", "mode", "passed_over"),
    [
        ({1}, "shared", ["msix is not used: the device refused vector 1 for queue 0"]),
        (
            {0, 1, 2},
            "intx",
            [
                "msix is not used: the device refused vector 0 for configuration changes",
                "shared is not used: the device refused vector 0 for configuration changes",
            ],
        ),
    ],
)
def test_a_device_that_refuses_a_vector_is_asked_for_fewer_and_then_for_none(
    reach: Reach, refuses: set[int], mode: str, passed_over: list[str]
) -> None:
    function = ModernFunction(ModernModel(refuses=frozenset(refuses)))
    transport = reach(function.platform)
    live(transport, 2)
    assert transport.interrupts.mode == mode
    assert list(transport.interrupts.passed_over) == passed_over
    assert ("; ".join(passed_over)) in str(transport.interrupts)
    if mode == "intx":
        # MSI-X is off again, or the pin would stay quiet.
        assert function.platform.log[-2:] == [("open_vectors", 0), "open_intx"]
        assert function.common.config_vector == NO_VECTOR


@clause("MSIX-05", "MSIX-06")
def test_a_queue_whose_vector_is_refused_shares_that_of_the_queue_before(reach: Reach) -> None:
    function = ModernFunction(ModernModel(refuses=frozenset({2})))
    transport = reach(function.platform)
    fds, _ = live(transport, 2)
    assert fds == [function.platform.vectors[1]] * 2
    assert [each.vector for each in function.common.queues] == [1, 1]
    waiters = [Waiter(fd) for fd in fds]
    function.platform.interrupt(1)
    assert all(waiter.woken() for waiter in waiters)


@clause("MSIX-05", "MSIX-06")
@pytest.mark.parametrize(
    ("interrupts", "refuses", "what"),
    [
        ("msix", {0}, "vector 0 for configuration changes"),
        ("msix", {2}, "vector 2 for queue 1"),
        ("shared", {0}, "vector 0 for configuration changes"),
        ("config", {0}, "vector 0 for configuration changes"),
    ],
)
def test_a_plan_that_was_asked_for_and_is_refused_is_an_error(
    reach: Reach, interrupts: InterruptMode, refuses: set[int], what: str
) -> None:
    function = ModernFunction(ModernModel(refuses=frozenset(refuses)))
    with pytest.raises(TransportError, match=f"the device refused {what}"):
        live(reach(function.platform, interrupts), 2)
    assert function.common.status != 0xF


def test_a_device_that_refuses_everything_after_queues_rely_on_it_is_an_error(
    reach: Reach,
) -> None:
    common = ModernModel(queues=3)
    function = ModernFunction(common, vector_count=8)
    transport = reach(function.platform)
    transport.enable_queue(0, ADDRESSES)
    common.refuses = frozenset(range(8))
    with pytest.raises(TransportError, match="1 queue before it rely on msix"):
        transport.enable_queue(1, ADDRESSES)
    assert not common.queues[1].enabled


@pytest.mark.parametrize(
    ("interrupts", "reason"),
    [
        ("msix", "3 MSI-X vectors are needed, and there are 2"),
        ("shared", "1 MSI-X vector is needed, and there are none"),
        ("config", "1 MSI-X vector is needed, and there are none"),
        ("intx", "the INTx pin of the function leads nowhere"),
    ],
)
def test_what_was_asked_for_and_is_not_there_is_missed(
    reach: Reach, interrupts: InterruptMode, reason: str
) -> None:
    vectors = 2 if interrupts == "msix" else 0
    function = ModernFunction(vector_count=4, vector_count_max=vectors, intx=False)
    with pytest.raises(TransportError, match=reason) as refusal:
        live(reach(function.platform, interrupts))
    assert "interrupts=auto takes what works" in str(refusal.value)


def test_without_any_interrupt_auto_polls(reach: Reach) -> None:
    function = ModernFunction(vector_count=0, intx=False)
    transport = reach(function.platform)
    fds, _ = live(transport, 2)
    assert fds == [None, None]
    assert transport.interrupts.mode == "none"
    assert transport.interrupts.passed_over[-1].endswith(
        "the INTx pin of the function leads nowhere"
    )


@pytest.mark.parametrize("interrupts", ["auto", "msix"])
def test_a_platform_that_cannot_open_its_vectors_is_passed_over(
    reach: Reach, interrupts: InterruptMode
) -> None:
    function = ModernFunction()

    def refuse(count: int) -> None:
        if count:
            raise TransportError("no vectors today")

    function.platform.on_vectors = refuse
    transport = reach(function.platform, interrupts)
    if interrupts == "msix":
        with pytest.raises(TransportError, match="no vectors today"):
            live(transport)
    else:
        live(transport)
        assert transport.interrupts.mode == "intx"


def test_a_device_that_goes_while_interrupts_are_set_up_is_not_asked_again(reach: Reach) -> None:
    function = ModernFunction()

    def gone(count: int) -> None:
        raise DeviceGoneError("unplugged")

    function.platform.on_vectors = gone
    with pytest.raises(DeviceGoneError, match="unplugged"):
        live(reach(function.platform))
    assert function.platform.log == [("open_vectors", 3)]


@pytest.mark.parametrize("legacy", [False, True], ids=["modern", "legacy"])
def test_msix_that_was_left_enabled_does_not_silence_the_pin(reach: Reach, legacy: bool) -> None:
    function = LegacyFunction(both()) if legacy else ModernFunction()
    space = function.platform.config
    assert isinstance(space, ModelSpace)
    capability = walk(space).msix
    assert capability is not None
    space.data[capability.control_offset + 1] |= 0x80
    if isinstance(function, LegacyFunction):
        function.registers.msix_enabled = True
    transport = reach(function.platform, "intx")
    transport.write_status(0)
    _, calls = live(transport)
    assert function.platform.log == [("open_vectors", 0), "open_intx"]
    interrupt(function, "intx")
    assert calls.came()
    if isinstance(function, LegacyFunction):
        assert transport.read_config(0, 4) == function.registers.config[:4]


@pytest.mark.parametrize("interrupts", ["msix", "shared", "config", "intx"])
@pytest.mark.parametrize("legacy", [False, True], ids=["modern", "legacy"])
def test_a_second_life_is_heard_whatever_eventfds_it_is_given(
    reach: Reach, interrupts: InterruptMode, legacy: bool
) -> None:
    # This platform makes new ones for vectors, which mostly have the numbers of those before.
    function = LegacyFunction(both()) if legacy else ModernFunction()
    transport = reach(function.platform, interrupts)
    for _ in range(3):
        transport.write_status(0)
        fds, calls = live(transport)
        waiter = None if fds[0] is None else Waiter(fds[0])
        interrupt(function, interrupts)
        assert calls.came()
        assert waiter is None or waiter.woken()


@pytest.mark.parametrize("interrupts", ["msix", "shared", "config"])
def test_each_life_has_a_watcher_of_its_own(reach: Reach, interrupts: InterruptMode) -> None:
    transport = reach(ModernFunction().platform, interrupts)
    seen: set[threading.Thread] = set()
    for life in range(3):
        transport.write_status(0)
        live(transport)
        watching = {each for each in threading.enumerate() if each.name.startswith("vioblk-")}
        # One of before may still be on its way out.
        assert watching - seen, f"nobody watches life {life} but who watched one before"
        seen |= watching


def interrupt(function: ModernFunction | LegacyFunction, interrupts: InterruptMode) -> None:
    """A change and used buffers, by all vectors or by the pin."""
    if interrupts == "intx":
        if isinstance(function, ModernFunction):
            function.interrupt_pin(ISR_QUEUE | ISR_CONFIG)
        else:
            function.registers.isr = ISR_QUEUE | ISR_CONFIG
            function.platform.raise_pin()
        return
    if isinstance(function, ModernFunction):
        function.common.generation += 1
    for vector in range(len(function.platform.vectors)):
        function.platform.interrupt(vector)


@pytest.mark.parametrize("interrupts", ["auto", "msix", "shared"])
@pytest.mark.parametrize("register", [0x10, 0x1A], ids=["config", "queue"])
def test_a_device_that_goes_while_a_vector_is_mapped_has_not_refused_it(
    reach: Reach, interrupts: InterruptMode, register: int
) -> None:
    function = ModernFunction()
    transport = reach(function.platform, interrupts)
    function.common.on_write[register] = lambda vector: function.platform.unplug()
    with pytest.raises(DeviceGoneError, match="was it unplugged"):
        live(transport)
    count = 1 if interrupts == "shared" else 3
    assert function.platform.log == [("open_vectors", count)]
    accesses = len(function.common.log)
    transport.close()
    assert len(function.common.log) == accesses
    assert function.platform.log == [("open_vectors", count)]


def test_a_device_that_goes_while_its_queues_are_counted_has_not_too_many(reach: Reach) -> None:
    function = ModernFunction()
    transport = reach(function.platform, "msix")
    function.platform.unplug()
    with pytest.raises(DeviceGoneError, match="was it unplugged"):
        live(transport)
    assert function.platform.log == []


def test_a_legacy_bar_without_room_for_vectors_is_driven_by_the_pin(reach: Reach) -> None:
    function = LegacyFunction(both())
    del function.registers.data[20:]
    transport = reach(function.platform)
    live(transport)
    assert transport.interrupts.mode == "intx"
    assert not function.registers.msix_enabled


# What is passed on


@pytest.mark.parametrize("interrupts", ["msix", "shared", "intx"])
def test_used_buffers_wake_those_who_wait_for_the_queue(
    reach: Reach, interrupts: InterruptMode
) -> None:
    function = ModernFunction()
    fds, calls = live(reach(function.platform, interrupts), 2)
    waiters = [Waiter(fd) for fd in fds]
    for _ in range(3):
        _signal_queue(function, interrupts)
        assert waiters[0].woken()
        if interrupts == "msix":
            assert not waiters[1].woken(QUIET_S)
        else:
            assert waiters[1].woken()
    assert calls.count == 0


def _signal_queue(function: ModernFunction, interrupts: str) -> None:
    if interrupts == "intx":
        function.interrupt_pin(ISR_QUEUE)
    else:
        function.platform.interrupt(1 if interrupts == "msix" else 0)


@pytest.mark.parametrize("interrupts", ["msix", "shared", "config", "intx"])
def test_a_configuration_change_calls_back(reach: Reach, interrupts: InterruptMode) -> None:
    function = ModernFunction()
    _, calls = live(reach(function.platform, interrupts))
    for _ in range(3):
        function.common.generation += 1
        if interrupts == "intx":
            function.interrupt_pin(ISR_CONFIG)
        else:
            function.platform.interrupt(0)
        assert calls.came()
    assert not calls.came(QUIET_S)


@clause("PCI-CFGINT-01")
@pytest.mark.parametrize("interrupts", ["shared", "intx"])
def test_one_interrupt_stands_for_a_change_and_for_used_buffers_of_all_queues(
    reach: Reach, interrupts: InterruptMode
) -> None:
    function = ModernFunction()
    fds, calls = live(reach(function.platform, interrupts), 2)
    waiters = [Waiter(fd) for fd in fds]
    function.common.generation += 1
    if interrupts == "intx":
        function.interrupt_pin(ISR_QUEUE | ISR_CONFIG)
    else:
        function.platform.interrupt(0)
    assert all(waiter.woken() for waiter in waiters)
    assert calls.came()


@clause("PCI-CFGINT-01")
def test_an_isr_that_says_both_is_passed_on_to_both(reach: Reach) -> None:
    """Step by step, with nobody who waits for the eventfds."""
    function = ModernFunction()
    transport = reach(function.platform, "intx")
    live(transport)
    assert transport._interrupts is not None
    plan = transport._interrupts._plan
    assert isinstance(plan, IntxPlan)
    for watcher in plan._watchers:
        watcher.close()
    for isr, used, changed in [
        (ISR_QUEUE, True, False),
        (ISR_CONFIG, False, True),
        (ISR_QUEUE | ISR_CONFIG, True, True),
    ]:
        function.isr_value = isr
        plan._on_interrupt()
        assert plan._used is not None
        assert plan._changed is not None
        assert [take(each.fd) for each in (plan._used, plan._changed)] == [used, changed]


def take(fd: int) -> bool:
    """Whether an eventfd was signalled; forgets it."""
    try:
        return os.eventfd_read(fd) > 0
    except BlockingIOError:
        return False


@clause("PCI-CFGINT-01")
def test_one_vector_of_a_legacy_device_may_always_mean_a_change(reach: Reach) -> None:
    # It has no generation, so there is nothing to compare.
    function = LegacyFunction(both())
    fds, calls = live(reach(function.platform, "shared"))
    waiter = Waiter(fds[0])
    function.platform.interrupt(0)
    assert waiter.woken()
    assert calls.came()


def test_a_need_for_a_reset_is_a_configuration_change(reach: Reach) -> None:
    function = ModernFunction()
    device = VirtioDevice(reach(function.platform, "shared"))
    driver = PlainDriver([])
    device.initialize(driver)
    function.common.status |= Status.DEVICE_NEEDS_RESET
    function.platform.interrupt(0)
    deadline = time.monotonic() + WAIT_S
    while device.state is not DeviceState.NEEDS_RESET:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    device.close()


@clause("PCI-ISR-01")
@pytest.mark.parametrize("interrupts", ["msix", "shared", "config"])
def test_the_isr_is_left_alone_while_msix_is_enabled(
    reach: Reach, interrupts: InterruptMode
) -> None:
    function = ModernFunction()
    fds, calls = live(reach(function.platform, interrupts))
    waiter = None if fds[0] is None else Waiter(fds[0])
    for vector in range(len(function.platform.vectors)):
        function.platform.interrupt(vector)
    if waiter is not None:
        assert waiter.woken()
    function.common.generation += 1
    function.platform.interrupt(0)
    assert calls.came()
    assert function.isr.log == []


def test_the_isr_is_read_once_for_each_interrupt_of_the_pin(reach: Reach) -> None:
    function = ModernFunction()
    fds, _ = live(reach(function.platform, "intx"))
    waiter = Waiter(fds[0])
    for count in range(1, 4):
        function.interrupt_pin(ISR_QUEUE)
        assert waiter.woken()
        assert len(function.isr.reads()) == count
        assert function.platform.acknowledged == count


def test_an_interrupt_that_is_somebody_elses_wakes_nobody(reach: Reach) -> None:
    function = ModernFunction()
    fds, calls = live(reach(function.platform, "intx"))
    waiter = Waiter(fds[0])
    function.interrupt_pin(0)
    assert not waiter.woken(QUIET_S)
    assert not calls.came(0)
    # The next one is heard all the same.
    function.interrupt_pin(ISR_QUEUE | ISR_CONFIG)
    assert waiter.woken()
    assert calls.came()


def test_a_callback_that_takes_its_time_does_not_keep_the_queues_waiting(reach: Reach) -> None:
    function = ModernFunction()
    transport = reach(function.platform, "intx")
    fds, _ = live(transport)
    waiter = Waiter(fds[0])
    entered, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        entered.set()
        go_on.wait(2 * WAIT_S)

    transport.on_config_change(slow)
    function.interrupt_pin(ISR_CONFIG)
    assert entered.wait(WAIT_S)
    function.interrupt_pin(ISR_QUEUE)
    assert waiter.woken()
    go_on.set()


@pytest.mark.parametrize("interrupts", ["shared", "intx"])
def test_an_interrupt_of_a_device_that_has_gone_ends_in_a_hang_up(
    reach: Reach, interrupts: InterruptMode
) -> None:
    function = ModernFunction()
    transport = reach(function.platform, interrupts)
    _, calls = live(transport)
    assert transport.hangup_fd is not None
    function.platform.unplug()
    if interrupts == "intx":
        function.platform.raise_pin()
    else:
        function.platform.interrupt(0)
    poller = select.poll()
    poller.register(transport.hangup_fd, select.POLLRDHUP)
    assert poller.poll(WAIT_S * 1000)
    assert calls.count == 0
    # The interrupt that comes after it touches nothing.
    accesses = len(function.common.log) + len(function.isr.log)
    if interrupts == "intx":
        function.platform.raise_pin()
    else:
        function.platform.interrupt(0)
    assert not calls.came(QUIET_S)
    assert len(function.common.log) + len(function.isr.log) == accesses


@pytest.mark.parametrize("interrupts", ["shared", "intx"])
def test_a_device_that_is_late_to_say_what_an_interrupt_means_is_asked_again(
    reach: Reach, interrupts: InterruptMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would not interrupt again before it was asked."""
    function = ModernFunction()
    transport = reach(function.platform, interrupts)
    fds, calls = live(transport)
    waiter = Waiter(fds[0])
    register = "read_isr" if interrupts == "intx" else "config_generation"
    read = getattr(transport.layout, register)
    failures = [TransportError("it has not answered")] * 2

    def read_late() -> int:
        if failures:
            raise failures.pop()
        return int(read())

    monkeypatch.setattr(transport.layout, register, read_late)
    function.common.generation += 1
    if interrupts == "intx":
        function.interrupt_pin(ISR_QUEUE | ISR_CONFIG)
    else:
        function.platform.interrupt(0)
    assert calls.came()
    assert waiter.woken()
    assert failures == []


def test_without_a_queue_a_configuration_change_is_heard_too(reach: Reach) -> None:
    function = ModernFunction()
    _, calls = live(reach(function.platform), queues=0)
    function.platform.interrupt(0)
    assert calls.came()


# The callback


def test_the_callback_can_be_replaced_and_taken_away(reach: Reach) -> None:
    function = ModernFunction()
    transport = reach(function.platform)
    _, first = live(transport)
    second = Calls()
    transport.on_config_change(second)
    function.platform.interrupt(0)
    assert second.came()
    transport.on_config_change(None)
    function.platform.interrupt(0)
    assert not second.came(QUIET_S)
    assert first.count == 0


def test_the_callback_may_take_itself_away(reach: Reach) -> None:
    function = ModernFunction()
    transport = reach(function.platform)
    live(transport)
    taken = threading.Event()

    def callback() -> None:
        transport.on_config_change(None)
        taken.set()

    transport.on_config_change(callback)
    function.platform.interrupt(0)
    assert taken.wait(WAIT_S)


def test_no_call_is_under_way_once_the_callback_was_taken_away(reach: Reach) -> None:
    function = ModernFunction()
    transport = reach(function.platform)
    live(transport)
    entered, left = threading.Event(), threading.Event()

    def callback() -> None:
        entered.set()
        time.sleep(0.05)
        left.set()

    transport.on_config_change(callback)
    function.platform.interrupt(0)
    assert entered.wait(WAIT_S)
    transport.on_config_change(None)
    assert left.is_set()


def test_a_callback_that_hangs_is_left_behind(reach: Reach) -> None:
    function = ModernFunction()
    transport = reach(function.platform)
    live(transport)
    entered, go_on = threading.Event(), threading.Event()

    def callback() -> None:
        entered.set()
        go_on.wait(2 * WAIT_S)

    transport.on_config_change(callback)
    function.platform.interrupt(0)
    assert entered.wait(WAIT_S)
    before = time.monotonic()
    transport.on_config_change(None)
    assert time.monotonic() - before < WAIT_S
    go_on.set()


def test_the_eventfd_that_others_wait_for_is_not_read(reach: Reach) -> None:
    function = ModernFunction()
    _, calls = live(reach(function.platform, "shared"))
    fd = function.platform.vectors[0]
    function.common.generation += 1
    function.platform.interrupt(0)
    assert calls.came()
    assert os.eventfd_read(fd) == 1
