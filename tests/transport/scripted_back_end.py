"""A vhost-user back end that does what a test tells it: correctly by default, or else badly.

It is written from the protocol, with numbers of its own, so that a wrong constant in the driver
does not agree with itself here.
"""

import contextlib
import gc
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from vioblk.transport.base import QueueAddresses

GET_FEATURES, SET_FEATURES, SET_OWNER, SET_MEM_TABLE = 1, 2, 3, 5
SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, GET_VRING_BASE = 8, 9, 10, 11
SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR = 12, 13, 14
GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, GET_QUEUE_NUM, SET_VRING_ENABLE = 15, 16, 17, 18
SET_BACKEND_REQ_FD, GET_CONFIG, SET_CONFIG, RESET_DEVICE = 21, 24, 25, 34
GET_MAX_MEM_SLOTS, ADD_MEM_REG, SET_STATUS, GET_STATUS = 36, 37, 39, 40

MQ, REPLY_ACK, BACKEND_REQ, CONFIG = 1 << 0, 1 << 3, 1 << 5, 1 << 9
RESET_DEVICE_FEATURE, CONFIGURE_MEM_SLOTS, STATUS = 1 << 13, 1 << 15, 1 << 16
USUAL_PROTOCOL_FEATURES = MQ | REPLY_ACK | BACKEND_REQ | CONFIG | CONFIGURE_MEM_SLOTS

LOG_ALL, PROTOCOL_FEATURES, VERSION_1 = 1 << 26, 1 << 30, 1 << 32
USUAL_FEATURES = LOG_ALL | PROTOCOL_FEATURES | VERSION_1 | 1 << 9

REPLY = 1 | 4
NEED_REPLY = 8

TIMEOUT_S = 60.0
"""For the back end's own waits; longer than any in the tests, so that it never decides one."""


class Message(NamedTuple):
    """What the front end sent."""

    request: int
    flags: int
    payload: bytes
    fd_count: int

    @property
    def number(self) -> int:
        """The payload as one number of 64 bits."""
        return int(struct.unpack("=Q", self.payload)[0])


def encode(request: int, payload: bytes, flags: int = REPLY, size: int | None = None) -> bytes:
    """A message; `size` is what the header says, if not the truth."""
    return struct.pack("=III", request, flags, len(payload) if size is None else size) + payload


def u64(number: int) -> bytes:
    return struct.pack("=Q", number)


def receive_exactly(end: socket.socket, length: int) -> tuple[bytes, list[int]]:
    """`length` bytes and the descriptors that came with them; fewer at the end of the stream."""
    data, fds = b"", []
    while len(data) < length:
        part, new_fds, _, _ = socket.recv_fds(end, length - len(data), 16)
        fds += new_fds
        if not part:
            break
        data += part
    return data, fds


Answer = Callable[["ScriptedBackEnd", Message], bytes | None]
"""What to send back for a message; None: what a correct back end would. Empty: nothing."""


class ScriptedBackEnd:
    """Serves one client after another on a socket at `path`, on a thread of its own."""

    def __init__(
        self,
        path: Path,
        *,
        features: int = USUAL_FEATURES,
        protocol_features: int = USUAL_PROTOCOL_FEATURES,
        queue_count: int = 2,
        slots: int = 32,
        config: bytes = bytes(range(60)),
        answers: Mapping[int, Answer] | None = None,
        kept_fds: Mapping[int, list[int]] | None = None,
    ) -> None:
        self.path = path
        self.features = features
        self.protocol_features = protocol_features
        self.queue_count = queue_count
        self.slots = slots
        self.config = config
        self.answers = dict(answers or {})
        self.kept_fds = dict(kept_fds or {})
        """Where the descriptors of a request go, if a test wants them; it closes them."""
        self.messages: list[Message] = []
        self.status = 0
        self.bases: dict[int, int] = {}
        """What GET_VRING_BASE says for a queue; 0 by default."""
        self.channel: socket.socket | None = None
        self._closing = False
        self._client: socket.socket | None = None
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.settimeout(TIMEOUT_S)
        self._listener.bind(str(path))
        self._listener.listen(4)
        self._thread = threading.Thread(target=self._serve, name="scripted-back-end")
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        self.hang_up()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as waker:
            waker.connect(str(self.path))
            self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()
        self._listener.close()

    def hang_up(self) -> None:
        """Drop the client."""
        client = self._client
        if client is not None:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def requests(self) -> list[int]:
        """The numbers of all messages so far."""
        return [message.request for message in self.messages]

    def sent(self, request: int) -> list[Message]:
        """All messages of one kind."""
        return [message for message in self.messages if message.request == request]

    def _serve(self) -> None:
        while not self._closing:
            self._client, _ = self._listener.accept()
            self._client.settimeout(TIMEOUT_S)
            with contextlib.suppress(OSError), self._client as client:
                if not self._closing:
                    self._serve_client(client)
            if self.channel is not None:
                self.channel.close()
                self.channel = None

    def _serve_client(self, client: socket.socket) -> None:
        while True:
            header, fds = receive_exactly(client, 12)
            if len(header) < 12:
                return
            request, flags, size = struct.unpack("=III", header)
            payload, more_fds = receive_exactly(client, size)
            message = Message(request, flags, payload, len(fds + more_fds))
            self.messages.append(message)
            self._take(request, fds + more_fds)
            answer = self.answers.get(request, _correct)(self, message)
            client.sendall(_correct(self, message) if answer is None else answer)

    def _take(self, request: int, fds: Sequence[int]) -> None:
        for fd in fds:
            if request == SET_BACKEND_REQ_FD:
                self.channel = socket.socket(fileno=fd)
                self.channel.settimeout(TIMEOUT_S)
            elif request in self.kept_fds:
                self.kept_fds[request].append(fd)
            else:
                os.close(fd)


def _correct(back_end: ScriptedBackEnd, message: Message) -> bytes:
    """What a correct back end sends back for `message`."""
    request = message.request
    numbers = {
        GET_FEATURES: back_end.features,
        GET_PROTOCOL_FEATURES: back_end.protocol_features,
        GET_QUEUE_NUM: back_end.queue_count,
        GET_MAX_MEM_SLOTS: back_end.slots,
        GET_STATUS: back_end.status,
    }
    if request in numbers:
        return encode(request, u64(numbers[request]))
    if request == GET_VRING_BASE:
        index = struct.unpack_from("=I", message.payload)[0]
        return encode(request, struct.pack("=II", index, back_end.bases.get(index, 0)))
    if request == GET_CONFIG:
        return _config(back_end, message)
    if request == SET_STATUS:
        back_end.status = message.number
    if message.flags & NEED_REPLY:
        return encode(request, u64(0))
    return b""


def _config(back_end: ScriptedBackEnd, message: Message) -> bytes:
    _, length, _ = struct.unpack_from("=III", message.payload)
    if length > len(back_end.config):
        return encode(GET_CONFIG, b"")
    header = struct.pack("=III", 0, length, 0)
    return encode(GET_CONFIG, header + back_end.config[:length])


@contextlib.contextmanager
def no_descriptor_leak() -> Iterator[None]:
    """Every descriptor that is opened inside is closed again at the end; all but those of DMA
    memory, which lives as long as somebody holds on to it."""
    before = {each for each in _open_descriptors() if not _is_memory(each)}
    yield
    after = {each for each in _open_descriptors() if not _is_memory(each)}
    if after != before:
        gc.collect()  # Slow, so only where something may still hang in a cycle.
        after = {each for each in _open_descriptors() if not _is_memory(each)}
    # What was left in a cycle before, and has been collected inside, is no leak.
    assert after <= before


def open_memory() -> set[tuple[str, str]]:
    """The open descriptors of anonymous memory."""
    return {each for each in _open_descriptors() if _is_memory(each)}


def _is_memory(descriptor: tuple[str, str]) -> bool:
    return descriptor[1].startswith("/memfd:")


def _open_descriptors() -> set[tuple[str, str]]:
    """Number and target of every open descriptor of this process."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        # The directory's own descriptor has gone by now.
        with contextlib.suppress(OSError):
            found.add((entry.name, str(entry.readlink())))
    return found


def ring_at(address: int, size: int = 16) -> QueueAddresses:
    """A split ring of up to 128 descriptors in three pages from `address` on."""
    return QueueAddresses(size, address, address + 0x1000, address + 0x2000)
