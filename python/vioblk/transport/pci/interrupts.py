"""Which of the plans for interrupts is used, and why."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from vioblk.errors import DeviceGoneError, TransportError
from vioblk.transport.pci.plans import (
    Function,
    IntxPlan,
    Plan,
    PollingPlan,
    RefusedError,
    SharedPlan,
    VectorPlan,
)
from vioblk.wording import counted

InterruptMode = Literal["auto", "msix", "shared", "config", "intx", "none"]

INTERRUPT_MODES: Final[tuple[InterruptMode, ...]] = (
    "auto",
    "msix",
    "shared",
    "config",
    "intx",
    "none",
)

AUTO_ORDER: Final = ("msix", "shared", "intx", "none")

_PLANS: Final[dict[str, Callable[[Function, bool], Plan]]] = {
    "msix": lambda function, auto: VectorPlan(function, queues=True, lenient=auto),
    "shared": lambda function, auto: SharedPlan(function),
    "config": lambda function, auto: VectorPlan(function, queues=False, lenient=auto),
    "intx": lambda function, auto: IntxPlan(function),
    "none": lambda function, auto: PollingPlan(),
}


@dataclass(frozen=True)
class InterruptChoice:
    """What was asked for, what is used, and why."""

    asked: InterruptMode
    mode: str | None
    """Of those that can be asked for, but "auto"; None before the device was first started."""
    detail: str
    passed_over: tuple[str, ...] = ()
    """What was tried before, each with the reason why it is not used."""

    def __str__(self) -> str:
        why = f" ({'; '.join(self.passed_over)})" if self.passed_over else ""
        return f"{self.mode or 'not chosen yet'}: {self.detail}{why}"


class Interrupts:
    """The plan in use, and those that are left to try.

    A device can refuse a vector whenever one is mapped. With "auto" the next plan is taken then,
    unless queues rely on the one before; else TransportError says so.
    """

    def __init__(self, function: Function, mode: InterruptMode) -> None:
        if mode not in INTERRUPT_MODES:
            raise ValueError(f"interrupts is one of {', '.join(INTERRUPT_MODES)}, not {mode!r}")
        self._function = function
        self._asked = mode
        self._modes = list(AUTO_ORDER) if mode == "auto" else [mode]
        self._plan: Plan | None = None
        self._passed_over: list[str] = []
        self._started = False
        self._wired: set[int] = set()
        """Queues that rely on the plan."""

    @property
    def choice(self) -> InterruptChoice:
        """What is used, and why."""
        plan, passed_over = self._plan, tuple(self._passed_over)
        if plan is None:
            return InterruptChoice(self._asked, None, "the device was not started yet", passed_over)
        return InterruptChoice(self._asked, plan.mode, plan.detail, passed_over)

    def start(self) -> None:
        """Make configuration changes heard. Idempotent until `device_was_reset`."""
        while not self._started:
            try:
                self._current().start()
                self._started = True
            except RefusedError as refusal:
                self._give_up_plan(refusal)
            except DeviceGoneError:
                raise
            except TransportError as error:
                self._give_up_plan(error)

    def queue_fd(self, index: int) -> int | None:
        """Map used buffers of queue `index`; the eventfd that they signal, None to poll it."""
        while True:
            self.start()
            try:
                fd = self._current().queue_fd(index)
            except RefusedError as refusal:
                self._give_up_plan(refusal)
            else:
                self._wired.add(index)
                return fd

    def _current(self) -> Plan:
        if self._plan is None:
            self._plan = _PLANS[self._modes[0]](self._function, self._asked == "auto")
        return self._plan

    def _give_up_plan(self, refusal: Exception) -> None:
        """On to the next. Raises TransportError if there is none, or queues rely on this one."""
        plan = self._current()
        reason = f"{plan.mode} is not used: {refusal}"
        if self._wired:
            wired = counted(len(self._wired), "queue")
            raise TransportError(
                f"interrupts cannot be set up: {refusal}, and {wired} before it rely on "
                f"{plan.mode}; use fewer queues, or another of {', '.join(AUTO_ORDER[1:])}"
            ) from refusal
        plan.stop(touch=True)
        self._plan, self._started = None, False
        if len(self._modes) == 1:
            raise TransportError(
                f"interrupts cannot be set up: {reason}; interrupts=auto takes what works"
            ) from refusal
        self._modes.pop(0)
        self._passed_over.append(reason)

    def device_was_reset(self) -> None:
        """All events are unmapped now, so the next `start` maps them again."""
        self._started = False
        self._wired.clear()
        self._function.locate_config()

    def queue_was_reset(self, index: int) -> None:
        """Queue `index` is mapped to no vector now; `queue_fd` maps it again."""
        self._wired.discard(index)

    def close(self, *, touch: bool) -> None:
        """End all threads. `touch`: the function may be accessed. Idempotent."""
        plan, self._plan = self._plan, None
        self._started = False
        if plan is not None:
            plan.stop(touch=touch)
