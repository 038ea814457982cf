"""Device configuration by GET_CONFIG and SET_CONFIG.

Back ends ignore the offset of GET_CONFIG, and answer a length that is not theirs with an empty
reply. So the whole structure is read each time, and its length is found out once.
"""

import threading
from typing import Final

from vioblk.errors import ProtocolError, TransportError
from vioblk.transport.vhost_user.connection import Connection
from vioblk.transport.vhost_user.messages import CONFIG_HEADER, Request

BLOCK_CONFIG_LENGTHS: Final = (96, 72, 60, 36)
"""Lengths in bytes that struct virtio_blk_config has had, longest first: up to the zoned fields,
secure erase, write zeroes, num_queues (VIRTIO 1.4, 5.2.4 Device configuration layout)."""

FIELD_LENGTHS: Final = (1, 2, 4, 8)


class ConfigSpace:
    """The back end's configuration structure. Thread-safe.

    `lengths`: the lengths in bytes that the structure may have, longest first. Raises
    TransportError if the back end has none of them.
    """

    def __init__(
        self, connection: Connection, lengths: tuple[int, ...] = BLOCK_CONFIG_LENGTHS
    ) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._generation = 0
        self._length, self._snapshot = self._find_length(lengths)

    @property
    def length(self) -> int:
        """Bytes."""
        return self._length

    def read(self, offset: int, length_bytes: int) -> bytes:
        """One field, read afresh from the back end.

        Raises ValueError if it is no field (1, 2, 4 or 8 bytes, aligned to their length, 8 bytes to
        4 at least), TransportError if the back end's structure ends before it.
        """
        if length_bytes not in FIELD_LENGTHS or offset < 0 or offset % min(length_bytes, 4):
            raise ValueError(
                f"{length_bytes} bytes at offset {offset} are no configuration field: "
                "read 1, 2, 4 or 8 bytes, aligned"
            )
        if offset + length_bytes > self._length:
            raise TransportError(
                f"the back end's configuration has {self._length} bytes, and {length_bytes} at "
                f"offset {offset} reach past it; it offers a feature that it does not describe"
            )
        return self._refresh()[offset : offset + length_bytes]

    def write(self, offset: int, data: bytes) -> None:
        """Write one field.

        Which fields may be written is for the device layer to know. Back ends differ in what they
        do about the others: qemu-storage-daemon takes `writeback` and hangs up at anything else.
        """
        header = CONFIG_HEADER.pack(offset, len(data), 0)
        self._connection.tell(Request.SET_CONFIG, header + data)
        # It may acknowledge what it refuses, and then hang up.
        self._connection.sync(Request.SET_CONFIG)

    def generation(self) -> int:
        """A counter that has changed if the content has since the last call of any method.

        The protocol has no such counter; here it counts the changes that were seen.
        """
        with self._lock:
            self._note(self._fetch(self._length))
            return self._generation

    def _refresh(self) -> bytes:
        with self._lock:
            self._note(self._fetch(self._length))
            return self._snapshot

    def _note(self, content: bytes | None) -> None:
        if content is None:
            raise ProtocolError(
                f"the back end no longer tells the {self._length} bytes of its configuration"
            )
        if content != self._snapshot:
            self._generation += 1
            self._snapshot = content

    def _find_length(self, lengths: tuple[int, ...]) -> tuple[int, bytes]:
        for length in lengths:
            content = self._fetch(length)
            if content is not None:
                return length, content
        raise TransportError(
            f"the back end has no configuration of {', '.join(map(str, lengths))} bytes; "
            "is it a block device?"
        )

    def _fetch(self, length: int) -> bytes | None:
        """The first `length` bytes; None if the back end does not have that many."""
        reply = self._connection.ask(
            Request.GET_CONFIG,
            CONFIG_HEADER.pack(0, length, 0) + bytes(length),
            reply_lengths=(0, CONFIG_HEADER.size + length),
        )
        if not reply:
            return None
        offset, told, _flags = CONFIG_HEADER.unpack_from(reply)
        if (offset, told) != (0, length):
            reason = (
                f"the back end answered GET_CONFIG with {told} bytes at offset {offset} "
                f"({length} bytes at 0 were asked for)"
            )
            self._connection.give_up(reason)
            raise ProtocolError(reason)
        return reply[CONFIG_HEADER.size :]
