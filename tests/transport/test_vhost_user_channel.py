"""The back-end channel: it reports changes, answers when asked to, and survives anything."""

import contextlib
import logging
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.transport.scripted_back_end import (
    NEED_REPLY,
    REPLY,
    encode,
    no_descriptor_leak,
    receive_exactly,
    u64,
)
from vioblk.transport.vhost_user.channel import BackendChannel

CONFIG_CHANGE = 2
VERSION = 1
WAIT_S = 20.0


@contextlib.contextmanager
def channel_to(callback: Callable[[], None]) -> Iterator[tuple[BackendChannel, socket.socket]]:
    """A channel and the back end's end of it."""
    channel = BackendChannel(callback)
    with channel.backend_end.dup() as back_end:
        channel.backend_end.close()
        back_end.settimeout(WAIT_S)
        try:
            yield channel, back_end
        finally:
            channel.close()
    assert not any(thread.name.startswith("vioblk-vhost") for thread in threading.enumerate())


def test_a_config_change_is_reported() -> None:
    changed = threading.Event()
    with channel_to(changed.set) as (_, back_end):
        back_end.sendall(encode(CONFIG_CHANGE, b"", VERSION))
        assert changed.wait(WAIT_S)


def test_a_thread_that_cannot_be_started_costs_no_descriptor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with no_descriptor_leak():
        try:
            BackendChannel(lambda: None)
        except RuntimeError as error:
            held = error  # With its frames, and so with what they refer to.
    assert held.__traceback__ is not None


def test_a_config_change_is_acknowledged_before_the_callback_runs() -> None:
    replied, seen = threading.Event(), []
    with channel_to(lambda: seen.append(replied.wait(WAIT_S))) as (channel, back_end):
        back_end.sendall(encode(CONFIG_CHANGE, b"", VERSION | NEED_REPLY))
        assert receive_exactly(back_end, 20)[0] == encode(CONFIG_CHANGE, u64(0), REPLY)
        replied.set()
        back_end.shutdown(socket.SHUT_WR)
        assert receive_exactly(back_end, 1)[0] == b"", "the channel ends with its back end"
        channel.close()
    assert seen == [True]


def test_an_unknown_message_is_refused_if_it_asks_and_ignored_if_not() -> None:
    changed = threading.Event()
    with channel_to(changed.set) as (_, back_end):
        back_end.sendall(encode(77, b"payload", VERSION))
        back_end.sendall(encode(3, bytes(24), VERSION | NEED_REPLY))
        reply, _ = receive_exactly(back_end, 20)
        assert struct.unpack("=III", reply[:12]) == (3, REPLY, 8)
        assert struct.unpack("=Q", reply[12:])[0] != 0
        assert not changed.is_set()
        back_end.sendall(encode(CONFIG_CHANGE, b"", VERSION))
        assert changed.wait(WAIT_S), "the channel goes on"


@pytest.mark.parametrize(
    "garbage",
    [
        encode(CONFIG_CHANGE, b"", 0),
        encode(CONFIG_CHANGE, b"", 2),
        encode(CONFIG_CHANGE, b"", REPLY),
        encode(CONFIG_CHANGE, b"", VERSION, size=4097),
        encode(CONFIG_CHANGE, b"", VERSION, size=0xFFFF_FFFF),
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ],
    ids=["version 0", "version 2", "a reply", "4097 bytes", "4 GiB", "another protocol"],
)
def test_garbage_ends_the_channel_with_a_warning(
    garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    changed = threading.Event()
    with channel_to(changed.set) as (_, back_end):
        back_end.sendall(garbage)
        # The rest of what was sent may be unread, which the system reports as a reset.
        with contextlib.suppress(ConnectionResetError):
            assert receive_exactly(back_end, 1)[0] == b""
    assert not changed.is_set()
    assert "carries garbage" in caplog.text


def test_descriptors_that_come_along_are_never_opened() -> None:
    changed = threading.Event()
    with no_descriptor_leak(), channel_to(changed.set) as (_, back_end):
        with Path("/dev/null").open("rb") as file:
            message = encode(CONFIG_CHANGE, b"", VERSION)
            socket.send_fds(back_end, [message], [file.fileno()] * 4)
        assert changed.wait(WAIT_S)


def test_a_callback_that_raises_does_not_end_the_channel(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls = threading.Semaphore(0)

    def fail() -> None:
        calls.release()
        raise ValueError("of the callback")

    with caplog.at_level(logging.ERROR), channel_to(fail) as (_, back_end):
        for _ in range(2):
            back_end.sendall(encode(CONFIG_CHANGE, b"", VERSION))
            assert calls.acquire(timeout=WAIT_S)
    assert "of the callback" in caplog.text


def test_the_callback_may_close_the_channel() -> None:
    closed = threading.Event()

    def close() -> None:
        opened[0].close()
        closed.set()

    opened: list[BackendChannel] = []
    with no_descriptor_leak(), channel_to(close) as (channel, back_end):
        opened.append(channel)
        back_end.sendall(encode(CONFIG_CHANGE, b"", VERSION))
        assert closed.wait(WAIT_S)


def test_closing_is_idempotent_and_leaves_nothing() -> None:
    with no_descriptor_leak():
        channel = BackendChannel(lambda: None)
        channel.close()
        channel.close()


def test_no_byte_stream_raises_in_the_thread_or_keeps_it_alive() -> None:
    @given(stream=st.binary(max_size=64))
    def send(stream: bytes) -> None:
        with channel_to(lambda: None) as (_, back_end):
            back_end.sendall(stream)
            back_end.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                while back_end.recv(4096):
                    pass

    with no_descriptor_leak():
        send()
