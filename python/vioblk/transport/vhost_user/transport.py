"""The vhost-user transport as a whole: handshake, features, status and reset.

The back end (qemu-storage-daemon, SPDK, a VMM's own) maps our memory, is told where the queues lie,
and is notified by eventfds. There are no registers: the status byte is kept here unless the back
end has one (STATUS), and a reset is to stop every queue.

Two kinds of address meet here. Rings are named to the back end by *host* addresses (where this
process sees them), buffers in descriptors by *device* addresses; the memory table ties the two.

Source: the vhost-user protocol specification, published with QEMU.
"""

import contextlib
import os
import time
from collections.abc import Callable
from typing import Final

from vioblk._native import Mapping
from vioblk.errors import TransportError
from vioblk.status import Status
from vioblk.transport.base import QueueAddresses, QueueWires, Transport
from vioblk.transport.config_callback import ConfigCallback
from vioblk.transport.vhost_user.channel import BackendChannel
from vioblk.transport.vhost_user.config import ConfigSpace
from vioblk.transport.vhost_user.connection import DEFAULT_TIMEOUT_S, Connection, connect
from vioblk.transport.vhost_user.memory import SharedMemory
from vioblk.transport.vhost_user.messages import (
    BASELINE_MEMORY_SLOTS,
    F_LOG_ALL,
    F_PROTOCOL_FEATURES,
    U64,
    ProtocolFeature,
    Request,
)
from vioblk.transport.vhost_user.queue import MAX_QUEUE_SIZE, VhostUserQueue

HIDDEN_FEATURES: Final = 1 << F_LOG_ALL | 1 << F_PROTOCOL_FEATURES
"""Feature bits that belong to the protocol, not to the device; the virtio layer never sees them."""

ORDER_PLATFORM: Final = 36
"""VIRTIO_F_ORDER_PLATFORM: our barriers and eventfds order for whatever CPU serves the device."""

MAX_QUEUE_COUNT: Final = 65536
"""A queue index has 16 bits (VIRTIO 1.4, 4.1.4.3: queue_select)."""

DRAIN_TIMEOUT_S: Final = 4.0
"""Less than the 5 s that callers usually wait for a reset, so that they learn the reason."""


class VhostUserTransport(Transport):
    """A block device behind the Unix socket at `path`.

    `timeout_s` bounds every exchange with the back end, `drain_timeout_s` how long a reset waits
    for requests in flight before it gives the connection up. Raises AddressError (no such path can
    be), TransportError, DeviceGoneError or ProtocolError with what is wrong and what to do.
    Thread-safe as far as the device layer needs: configuration may be read from any thread.
    """

    name = "vhost-user"
    device_type = 2
    transport_features = frozenset({ORDER_PLATFORM})
    memory_safe_after_close = True
    status_at_hand = False
    """The back end has mappings of its own: what is unmapped here is beyond its reach."""

    def __init__(
        self,
        path: str,
        *,
        address: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        drain_timeout_s: float = DRAIN_TIMEOUT_S,
    ) -> None:
        self.address = address if address is not None else f"vhost-user:{path}"
        self._owner_pid = os.getpid()
        self._status = 0
        self._drain_timeout_s = drain_timeout_s
        self._reset_deadline: float | None = None
        self._callback = ConfigCallback()
        self._queues: dict[int, VhostUserQueue] = {}
        self._channel: BackendChannel | None = None
        peer = f"the vhost-user back end at {path}"
        self._connection = Connection(connect(path, timeout_s), peer, timeout_s)
        try:
            self._shake_hands()
        except BaseException:
            self.close()
            raise
        self.hangup_fd = self._connection.fileno()

    def _shake_hands(self) -> None:
        connection = self._connection
        connection.post(Request.SET_OWNER)
        self._offered = connection.ask_u64(
            Request.GET_FEATURES,
            hint=(
                "is another client connected, or has one just left with requests in flight? "
                "a back end serves one at a time"
            ),
        )
        self._protocol_features = self._negotiate_protocol()
        connection.reply_ack = self._has(ProtocolFeature.REPLY_ACK)
        self._queue_count = self._ask_count(
            ProtocolFeature.MQ, Request.GET_QUEUE_NUM, MAX_QUEUE_COUNT, default=1
        )
        slots = self._ask_count(
            ProtocolFeature.CONFIGURE_MEM_SLOTS,
            Request.GET_MAX_MEM_SLOTS,
            (1 << 64) - 1,
            default=BASELINE_MEMORY_SLOTS,
        )
        growable = self._has(ProtocolFeature.CONFIGURE_MEM_SLOTS)
        self._memory = SharedMemory(connection, slots, growable=growable)
        self.space = self._memory.space
        self.mapping_count_max = slots
        self.maps_while_live = growable
        self._config = ConfigSpace(connection)
        if self._has(ProtocolFeature.BACKEND_REQ):
            self._channel = BackendChannel(self._callback.announce)
            with self._channel.backend_end as backend_end:
                connection.tell(Request.SET_BACKEND_REQ_FD, fds=[backend_end.fileno()])

    def _negotiate_protocol(self) -> int:
        connection = self._connection
        if not self._offered >> F_PROTOCOL_FEATURES & 1:
            raise TransportError(
                f"{self.address}: the back end has no protocol features, so its configuration "
                f"cannot be read (it offers {self._offered:#x}); use a newer one"
            )
        offered = connection.ask_u64(Request.GET_PROTOCOL_FEATURES)
        if not offered >> ProtocolFeature.CONFIG & 1:
            raise TransportError(
                f"{self.address}: the back end does not offer the protocol feature CONFIG (it "
                f"offers {offered:#x}), so its capacity is unknown; is it a block device?"
            )
        accepted = offered & sum(1 << bit for bit in ProtocolFeature)
        connection.post(Request.SET_PROTOCOL_FEATURES, U64.pack(accepted))
        return accepted

    def _has(self, feature: ProtocolFeature) -> bool:
        return bool(self._protocol_features >> feature & 1)

    def _ask_count(
        self, feature: ProtocolFeature, request: Request, maximum: int, *, default: int
    ) -> int:
        if not self._has(feature):
            return default
        count = self._connection.ask_u64(request)
        if not 1 <= count <= maximum:
            raise TransportError(
                f"{self.address}: the back end answered {request.name} with {count} "
                f"(1 to {maximum} make sense)"
            )
        return count

    # Features and configuration.

    def read_features(self) -> int:
        """What the back end offers, without HIDDEN_FEATURES."""
        self._offered = self._connection.ask_u64(Request.GET_FEATURES)
        return self._visible()

    def _visible(self) -> int:
        return self._offered & ~HIDDEN_FEATURES

    def write_features(self, accepted: int) -> None:
        """Raises ValueError for a bit that is not offered; some back ends would let it pass."""
        foreign = accepted & ~self._visible()
        if foreign:
            raise ValueError(f"feature bits {foreign:#x} are not offered by {self.address}")
        features = accepted | 1 << F_PROTOCOL_FEATURES
        self._connection.tell(Request.SET_FEATURES, U64.pack(features))

    def read_config(self, offset: int, length_bytes: int) -> bytes:
        """One field, read afresh. Raises ValueError, TransportError (past the structure's end)."""
        return self._config.read(offset, length_bytes)

    def write_config(self, offset: int, data: bytes) -> None:
        """Many back ends hang up at a write to anything but `writeback`."""
        self._config.write(offset, data)

    def config_generation(self) -> int:
        """Counts the changes that were seen; see ConfigSpace.generation."""
        return self._config.generation()

    def on_config_change(self, callback: Callable[[], None] | None) -> None:
        """Without BACKEND_REQ, and with qemu-storage-daemon 7.2, no change is ever announced."""
        self._callback.replace(callback)

    # Status and reset.

    def read_status(self) -> int:
        """The status; 0 after a reset only when the back end has given back every request.

        DEVICE_NEEDS_RESET is set if the back end has signalled an error of a queue. Raises
        DeviceGoneError if it has hung up.
        """
        if self._reset_deadline is not None:
            self._reset_step()
        if self._has(ProtocolFeature.STATUS):
            self._status = self._connection.ask_u64(Request.GET_STATUS) & 0xFF
        else:
            self._connection.check_alive()
        if any(queue.failed for queue in self._queues.values()):
            return self._status | Status.DEVICE_NEEDS_RESET
        return self._status

    def write_status(self, value: int) -> None:
        """Write the status; 0 starts a reset, which `read_status` carries on and confirms.

        A second 0 goes on with a reset that is not confirmed yet, so a caller who waits less than
        `drain_timeout_s` may try again until it has passed.
        """
        if value == 0:
            if self._reset_deadline is None:
                self._reset_deadline = time.monotonic() + self._drain_timeout_s
            self._reset_step()
            return
        self._put_status(value)

    def _put_status(self, value: int) -> None:
        if self._has(ProtocolFeature.STATUS):
            self._connection.tell(Request.SET_STATUS, U64.pack(value))
        self._status = value

    def _reset_step(self) -> None:
        """Stop the queues as soon as nothing is in flight, at the latest at the deadline.

        A queue is stopped while the back end works on it only as a last resort: it may answer, and
        write to the memory afterwards (VhostUserQueue.stop then gives the connection up).
        """
        self._connection.check_alive()
        running = [queue for queue in self._queues.values() if queue.running]
        if not all(queue.drained() for queue in running) and not self._reset_is_late():
            return
        for queue in running:
            queue.stop()
        if self._has(ProtocolFeature.RESET_DEVICE):
            self._connection.tell(Request.RESET_DEVICE)
        self._put_status(0)
        self._reset_deadline = None

    def _reset_is_late(self) -> bool:
        return self._reset_deadline is not None and time.monotonic() >= self._reset_deadline

    # Memory and queues.

    def map_memory(self, length_bytes: int) -> Mapping:
        """Raises ValueError, MemoryError (the back end takes no more regions), TransportError;
        StateError while queues run and the back end does not offer CONFIGURE_MEM_SLOTS."""
        running = any(queue.running for queue in self._queues.values())
        return self._memory.map(length_bytes, queues_running=running)

    def queue_count(self) -> int:
        """GET_QUEUE_NUM; 1 without MQ."""
        return self._queue_count

    def queue_size_max(self, index: int) -> int:
        """1024 descriptors; 0 if there is no such queue."""
        return MAX_QUEUE_SIZE if 0 <= index < self._queue_count else 0

    def enable_queue(self, index: int, addresses: QueueAddresses) -> QueueWires:
        """Hand queue `index` to the back end; the wires stay the same from reset to reset.

        Raises ValueError (no such queue, or addresses that cannot be), TransportError.
        """
        if not 0 <= index < self._queue_count:
            raise ValueError(f"there is no queue {index}: the back end has {self._queue_count}")
        if index not in self._queues:
            self._queues[index] = VhostUserQueue(self._connection, self._memory, index)
        queue = self._queues[index]
        if queue.running:
            raise ValueError(f"queue {index} is enabled already; reset the device first")
        return queue.start(addresses)

    def close(self) -> None:
        """Hang up and free everything. Idempotent; in a forked child the parent keeps its own."""
        if self._channel is not None:
            if os.getpid() == self._owner_pid:
                self._channel.close()
            else:
                self._channel.abandon()
        self._connection.close()
        with contextlib.suppress(OSError):
            for queue in self._queues.values():
                queue.close()
