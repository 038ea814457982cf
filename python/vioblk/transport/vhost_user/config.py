"""Device configuration by GET_CONFIG and SET_CONFIG.

Back ends ignore the offset of GET_CONFIG, and answer a length that is too much for them, or not
exactly theirs, with an empty reply. So the structure is read from its start each time, and how much
of it a back end tells is found out once.
"""

import threading
import time
from collections.abc import Iterator
from typing import Final

from vioblk.errors import ProtocolError, TransportError
from vioblk.transport.vhost_user.connection import Connection
from vioblk.transport.vhost_user.messages import CONFIG_HEADER, Request

FIELD_ENDS: Final = (
    *(96, 72, 60, 57, 56, 52, 48, 44, 40, 36, 34, 33),
    *(32, 28, 26, 25, 24, 20, 19, 18, 16, 12, 8),
)
"""Where the fields of struct virtio_blk_config end, in bytes; of the long tail, which this driver
does not read, only the ends of its groups: zoned, secure erase, padding (VIRTIO 1.4, 5.2.4 Device
configuration layout). A structure of any length tells all its fields up to one of these."""

MAX_LENGTH: Final = 256
"""Bytes. No back end takes a longer GET_CONFIG (VHOST_USER_MAX_CONFIG_SIZE)."""

SEARCH_TIMEOUT_S: Final = 5.0
"""For all the questions about the length together; each takes some tens of microseconds."""

FIELD_LENGTHS: Final = (1, 2, 4, 8)


class ConfigSpace:
    """The back end's configuration structure. Thread-safe.

    Raises TransportError if the back end does not even tell the capacity, or takes more than
    `search_timeout_s` to be asked.
    """

    def __init__(self, connection: Connection, search_timeout_s: float = SEARCH_TIMEOUT_S) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._generation = 0
        self._length, self._snapshot = self._find_length(search_timeout_s)

    @property
    def length(self) -> int:
        """Bytes that are read; the back end's structure may go on."""
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

    def _find_length(self, timeout_s: float) -> tuple[int, bytes]:
        deadline = time.monotonic() + timeout_s
        for length in _lengths_to_try():
            content = self._fetch(length)
            if content is not None:
                return length, content
            if time.monotonic() >= deadline:
                raise TransportError(
                    f"the back end took {timeout_s:g} s to refuse lengths of the configuration; "
                    f"the last was {length} bytes"
                )
        raise TransportError(
            f"the back end tells no configuration of {FIELD_ENDS[-1]} to {MAX_LENGTH} bytes; "
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


def _lengths_to_try() -> Iterator[int]:
    """First what tells most to a back end that lets a part be read, then what is left, for one
    that insists on its own length."""
    yield from FIELD_ENDS
    yield from (each for each in range(FIELD_ENDS[-1], MAX_LENGTH + 1) if each not in FIELD_ENDS)
