"""The connection keeps its promises whatever the peer does: in time, checked, nothing leaked."""

import contextlib
import dis
import itertools
import os
import select
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.transport.scripted_back_end import encode, no_descriptor_leak, receive_exactly, u64
from vioblk.errors import (
    AddressError,
    DeviceGoneError,
    ForkedError,
    ProtocolError,
    TransportError,
)
from vioblk.transport.vhost_user.connection import Connection, connect
from vioblk.transport.vhost_user.messages import Request

SHORT_S = 0.2
"""A time limit that a test waits for."""

LONG_S = 30.0
"""A time limit that must not be what ends an exchange."""

Pair = tuple[Connection, socket.socket]


@contextlib.contextmanager
def connected(timeout_s: float = LONG_S) -> Iterator[Pair]:
    """A connection and the peer's end of it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    theirs.settimeout(LONG_S)
    connection = Connection(ours, "the peer", timeout_s)
    try:
        yield connection, theirs
    finally:
        connection.close()
        theirs.close()


@contextlib.contextmanager
def peer_does(what: Callable[[], object]) -> Iterator[None]:
    """Run the peer's part on a thread; it must have ended when the block has."""
    thread = threading.Thread(target=what)
    thread.start()
    yield
    thread.join(LONG_S)
    assert not thread.is_alive()


def test_a_reply_that_comes_byte_by_byte_is_put_together() -> None:
    with connected() as (connection, peer):

        def trickle() -> None:
            receive_exactly(peer, 12)
            for byte in encode(Request.GET_QUEUE_NUM, u64(7)):
                peer.send(bytes([byte]))

        with peer_does(trickle):
            assert connection.ask_u64(Request.GET_QUEUE_NUM) == 7


def test_a_message_larger_than_the_socket_buffer_arrives_whole_with_its_descriptor() -> None:
    payload = os.urandom(1 << 20)
    received: list[tuple[bytes, int]] = []
    with connected() as (connection, peer), Path("/dev/null").open("rb") as file:

        def read_all() -> None:
            data, fds = receive_exactly(peer, 12 + len(payload))
            received.append((data, len(fds)))
            for fd in fds:
                os.close(fd)

        with peer_does(read_all):
            connection.post(Request.SET_CONFIG, payload, [file.fileno()])
    data, fd_count = received[0]
    assert data[12:] == payload
    assert struct.unpack("=III", data[:12]) == (25, 1, len(payload))
    assert fd_count == 1


BAD_REPLIES = {
    "another request": (encode(99, u64(0)), "message 99"),
    "a known other request": (encode(Request.GET_CONFIG, u64(0)), "GET_CONFIG"),
    "version 0": (encode(Request.GET_FEATURES, u64(0), flags=4), "flags 0x4"),
    "version 2": (encode(Request.GET_FEATURES, u64(0), flags=6), "flags 0x6"),
    "no reply flag": (encode(Request.GET_FEATURES, u64(0), flags=1), "flags 0x1"),
    "a short payload": (encode(Request.GET_FEATURES, b"1234"), "4 bytes"),
    "an empty payload": (encode(Request.GET_FEATURES, b""), "0 bytes"),
    "a long payload": (encode(Request.GET_FEATURES, bytes(9)), "9 bytes"),
    "a payload of 4 GiB": (
        encode(Request.GET_FEATURES, b"", size=0xFFFF_FFFF),
        "4294967295 bytes",
    ),
    "another protocol": (b"HTTP/1.1 400 Bad Request\r\n\r\n", "is it a vhost-user back end?"),
}


@pytest.mark.parametrize(("reply", "reason"), BAD_REPLIES.values(), ids=BAD_REPLIES.keys())
def test_a_reply_that_breaks_the_protocol_is_refused_with_the_reason(
    reply: bytes, reason: str
) -> None:
    with connected() as (connection, peer):
        peer.sendall(reply)
        with pytest.raises(ProtocolError, match=reason):
            connection.ask_u64(Request.GET_FEATURES)
        assert_given_up(connection, peer)


@pytest.mark.parametrize("sent_bytes", [0, 1, 11, 12, 19])
def test_a_peer_that_hangs_up_anywhere_in_a_reply_is_gone(sent_bytes: int) -> None:
    with connected() as (connection, peer):
        peer.sendall(encode(Request.GET_FEATURES, u64(0))[:sent_bytes])
        peer.shutdown(socket.SHUT_WR)
        with pytest.raises(DeviceGoneError, match=r"hung up instead of answering GET_FEATURES"):
            connection.ask_u64(Request.GET_FEATURES)
        assert_given_up(connection, peer)


@pytest.mark.parametrize("sent_bytes", [0, 5, 12, 19])
def test_a_peer_that_stalls_costs_no_more_than_the_time_limit(sent_bytes: int) -> None:
    with connected(SHORT_S) as (connection, peer):
        peer.sendall(encode(Request.GET_FEATURES, u64(0))[:sent_bytes])
        started = time.monotonic()
        with pytest.raises(TransportError, match=r"did not answer GET_FEATURES within 0\.2 s"):
            connection.ask_u64(Request.GET_FEATURES)
        assert SHORT_S <= time.monotonic() - started < LONG_S
        assert_given_up(connection, peer)


def test_the_time_limit_is_for_the_exchange_and_not_for_each_byte() -> None:
    ended = threading.Event()
    with connected(SHORT_S) as (connection, peer):

        def trickle_for_ever() -> None:
            for byte in encode(Request.GET_FEATURES, u64(0)):
                peer.send(bytes([byte]))
                if ended.wait(SHORT_S / 2):
                    return

        with peer_does(trickle_for_ever):
            with pytest.raises(TransportError, match="did not answer"):
                connection.ask_u64(Request.GET_FEATURES)
            ended.set()


def test_a_peer_that_does_not_read_costs_no_more_than_the_time_limit() -> None:
    with connected(SHORT_S) as (connection, peer):
        with pytest.raises(TransportError, match="did not answer SET_CONFIG"):
            connection.post(Request.SET_CONFIG, bytes(16 << 20))
        assert connection.given_up is not None
        assert peer.fileno() >= 0


def test_descriptors_that_nobody_asked_for_are_refused_and_never_opened() -> None:
    with no_descriptor_leak(), connected() as (connection, peer):
        with Path("/dev/null").open("rb") as file:
            socket.send_fds(peer, [encode(Request.GET_FEATURES, u64(0))], [file.fileno()] * 8)
        with pytest.raises(ProtocolError, match="file descriptors"):
            connection.ask_u64(Request.GET_FEATURES)


def test_a_refused_request_leaves_the_connection_usable() -> None:
    with connected() as (connection, peer):
        connection.reply_ack = True
        peer.sendall(encode(Request.SET_OWNER, u64(1)) + encode(Request.GET_QUEUE_NUM, u64(3)))
        with pytest.raises(TransportError, match="refused SET_OWNER"):
            connection.tell(Request.SET_OWNER)
        assert connection.ask_u64(Request.GET_QUEUE_NUM) == 3
        _, flags, _ = struct.unpack("=III", receive_exactly(peer, 12)[0])
        assert flags == 1 | 8, "a request to be acknowledged says so"


def test_without_acknowledgements_an_answer_shows_that_a_request_was_carried_out() -> None:
    with connected() as (connection, peer):
        peer.sendall(encode(Request.GET_FEATURES, u64(0)))
        connection.tell(Request.SET_OWNER)
        requests = [struct.unpack("=III", receive_exactly(peer, 12)[0]) for _ in range(2)]
        assert requests == [(Request.SET_OWNER, 1, 0), (Request.GET_FEATURES, 1, 0)]


def test_hanging_up_is_seen_without_asking() -> None:
    with connected() as (connection, peer):
        connection.check_alive()
        peer.close()
        with pytest.raises(DeviceGoneError, match="hung up while it was idle"):
            connection.check_alive()


def test_giving_up_wakes_whoever_watches_the_socket() -> None:
    with connected() as (connection, _peer):
        poller = select.epoll()
        with poller:
            poller.register(connection.fileno(), select.EPOLLRDHUP)
            assert poller.poll(0) == []
            connection.give_up("enough")
            assert poller.poll(0) != []
        with pytest.raises(DeviceGoneError, match="enough"):
            connection.ask_u64(Request.GET_FEATURES)


def test_closing_ends_an_exchange_in_another_thread() -> None:
    with connected() as (connection, peer):
        failures: list[BaseException] = []

        def ask() -> None:
            try:
                connection.ask_u64(Request.GET_FEATURES)
            except TransportError as error:
                failures.append(error)

        with peer_does(ask):
            receive_exactly(peer, 12)  # The other thread is inside the exchange now.
            connection.close()
        assert [type(failure) for failure in failures] == [DeviceGoneError]
        assert "it was closed" in str(failures[0])


@contextlib.contextmanager
def interrupted_soon(peer: socket.socket | None = None) -> Iterator[None]:
    """Ctrl-C while the block waits, once something has been sent to `peer` if there is one; the
    block must not end before."""
    armed = True

    def interrupt(*_: object) -> None:
        nonlocal armed
        if armed and (peer is None or select.select([peer], [], [], 0)[0]):
            armed = False
            raise KeyboardInterrupt

    former = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt), ticking():
            yield
    finally:
        signal.signal(signal.SIGALRM, former)


@contextlib.contextmanager
def ticking() -> Iterator[None]:
    """SIGALRM again and again."""
    signal.setitimer(signal.ITIMER_REAL, SHORT_S / 4, SHORT_S / 4)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@pytest.mark.parametrize("early_bytes", [0, 5, 12, 19])
def test_the_reply_of_an_interrupted_exchange_is_not_taken_for_another(early_bytes: int) -> None:
    late = encode(Request.GET_FEATURES, u64(1))
    with connected() as (connection, peer):
        peer.sendall(late[:early_bytes])
        with interrupted_soon(peer):
            connection.ask_u64(Request.GET_FEATURES)
        peer.sendall(late[early_bytes:] + encode(Request.GET_FEATURES, u64(2)))
        assert connection.ask_u64(Request.GET_FEATURES) == 2
        assert connection.given_up is None


def test_an_acknowledgement_that_is_owed_is_taken_before_the_next_message() -> None:
    with connected() as (connection, peer):
        connection.reply_ack = True
        with interrupted_soon(peer):
            connection.tell(Request.SET_CONFIG, bytes(13))
        peer.sendall(encode(Request.SET_CONFIG, u64(1)) + encode(Request.SET_CONFIG, u64(0)))
        connection.tell(Request.SET_CONFIG, bytes(13))
        sent, _ = receive_exactly(peer, 50)
        assert sent[:25] == sent[25:]


def test_an_interrupted_message_is_sent_to_its_end_before_the_next() -> None:
    payload = os.urandom(4 << 20)
    with connected() as (connection, peer), Path("/dev/null").open("rb") as file:
        with interrupted_soon(peer):
            connection.post(Request.SET_CONFIG, payload, [file.fileno()])
        received: list[tuple[bytes, int]] = []

        def read_all() -> None:
            data, fds = receive_exactly(peer, 12 + len(payload) + 12)
            received.append((data, len(fds)))
            for fd in fds:
                os.close(fd)

        with peer_does(read_all):
            connection.post(Request.SET_OWNER)
    data, fd_count = received[0]
    assert data[12:-12] == payload
    assert struct.unpack("=III", data[-12:]) == (Request.SET_OWNER, 1, 0)
    assert fd_count == 1


def test_a_message_of_which_nothing_was_sent_is_forgotten() -> None:
    ours, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours.setblocking(False)
    filler = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            filler += ours.send(bytes(4096))
    connection = Connection(ours, "the peer", LONG_S)
    with contextlib.closing(connection), peer:
        with interrupted_soon():
            connection.ask_u64(Request.GET_QUEUE_NUM)
        receive_exactly(peer, filler)
        peer.sendall(encode(Request.GET_FEATURES, u64(3)))
        assert connection.ask_u64(Request.GET_FEATURES) == 3
        assert struct.unpack("=III", receive_exactly(peer, 12)[0])[0] == Request.GET_FEATURES


def test_a_reply_that_is_owed_and_never_comes_costs_no_more_than_the_time_limit() -> None:
    with connected() as (connection, peer):
        with interrupted_soon(peer):
            connection.ask_u64(Request.GET_FEATURES)
        connection._timeout_s = SHORT_S
        with pytest.raises(TransportError, match="did not answer GET_QUEUE_NUM"):
            connection.ask_u64(Request.GET_QUEUE_NUM)
        assert_given_up(connection, peer)


def test_garbage_for_a_reply_that_is_owed_is_found_out() -> None:
    with connected() as (connection, peer):
        with interrupted_soon(peer):
            connection.ask_u64(Request.GET_FEATURES)
        peer.sendall(encode(Request.GET_QUEUE_NUM, u64(2)))
        with pytest.raises(ProtocolError, match="answered GET_FEATURES with a reply to GET_QUEUE"):
            connection.ask_u64(Request.GET_QUEUE_NUM)
        assert_given_up(connection, peer)


def test_an_interruption_anywhere_leaves_the_connection_usable() -> None:
    def serve(peer: socket.socket) -> None:
        for number in itertools.count():
            if len(receive_exactly(peer, 12)[0]) < 12:
                return
            peer.sendall(encode(Request.GET_FEATURES, u64(number)))

    with connected() as (connection, peer):
        thread = threading.Thread(target=serve, args=(peer,))
        thread.start()
        place, interrupted = 0, True
        while interrupted:
            place += 1
            interrupted = interrupt_at(place, lambda: connection.ask_u64(Request.GET_FEATURES))
            first = connection.ask_u64(Request.GET_FEATURES)
            assert connection.ask_u64(Request.GET_FEATURES) == first + 1, "each its own reply"
            assert free_for_others(connection)
        connection.close()
        thread.join(LONG_S)
    assert place > 30


SIGNALS_AFTER = ("CALL", "JUMP_BACKWARD", "RESUME")
"""Instructions after which the interpreter runs the handlers of signals."""


def interrupt_at(count: int, call: Callable[[], object]) -> bool:
    """Raise KeyboardInterrupt where a signal handler could raise it for the time `count` while
    `call` runs in the modules of the connection; whether it came to that."""
    remaining = count
    last: dict[FrameType, str] = {}

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        nonlocal remaining
        if not frame.f_code.co_filename.endswith(("connection.py", "exchange.py")):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            remaining -= last.get(frame, "").startswith(SIGNALS_AFTER)
            last[frame] = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            if remaining == 0:
                remaining = -1
                raise KeyboardInterrupt
        return trace

    former = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(former)
    return False


def free_for_others(connection: Connection) -> bool:
    """Whether another thread can use the connection."""
    alive: list[bool] = []

    def look() -> None:
        connection.check_alive()
        alive.append(True)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(LONG_S)
    return alive == [True]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_can_neither_use_nor_cut_the_connection() -> None:
    with connected() as (connection, peer):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                connection.ask_u64(Request.GET_FEATURES)
            except ForkedError:
                connection.close()
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        peer.sendall(encode(Request.GET_FEATURES, u64(5)))
        assert connection.ask_u64(Request.GET_FEATURES) == 5


def test_no_byte_stream_crashes_or_hangs_the_front_end_or_leaks() -> None:
    @given(stream=st.binary(max_size=64), request=st.sampled_from(Request))
    def ask_a_peer_that_sends(stream: bytes, request: Request) -> None:
        with connected() as (connection, peer):
            peer.sendall(stream)
            peer.shutdown(socket.SHUT_WR)
            with contextlib.suppress(TransportError):
                assert len(connection.ask(request, reply_lengths=(0, 8))) in (0, 8)

    with no_descriptor_leak():
        ask_a_peer_that_sends()


def test_each_way_not_to_be_connected_says_what_to_do(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    stale = tmp_path / "stale"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(stale))
    for path, reason in {
        tmp_path / "missing": "no socket at .* is the back end running",
        plain: "is not a socket",
        stale: "nobody listens .* start the back end again",
    }.items():
        with no_descriptor_leak(), pytest.raises(TransportError, match=reason):
            connect(str(path), LONG_S)


def test_a_back_end_with_a_full_queue_of_clients_is_said_to_be_busy(tmp_path: Path) -> None:
    path = str(tmp_path / "busy")
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(path)
        listener.listen(0)
        stack.enter_context(connect(path, LONG_S))
        with pytest.raises(TransportError, match="takes no further connection"):
            connect(path, SHORT_S)


def test_a_missing_permission_is_said_to_be_one() -> None:
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as listener:
        path = Path(directory) / "locked"
        listener.bind(str(path))
        listener.listen(1)
        Path(directory).chmod(0o711)
        path.chmod(0)
        with unprivileged(), pytest.raises(TransportError, match="no permission to connect"):
            connect(str(path), LONG_S)


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Root may connect to anything, so be somebody else for a moment."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("path", ["", "nul\0byte", "x" * 108])
def test_a_path_that_no_socket_can_have_is_refused(path: str) -> None:
    with pytest.raises(AddressError, match="cannot be the path of a socket"):
        connect(path, SHORT_S)


def assert_given_up(connection: Connection, peer: socket.socket) -> None:
    """The peer sees the end of the stream, and every further call says what happened."""
    assert connection.given_up is not None
    while peer.recv(4096):
        pass
    with pytest.raises(DeviceGoneError, match="open it again"):
        connection.ask_u64(Request.GET_FEATURES)
