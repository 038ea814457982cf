"""The PCI transport as a whole: one register layout, one platform, and a plan for interrupts."""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress

from vioblk._native import Doorbell
from vioblk._native import Mapping as DmaMapping
from vioblk.errors import UnsupportedError, VioblkError
from vioblk.features import Feature
from vioblk.pci.access import NotifyPlace, PciPlatform
from vioblk.pci.choose import Access, Choice, Interface, choose_layout
from vioblk.pci.layout import RegisterLayout
from vioblk.pci.legacy import QUEUE_ALIGN
from vioblk.pci.modern import ModernLayout
from vioblk.status import Status
from vioblk.transport.base import (
    QUEUE_RESET_TIMEOUT_S,
    QueueAddresses,
    QueueWires,
    Transport,
)
from vioblk.transport.config_callback import ConfigCallback
from vioblk.transport.pci.interrupts import InterruptChoice, InterruptMode, Interrupts
from vioblk.transport.pci.plans import Function
from vioblk.transport.pci.presence import Presence
from vioblk.transport.pci.window_doorbell import WindowDoorbell


class PciTransport(Transport):
    """A virtio device that is a PCI function of `platform`, which it owns and closes.

    `interface`: "modern", "legacy", or "auto" for the modern one where there is one. `access`:
    "bar", "window" (through the configuration space), or "auto" for the window where a BAR cannot
    be reached. `interrupts`: "msix" (a vector a queue and one for configuration changes), "shared"
    (one for everything), "config" (one for configuration changes, the queues are polled), "intx",
    "none", or "auto" for the first of msix, shared, intx and none that works.

    Raises ValueError for other words, TransportError if the device cannot be driven so; then the
    platform is closed. A device that has gone makes every call raise DeviceGoneError, and its
    registers are left alone. Thread-safe.
    """

    def __init__(
        self,
        address: str,
        platform: PciPlatform,
        *,
        interface: Interface = "auto",
        access: Access = "auto",
        interrupts: InterruptMode = "auto",
    ) -> None:
        self.address = address
        self.name = platform.name
        self.space = platform.space
        self.mapping_count_max = platform.mapping_count_max
        self.maps_while_live = platform.maps_while_live
        self.memory_safe_after_close = platform.memory_safe_after_close
        self._platform = platform
        self._presence: Presence | None = None
        self._interrupts: Interrupts | None = None
        self._doorbells: dict[int, WindowDoorbell] = {}
        self._callback = ConfigCallback()
        self._closed = False
        try:
            self._choice = choose_layout(platform, interface, access=access)
            self._presence = Presence(platform, address)
            self._interrupts = self._make_interrupts(self._choice, interrupts)
        except BaseException:
            self.close()
            raise
        self.device_type = self._choice.identity.device_type
        self.hangup_fd = self._presence.hangup_fd
        self.legacy_align = QUEUE_ALIGN if self.layout.interface == "legacy" else None
        self.transport_features = _transport_features(platform, self._choice)

    def _make_interrupts(self, choice: Choice, mode: InterruptMode) -> Interrupts:
        function = Function(
            self._platform, choice.layout, self._there, choice.msix, self._callback.announce
        )
        return Interrupts(function, mode)

    # What was chosen

    @property
    def layout(self) -> RegisterLayout:
        """The registers."""
        return self._choice.layout

    @property
    def platform(self) -> PciPlatform:
        """The machine around the function."""
        return self._platform

    @property
    def choice(self) -> Choice:
        """What the function is, which layout was chosen, and why."""
        return self._choice

    @property
    def interrupts(self) -> InterruptChoice:
        """How events reach this process, and why so."""
        return self._plans.choice

    @property
    def _there(self) -> Presence:
        assert self._presence is not None, "set before anything uses it"
        return self._presence

    @property
    def _plans(self) -> Interrupts:
        assert self._interrupts is not None, "set before anything uses it"
        return self._interrupts

    # Status, features and configuration

    def read_status(self) -> int:
        """The device status; 0 confirms a reset, and only of a device that is there."""
        with self._there.access():
            return self._there.judge(self.layout.read_status(), 1, zero_too=True)

    def write_status(self, value: int) -> None:
        """Write the device status; 0 asks for a reset, which `read_status` then confirms.

        Before DRIVER_OK the device is let into memory, and interrupts are set up. Raises
        TransportError if those that were asked for cannot be.
        """
        live = bool(value & Status.DRIVER_OK and not value & Status.FAILED)
        with self._there.access():
            if value == 0:
                self._plans.device_was_reset()
            if live:
                self._plans.start()
                self._platform.set_bus_master(True)
            else:
                self._let_notify(False)
            self.layout.write_status(value)
            if live:
                self._let_notify(True)

    def _let_notify(self, live: bool) -> None:
        self._platform.let_notify(live)
        for doorbell in self._doorbells.values():
            doorbell.set_live(live)

    def read_features(self) -> int:
        """All feature bits that the device offers."""
        length_bytes = 4 if self.layout.interface == "legacy" else 16
        with self._there.access():
            return self._there.judge(self.layout.read_features(), length_bytes)

    def write_features(self, accepted: int) -> None:
        """Tell the device which features both sides use."""
        with self._there.access():
            self.layout.write_features(accepted)

    def read_config(self, offset: int, length_bytes: int) -> bytes:
        """One field of 1, 2, 4 or 8 bytes, naturally aligned; nothing if it does not exist."""
        with self._there.access():
            data = self.layout.read_config(offset, length_bytes)
            if data:
                self._there.judge(int.from_bytes(data, "little"), len(data))
            return data

    def write_config(self, offset: int, data: bytes) -> None:
        """Write one field. Raises ValueError if it does not exist."""
        with self._there.access():
            self.layout.write_config(offset, data)

    def config_generation(self) -> int:
        """A counter that changes with the configuration; always 0 on the legacy interface."""
        with self._there.access():
            generation = self.layout.config_generation()
            if self.layout.interface == "legacy":
                return generation
            return self._there.judge(generation, 1, zero_too=True)

    def on_config_change(self, callback: Callable[[], None] | None) -> None:
        """Call `callback` after each configuration change notification, on a thread for it."""
        self._callback.replace(callback)

    # Memory and queues

    def map_memory(self, length_bytes: int) -> DmaMapping:
        """Make `length_bytes` more memory reachable for the device."""
        return self._platform.map_memory(length_bytes)

    def queue_count(self) -> int:
        """How many queues the device says it has."""
        with self._there.access():
            return self._there.judge(self.layout.queue_count(), 2)

    def queue_size_max(self, index: int) -> int:
        """The largest size of queue `index`, on the legacy interface its size; 0 if it does not
        exist."""
        with self._there.access():
            return self._there.judge(self.layout.queue_size_max(index), 2)

    def enable_queue(self, index: int, addresses: QueueAddresses) -> QueueWires:
        """Map the queue's interrupt, tell the device where the queue lies, and enable it.

        Raises ValueError for a queue that cannot be so, ProtocolError if its doorbell is nowhere,
        TransportError.
        """
        with self._there.access():
            interrupt_fd = self._plans.queue_fd(index)
            doorbell = self._doorbell(index, self.layout.notify_place(index))
            self.layout.enable_queue(index, addresses)
            return QueueWires(doorbell, interrupt_fd)

    def reset_queue(self, index: int, timeout_s: float = QUEUE_RESET_TIMEOUT_S) -> None:
        """Reset one queue, and wait until queue_reset reads 0; its vector is unmapped then.

        On a platform whose device would go on with requests in flight, those are waited for first.
        """
        layout = self.layout
        if not isinstance(layout, ModernLayout):
            raise UnsupportedError(
                "the legacy interface cannot reset single queues; reset the whole device instead"
            )
        deadline = time.monotonic() + timeout_s
        self._platform.settle_queue(index, timeout_s)
        timeout_s = max(0.0, deadline - time.monotonic())
        with self._there.access():
            layout.reset_queue(index, timeout_s, lambda value: self._there.judge(value, 2))
            self._plans.queue_was_reset(index)

    def _doorbell(self, index: int, place: NotifyPlace) -> Doorbell:
        window = self._choice.notify_window
        if window is None:
            return self._platform.doorbell(index, place)
        known = self._doorbells.get(index)
        if known is None or known.place != place:
            if known is not None:
                known.close()
            known = self._doorbells[index] = WindowDoorbell(window, place, self._there)
        return known.doorbell

    # The end

    def details(self) -> Mapping[str, str]:
        """The register interface and the interrupts, each with the reason."""
        return {"interface": self._choice.reason, "interrupts": str(self.interrupts)}

    def explain_failure(self) -> str | None:
        """What the platform knows of why the device last failed a request, if anything."""
        return self._platform.explain_failure()

    def close(self) -> None:
        """Keep the device out of memory, end the threads, and close the platform."""
        if self._closed:
            return
        self._closed = True
        self.hangup_fd = None  # Its number may soon be another file's.
        presence = self._presence
        # A machine that did not answer is not asked again: each access may take its whole time.
        present = presence is not None and not (presence.gone or presence.silent)
        with ExitStack() as ends:
            # Backwards, and each whatever becomes of the others.
            ends.callback(self._platform.close)
            if self._presence is not None:
                ends.callback(self._presence.close)
            for doorbell in self._doorbells.values():
                ends.callback(doorbell.close)
            if self._interrupts is not None:
                ends.callback(self._interrupts.close, touch=present)
            if present:
                ends.callback(self._keep_out)
            self.on_config_change(None)

    def _keep_out(self) -> None:
        with suppress(VioblkError, OSError):
            self._platform.set_bus_master(False)


def _transport_features(platform: PciPlatform, choice: Choice) -> frozenset[int]:
    """What the platform can do of the features that ask something of it, and the registers too.

    RING_RESET asks for nothing but a register.
    """
    if not isinstance(choice.layout, ModernLayout):
        return frozenset()  # The legacy interface has none of these bits.
    with_registers = {Feature.NOTIFICATION_DATA, Feature.NOTIF_CONFIG_DATA, Feature.RING_RESET}
    missing = with_registers - choice.layout.usable_features
    if choice.notify_window is not None:
        missing.add(Feature.NOTIFICATION_DATA)
    return (platform.transport_features | {Feature.RING_RESET}) - missing
