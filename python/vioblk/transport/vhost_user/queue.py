"""One queue of a vhost-user back end: its eventfds, and how it is started and stopped."""

import contextlib
import os
import select
import weakref
from typing import Final

from vioblk._native import Doorbell
from vioblk.errors import ProtocolError
from vioblk.transport.base import QueueAddresses, QueueWires
from vioblk.transport.vhost_user.connection import Connection
from vioblk.transport.vhost_user.memory import SharedMemory
from vioblk.transport.vhost_user.messages import U64, VRING_ADDRESS, VRING_STATE, Request

MAX_QUEUE_SIZE: Final = 1024
"""Descriptors. The protocol cannot ask; back ends built on libvhost-user take no more."""

INDEX_OFFSET: Final = 2
"""Bytes from the start of the available and of the used ring to their index (VIRTIO 1.4, 2.7.6
The Virtqueue Available Ring, 2.7.8 The Virtqueue Used Ring)."""


class VhostUserQueue:
    """One split queue. The eventfds live as long as the object, so a restart keeps its wires."""

    def __init__(self, connection: Connection, memory: SharedMemory, index: int) -> None:
        self._connection = connection
        self._memory = memory
        self._index = index
        self._addresses: QueueAddresses | None = None
        with contextlib.ExitStack() as fds:
            self._kick_fd = _eventfd(fds)
            self._doorbell: Doorbell | None = Doorbell.eventfd(self._kick_fd)
            self._call_fd = _eventfd(fds)
            self._error_fd = _eventfd(fds)
            self._free = weakref.finalize(self, fds.pop_all().close)

    @property
    def running(self) -> bool:
        """Whether the back end may be using the queue."""
        return self._addresses is not None

    @property
    def failed(self) -> bool:
        """Whether the back end has signalled an error of the queue since it was started."""
        poller = select.poll()
        poller.register(self._error_fd, select.POLLIN)
        return self.running and bool(poller.poll(0))

    def start(self, addresses: QueueAddresses) -> QueueWires:
        """Hand the queue over to the back end.

        Raises ValueError (a size that is no power of two up to 1024, a part that is misaligned or
        not in the device's memory), TransportError.
        """
        self._check(addresses)
        self._forget_old_signals()
        connection, index = self._connection, self._index
        queue_and_fd = U64.pack(index)
        connection.tell(Request.SET_VRING_NUM, VRING_STATE.pack(index, addresses.size))
        connection.tell(Request.SET_VRING_BASE, VRING_STATE.pack(index, 0))
        connection.tell(Request.SET_VRING_ADDR, self._host_addresses(addresses))
        connection.tell(Request.SET_VRING_ERR, queue_and_fd, [self._error_fd])
        connection.tell(Request.SET_VRING_CALL, queue_and_fd, [self._call_fd])
        # From the next message on the back end may use the queue, and has to be asked to stop.
        self._addresses = addresses
        connection.tell(Request.SET_VRING_KICK, queue_and_fd, [self._kick_fd])
        connection.tell(Request.SET_VRING_ENABLE, VRING_STATE.pack(index, 1))
        # A back end may acknowledge a message that it gives up on, and then hang up.
        connection.sync(Request.SET_VRING_ENABLE)
        return QueueWires(self._doorbell, self._call_fd)

    def drained(self) -> bool:
        """Whether every chain that was made available has come back."""
        available, used = self._indices()
        return available == used

    def stop(self) -> None:
        """Take the queue back. Afterwards the back end touches none of its memory.

        GET_VRING_BASE alone does not promise that: qemu-storage-daemon answers it at once, and goes
        on writing to the buffers of requests that it has begun. It has begun as many as the base
        says, and finished as many as the used index says. If these differ, the connection is
        given up, so that the memory is not used again, and ProtocolError is raised.
        """
        reply = self._connection.ask(
            Request.GET_VRING_BASE,
            VRING_STATE.pack(self._index, 0),
            reply_lengths=(VRING_STATE.size,),
        )
        index, base = VRING_STATE.unpack(reply)
        _, used = self._indices()
        if (index, base) != (self._index, used):
            reason = (
                f"queue {self._index} was stopped, but the back end still owns requests (it says "
                f"queue {index}, next {base}; its used index is {used}); the connection was closed"
            )
            self._connection.give_up(reason)
            raise ProtocolError(reason)
        self._addresses = None

    def close(self) -> None:
        """Free the eventfds. Idempotent."""
        self._doorbell = None  # it has a descriptor of its own
        self._free()

    def _indices(self) -> tuple[int, int]:
        """The available and the used index; (0, 0) for a queue that does not run."""
        if self._addresses is None:
            return 0, 0
        available = self._memory.read_u16(self._addresses.driver_address + INDEX_OFFSET)
        return available, self._memory.read_u16(self._addresses.device_address + INDEX_OFFSET)

    def _forget_old_signals(self) -> None:
        # A notification of the former life would be one before DRIVER_OK in this one.
        for fd in (self._kick_fd, self._error_fd):
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(fd)

    def _check(self, addresses: QueueAddresses) -> None:
        size = addresses.size
        if not 0 < size <= MAX_QUEUE_SIZE or size & (size - 1):
            raise ValueError(
                f"queue {self._index} cannot have {size} descriptors: "
                f"give a power of two up to {MAX_QUEUE_SIZE}"
            )
        for name, address, alignment in (
            ("descriptor table", addresses.descriptors_address, 16),
            ("available ring", addresses.driver_address, 2),
            ("used ring", addresses.device_address, 4),
        ):
            if address % alignment:
                raise ValueError(
                    f"the {name} of queue {self._index} is at {address:#x}, "
                    f"which is not a multiple of {alignment}"
                )
        self._host_addresses(addresses)

    def _host_addresses(self, addresses: QueueAddresses) -> bytes:
        """The payload of SET_VRING_ADDR; the lengths are those of VIRTIO 1.4, 2.7 Split Virtqueues,
        with the event index fields, which may be used."""
        size = addresses.size
        return VRING_ADDRESS.pack(
            self._index,
            0,
            self._memory.host_address(addresses.descriptors_address, 16 * size),
            self._memory.host_address(addresses.device_address, 6 + 8 * size),
            self._memory.host_address(addresses.driver_address, 6 + 2 * size),
            0,
        )


def _eventfd(owner: contextlib.ExitStack) -> int:
    # The back end sets O_NONBLOCK on the shared description anyway; better to know it.
    fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    owner.callback(os.close, fd)
    return fd
