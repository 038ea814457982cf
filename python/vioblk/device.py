"""The life of one virtio device: initialization, configuration, queues, reset and closing.

This is the bus side. It owns the status register and every resource of the device; a driver is
handed the device, asks it for what it needs and never touches the status or the transport.
Nothing here knows of blocks.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from threading import ExceptHookArgs, RLock, current_thread, excepthook, get_ident
from typing import Final

from vioblk.config_space import ConfigField, read_snapshot, write_field
from vioblk.driver import Driver, Q, QueueHandle, QueueParts, Virtqueue
from vioblk.errors import (
    DeviceBusyError,
    DeviceGoneError,
    NegotiationError,
    ProtocolError,
    RequestTimeoutError,
    ResetTimeoutError,
    StateError,
    TransportError,
    UnsupportedError,
    VioblkError,
)
from vioblk.features import (
    Feature,
    FeatureSet,
    Negotiation,
    feature_name,
    negotiate,
    usable_features,
)
from vioblk.locks import acquire
from vioblk.memory import DmaMemory
from vioblk.queues import DeviceQueues
from vioblk.status import ANY_STATE, DeviceState, Status, allowed_in, refuse_after_fork
from vioblk.transport.base import QUEUE_RESET_TIMEOUT_S, Transport
from vioblk.weakly import weakly
from vioblk.wording import counted

__all__ = [
    "ConfigField",
    "Driver",
    "QueueHandle",
    "QueueParts",
    "VirtioDevice",
    "Virtqueue",
]

TIMEOUT_S: Final = 5.0
"""How long a device may take over a reset, and requests to complete at closing."""

POLL_INTERVAL_MIN_S: Final = 20e-6
POLL_INTERVAL_MAX_S: Final = 10e-3
"""Between two looks at a status that should become 0: each wait is twice the one before."""

LOOK_TIMEOUT_S: Final = 0.1
"""How long a look at the status waits for others who use the device."""

NEEDS_RESET: Final = "the device has met an error and needs a reset"

_KNOWN_STATUS: Final = sum(Status)

_abandoned: list[object] = []
"""What a device that never confirmed its reset might still write to: kept for ever."""


class VirtioDevice:
    """One virtio device, and the only place where its status is written.

    Thread-safe. A call in the wrong state raises StateError, in a forked child ForkedError.
    """

    def __init__(self, transport: Transport) -> None:
        self.lock = RLock()
        self.owner_pid = os.getpid()
        self.memory = DmaMemory(transport)
        self._transport: Transport | None = transport
        self._state = DeviceState.CREATED
        self._status_written = Status(0)
        self._driver: Driver | None = None
        self._offered = FeatureSet(device_type=transport.device_type)
        self._negotiation: Negotiation | None = None
        self._queues = DeviceQueues(transport, self.memory)
        self._close_lock = RLock()
        self._closing = False
        self._listening = False
        self._announcing_thread: int | None = None
        self._reset_reason = ""

    # What is known

    @property
    def state(self) -> DeviceState:
        """Where the device stands now."""
        return self._state

    @property
    def transport(self) -> Transport:
        """The way to the device. Raises StateError after `close`."""
        if self._transport is None:
            raise StateError("the device was closed; open it again")
        return self._transport

    @property
    def offered(self) -> FeatureSet:
        """What the device offers, every bit of it; empty before negotiation."""
        return self._offered

    @property
    def accepted(self) -> FeatureSet:
        """What has been chosen for both sides; empty before negotiation."""
        if self._negotiation is None:
            return FeatureSet(device_type=self._offered.device_type)
        return self._negotiation.accepted

    @property
    def negotiation(self) -> Negotiation | None:
        """What was offered, wanted, forced and accepted, and why; None before."""
        return self._negotiation

    @property
    def legacy(self) -> bool:
        """Whether the device is driven through the legacy interface: the transport decides."""
        return self.transport.legacy_align is not None

    def has(self, bit: int) -> bool:
        """Whether feature `bit` was accepted."""
        return bit in self.accepted

    @property
    @allowed_in(*ANY_STATE)
    def in_flight(self) -> int:
        """Requests in flight on all queues."""
        return self._queues.in_flight

    # Initialization

    @allowed_in(DeviceState.CREATED, DeviceState.RESET, DeviceState.FAILED)
    def initialize(
        self,
        driver: Driver,
        *,
        force_on: frozenset[int] = frozenset(),
        force_off: frozenset[int] = frozenset(),
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Bring the device to life with `driver`, from the reset to DRIVER_OK
        (VIRTIO 1.4, 3.1.1 Driver Requirements: Device Initialization; on the legacy interface
        without FEATURES_OK, 3.1.2 Legacy Interface: Device Initialization).

        Raises NegotiationError, ResetTimeoutError, TransportError, or what the driver raises;
        then the device is FAILED, and says so in its status.
        """
        self.refuse_in_callback("initialize")
        if driver.device_type != self.transport.device_type:
            raise NegotiationError(
                f"the {driver.name} driver drives devices of type {driver.device_type}, and "
                f"{self.transport.address} is of type {self.transport.device_type}"
            )
        try:
            self._reset_and_reclaim(timeout_s)
            self._driver = driver
            self._advance(Status.ACKNOWLEDGE, DeviceState.ACKNOWLEDGED)
            self._advance(Status.DRIVER, DeviceState.DRIVER)
            self._choose_features(driver, force_on, force_off)
            driver.check(self)
            self._confirm_features()
            driver.start(self)
            self._go_live(driver)
        except BaseException as error:
            self._fail(error)
            raise

    def _advance(self, bit: Status, state: DeviceState) -> None:
        """Add one bit to the status. Bits that are on stay on (VIRTIO 1.4, 2.1.1)."""
        current = self._read_status()
        if current & Status.DEVICE_NEEDS_RESET and bit is not Status.FAILED:
            raise ProtocolError(
                f"the device asked for a reset while it was being initialized (status "
                f"{int(current):#x}, before {bit.name})"
            )
        self._status_written |= bit
        self.transport.write_status(int(current | self._status_written))
        self._state = state

    def _read_status(self) -> Status:
        return Status(self.transport.read_status() & _KNOWN_STATUS)

    def _choose_features(
        self, driver: Driver, force_on: frozenset[int], force_off: frozenset[int]
    ) -> None:
        """Read what is offered, and choose; nothing is written yet."""
        transport = self.transport
        self._offered = FeatureSet.from_mask(
            transport.read_features(), device_type=transport.device_type
        )
        usable = usable_features(self._offered, transport.transport_features, legacy=self.legacy)
        self._negotiation = negotiate(
            self._offered,
            driver.wish(usable),
            transport_features=transport.transport_features,
            force_on=force_on,
            force_off=force_off,
            legacy=self.legacy,
        )

    def _confirm_features(self) -> None:
        """Write the choice, set FEATURES_OK, and see whether the device left it set."""
        self.transport.write_features(self.accepted.mask)
        self._queues.features = self.accepted
        if self.legacy:
            # It has no such bit: what is written is settled, and the device has no say.
            self._state = DeviceState.FEATURES_OK
            return
        self._advance(Status.FEATURES_OK, DeviceState.FEATURES_OK)
        if not self._read_status() & Status.FEATURES_OK:
            # It is off now, and must not come back on with the next write.
            self._status_written &= ~Status.FEATURES_OK
            raise NegotiationError(
                f"the device does not work with the features {' '.join(self.accepted.names)}: "
                f"it cleared FEATURES_OK; offered were {' '.join(self._offered.names)}"
            )

    def _go_live(self, driver: Driver) -> None:
        """Set DRIVER_OK, and only then make the objects that can notify the device."""
        if not self._listening:
            # Once only: to replace the callback is to wait for it, and it may wait for our lock.
            self._listening = True
            self.transport.on_config_change(weakly(self._on_config_change))
        self._advance(Status.DRIVER_OK, DeviceState.LIVE)
        self._queues.bring_up()
        driver.live(self)

    def _fail(self, error: BaseException) -> None:
        """Give the device up: say so in its status, if it can still be reached."""
        self._state = DeviceState.FAILED
        self._queues.abort(f"initialization failed: {error}")
        try:
            self._advance(Status.FAILED, DeviceState.FAILED)
        except (VioblkError, OSError) as unreachable:
            error.add_note(f"FAILED could not be set either: {unreachable}")

    # Queues

    @allowed_in(DeviceState.FEATURES_OK, DeviceState.LIVE)
    def queue_count(self) -> int:
        """How many queues the transport knows of; the device may have fewer."""
        return self._queues.count()

    @allowed_in(DeviceState.FEATURES_OK, DeviceState.LIVE)
    def queue_size_max(self, index: int) -> int:
        """The largest size of queue `index` in descriptors; 0 if there is no such queue."""
        return self._queues.size_max(index)

    @allowed_in(DeviceState.FEATURES_OK)
    def add_queue(
        self,
        index: int,
        size: int,
        build: Callable[[QueueParts], Q],
        *,
        indirect_table_size: int = 0,
    ) -> QueueHandle[Q]:
        """Set up queue `index` with `size` descriptors; from `Driver.start`.

        Allocates the ring and makes it known to the device now. `build` is called once the
        device is live: an object that can notify does not exist before DRIVER_OK (VIRTIO 1.4,
        3.1.1). `size` must be at most `queue_size_max(index)`, and a power of two unless
        RING_PACKED was accepted, which makes the ring a packed one; on the legacy
        interface it must be that very number, as the device cannot be told another (VIRTIO 1.4,
        2.7.2 Legacy Interfaces: A Note on Virtqueue Layout).
        `indirect_table_size` counts as 0 where INDIRECT_DESC was not accepted.
        Raises ValueError, MemoryError, ProtocolError for a size that is the device's and
        impossible, TransportError.
        """
        return self._queues.add(index, size, build, indirect_table_size=indirect_table_size)

    @allowed_in(DeviceState.LIVE)
    def reset_queue(
        self, index: int, size: int | None = None, timeout_s: float = QUEUE_RESET_TIMEOUT_S
    ) -> list[int]:
        """Reset one queue, and set it up again, with `size` descriptors (None: as many as before);
        the others go on (VIRTIO 1.4, 2.6.1 Virtqueue Reset).

        What was in flight on it is lost: whoever waits for that gets DeviceGoneError. Returns the
        tokens of submitted requests that never completed. The old ring is given back, and the
        handle of `add_queue` has a new queue, built anew; the one before stays aborted.

        Raises UnsupportedError if RING_RESET was not accepted, ValueError for a queue that was not
        set up or a size that it cannot have; then nothing has changed. Raises ResetTimeoutError if
        the device does not confirm within `timeout_s`, TransportError, MemoryError; then, and if
        the call is interrupted, the queue stays aborted and its memory untouched, until another
        call succeeds, which returns what was lost before as well, or the device is reset.
        """
        self.refuse_in_callback("reset_queue")
        self.require_queue_reset(index)
        return self._queues.reset(index, size, timeout_s)

    def require_queue_reset(self, index: int) -> None:
        """Raise UnsupportedError, with the reason, if no queue can be reset alone."""
        negotiation = self._negotiation
        if negotiation is None or Feature.RING_RESET in negotiation.accepted:
            return
        offered = Feature.RING_RESET in negotiation.offered
        possible = self.transport.makes_device and not self.legacy and not offered
        hint = "; open it with ring_reset=on" if possible else ""
        raise UnsupportedError(
            f"queue {index} cannot be reset alone: RING_RESET was not negotiated "
            f"({negotiation.why_not(Feature.RING_RESET)}{hint}); reset the whole device instead"
        )

    # Configuration

    @allowed_in(DeviceState.DRIVER, DeviceState.FEATURES_OK, DeviceState.LIVE)
    def read_config(self, field: ConfigField) -> int:
        """Read one configuration field.

        Raises UnsupportedError if it depends on a feature that the device does not offer,
        StateError if it must not be read before FEATURES_OK, TransportError.
        """
        if not self._exists(field):
            raise UnsupportedError(
                f"the configuration field {field.name} exists only with the feature "
                f"{self._name_of(field.feature)}, which the device does not offer"
            )
        return self.read_config_fields([field])[field.name]

    @allowed_in(DeviceState.DRIVER, DeviceState.FEATURES_OK, DeviceState.LIVE)
    def read_config_fields(self, fields: Sequence[ConfigField]) -> dict[str, int]:
        """Read several fields as one snapshot: all of them belong to one generation.

        Fields whose feature is not offered are left out of the result (VIRTIO 1.4, 2.5.1 Driver
        Requirements: Device Configuration Space). Raises StateError as `read_config` does,
        ProtocolError if the configuration does not hold still, TransportError.
        """
        present = [field for field in fields if self._exists(field)]
        for field in present:
            if field.after_features_ok and self._state is DeviceState.DRIVER:
                raise StateError(f"{field.name} must not be read before FEATURES_OK has been set")
        return read_snapshot(self.transport, present)

    @allowed_in(DeviceState.FEATURES_OK, DeviceState.LIVE)
    def write_config(self, field: ConfigField, value: int) -> None:
        """Write one configuration field; never during negotiation (VIRTIO 1.4, 3.1.1).

        Raises UnsupportedError if the field is not the driver's to write or depends on a feature
        that was not accepted, ValueError if `value` does not fit.
        """
        if not field.writable:
            raise UnsupportedError(f"the configuration field {field.name} cannot be written")
        if field.feature is not None and not self.has(field.feature):
            raise UnsupportedError(
                f"the configuration field {field.name} can be written only with the feature "
                f"{self._name_of(field.feature)}, which was not accepted"
            )
        write_field(self.transport, field, value)

    def _exists(self, field: ConfigField) -> bool:
        return field.feature is None or field.feature in self._offered

    def _name_of(self, bit: int | None) -> str:
        return "none" if bit is None else feature_name(bit, self._offered.device_type)

    # What the device does of itself

    @allowed_in(*ANY_STATE)
    def refresh_state(self) -> DeviceState:
        """Look at the status, and return the state.

        A LIVE device that asks for a reset becomes NEEDS_RESET: whether what is in flight will
        complete is not known (VIRTIO 1.4, 2.1.2), so its queues are aborted, and whoever waits
        gets DeviceGoneError with the reason. Raises TransportError.
        """
        if self._state is DeviceState.LIVE and self._read_status() & Status.DEVICE_NEEDS_RESET:
            self._needs_reset(NEEDS_RESET)
        return self._state

    def look_for_cause(self) -> str | None:
        """After the device did not do something in time: look at its status, as there may be no
        interrupt that would have told, and say what it shows; None if it cannot be looked at now.

        Raises DeviceGoneError if only a reset helps, or nothing does: the device asks for one,
        somebody else has reset it, or it has gone. Then the state is NEEDS_RESET, and whoever waits
        for its queues gets that error.
        """
        refuse_after_fork(self, "look_for_cause")
        transport = self._transport
        if transport is None or not transport.status_at_hand:
            return None
        # Not for ever: who closes the device may hold the lock, and wait for this very call.
        held: list[bool] = []
        try:
            if not acquire(self.lock, LOOK_TIMEOUT_S, held):
                return None
            return self._look_at_status(transport) if self._state is DeviceState.LIVE else None
        finally:
            if True in held:
                self.lock.release()

    def _look_at_status(self, transport: Transport) -> str:
        try:
            raw = transport.read_status()
        except DeviceGoneError as error:
            self._needs_reset(str(error))
            raise
        except (TransportError, OSError) as error:
            return f"its status cannot be read: {error}"
        if raw & Status.DEVICE_NEEDS_RESET:
            self._needs_reset(NEEDS_RESET)
        elif raw == 0:
            self._needs_reset("somebody else has reset the device: its status reads 0")
        elif not raw & Status.DRIVER_OK:
            # QEMU shows so that bus mastering is off; once it is on, the device goes on.
            return (
                f"its status, {raw:#x}, lacks DRIVER_OK: something keeps the device from working, "
                "such as bus mastering that is off"
            )
        else:
            return f"its status, {raw:#x}, shows no error"
        raise DeviceGoneError(self._reset_reason)

    def _needs_reset(self, reason: str) -> None:
        self._reset_reason = reason
        self._state = DeviceState.NEEDS_RESET
        self._queues.abort(reason)

    def _on_config_change(self) -> None:
        """A notification of the transport, on any thread."""
        # close() may be waiting for the very thread that runs this, so never wait for it.
        while not self.lock.acquire(timeout=0.02):
            if self._closing:
                return
        try:
            announce = self._look_again()
        finally:
            self.lock.release()
        if announce is not None:
            self._announce(announce)

    def _look_again(self) -> Callable[[], None] | None:
        """Let the driver read the configuration; what it wants called without the lock."""
        if self._state is not DeviceState.LIVE or self._closing or self._driver is None:
            return None
        try:
            if self.refresh_state() is DeviceState.LIVE:
                return self._driver.config_changed(self)
        except (VioblkError, OSError) as error:
            # There is no caller to tell; the next request will say it.
            self._needs_reset(f"the changed configuration could not be read: {error}")
        return None

    def _announce(self, announce: Callable[[], None]) -> None:
        self._announcing_thread = get_ident()
        try:
            announce()
        except Exception:
            # It must not end the transport's thread, which has more to do.
            excepthook(ExceptHookArgs((*sys.exc_info(), current_thread())))
        finally:
            self._announcing_thread = None

    def refuse_in_callback(self, call: str) -> None:
        """Raise StateError on a thread that announces a configuration change: another thread may
        be waiting for it, with locks held that `call` needs.
        """
        if self._announcing_thread == get_ident():
            raise StateError(
                f"{call}() cannot be called from a callback for configuration changes; let "
                "another thread call it"
            )

    # Reset and closing

    @allowed_in(*(ANY_STATE - {DeviceState.CLOSED}))
    def reset(self, timeout_s: float = TIMEOUT_S) -> None:
        """Reset the device and wait until it confirms (VIRTIO 1.4, 2.4.2).

        Its queues are reclaimed and gone afterwards, the driver's `stopped` says what was lost,
        and the state is RESET; `initialize` brings the device back. Memory stays as it is.
        Raises ResetTimeoutError or TransportError; then the state is FAILED, and the memory of
        the queues stays untouched until a later reset or for ever.
        """
        self.refuse_in_callback("reset")
        try:
            self._reset_and_reclaim(timeout_s)
        except BaseException as error:
            self._state = DeviceState.FAILED
            self._queues.abort(f"the reset failed: {error}")
            raise

    def _reset_and_reclaim(self, timeout_s: float) -> None:
        self._await_reset(timeout_s)
        self._state = DeviceState.RESET
        self._negotiation = None
        self._offered = FeatureSet(device_type=self._offered.device_type)
        self._stop_driver(self._queues.reclaim("the device was reset"))

    def _await_reset(self, timeout_s: float) -> None:
        """Write 0, and wait until 0 is read: before that, nothing has been reset."""
        transport = self.transport
        transport.write_status(0)
        deadline = time.monotonic() + timeout_s
        interval_s = POLL_INTERVAL_MIN_S
        while (status := transport.read_status()) != 0:
            if time.monotonic() >= deadline:
                raise ResetTimeoutError(
                    f"{transport.address} did not confirm its reset within {timeout_s:g} s: its "
                    f"status still reads {status:#x}"
                )
            time.sleep(interval_s)
            interval_s = min(2 * interval_s, POLL_INTERVAL_MAX_S)
        self._status_written = Status(0)

    def _stop_driver(self, lost: dict[int, list[int]]) -> None:
        driver, self._driver = self._driver, None
        if driver is not None:
            driver.stopped(self, lost)

    def close(
        self,
        *,
        drain: bool = True,
        timeout_s: float = TIMEOUT_S,
        reset_timeout_s: float | None = None,
    ) -> None:
        """Stop intake, drain, reset, confirm, reclaim, let go. Idempotent; allowed in any state.

        Waits at most `timeout_s` for requests, and `reset_timeout_s` (None: the same) for the
        reset. With `drain` false, raises DeviceBusyError if requests are in flight, and changes
        nothing.
        Raises RequestTimeoutError if they did not complete in time, ResetTimeoutError if the
        device did not confirm its reset: the device is closed all the same, and what was in
        flight counts as lost. Memory that the device might still reach is never reused.
        """
        refuse_after_fork(self, "close")
        self.refuse_in_callback("close")
        with self._close_lock:
            if self._state is DeviceState.CLOSED:
                return
            if not drain and self.in_flight:
                raise DeviceBusyError(
                    f"{counted(self.in_flight, 'request')} in flight; wait until nothing is, or "
                    "close with drain"
                )
            self._closing = True
            self.transport.on_config_change(None)
            drained = self._drain(timeout_s)
            with self.lock:
                queues = self._queues.live()
                in_flight = sum(queue.in_flight for queue in queues if not queue.broken)
                broken = any(queue.broken for queue in queues)
                self._shut_down(timeout_s if reset_timeout_s is None else reset_timeout_s)
            # Whoever waits on a broken queue has been told already.
            if not drained and (in_flight or not broken):
                raise RequestTimeoutError(
                    f"{counted(in_flight, 'request')} did not complete within {timeout_s:g} s; the "
                    "device was closed, and what was in flight is lost"
                )

    def _drain(self, timeout_s: float) -> bool:
        # The lock is not held: those who wait for requests may need the device meanwhile.
        if self._state is not DeviceState.LIVE or self._driver is None:
            return True
        return self._driver.drain(self, timeout_s)

    def _shut_down(self, timeout_s: float) -> None:
        """Reset if there is anything to reset, and let go of everything, whatever happens."""
        transport = self.transport
        safe = self._state in (DeviceState.CREATED, DeviceState.RESET)
        try:
            if not safe:
                self._await_reset(timeout_s)
                safe = True
        except TransportError:
            pass  # It has gone, and with it the register that would confirm.
        finally:
            self._let_go(transport, safe)

    def _let_go(self, transport: Transport, safe: bool) -> None:
        """`safe`: the device has confirmed that it touches no memory any more."""
        self._state = DeviceState.CLOSED
        self._queues.abort("the device was closed")
        if not safe and not transport.memory_safe_after_close:
            _abandoned.append(self._queues.abandon())
        transport.close()
        self.memory.close()
        self._transport = None
        lost = self._queues.reclaim("the device was closed")
        self._queues.close()
        self._stop_driver(lost)
