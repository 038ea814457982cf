"""The monitor protocol, against a peer whose answers the tests write."""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

import vioblk
from tests.support.interruptions import interrupter
from tests.support.patience import AMPLE_S, answers_within
from vioblk.transport.qemu.qmp import EVENTS_KEPT, Event, Qmp, QmpError

GREETING = {"QMP": {"version": {"qemu": {"major": 9, "minor": 8, "micro": 7}}}}


class Peer:
    """QEMU's end of a monitor."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._lines = connection.makefile("r")

    def say(self, *messages: object) -> None:
        text = "".join(json.dumps(message) + "\r\n" for message in messages)
        self.connection.sendall(text.encode())

    def hear(self) -> dict[str, Any]:
        heard = json.loads(self._lines.readline())
        assert isinstance(heard, dict)
        return heard

    def close(self) -> None:
        self._lines.close()
        self.connection.close()


class Monitor:
    """Both ends."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.events: list[Event] = []
        self.qmp = Qmp(
            ours, timeout_s=AMPLE_S, explain_end=lambda: "it is over", on_event=self.events.append
        )
        self.peer = Peer(theirs)

    def answer(self, result: object = None, *before: object, error: object = None) -> None:
        """Answer one command from a thread, after saying what comes `before`."""

        def serve() -> None:
            number = self.peer.hear()["id"]
            body = {"error": error} if error else {"return": result}
            self.peer.say(*before, {**body, "id": number})

        threading.Thread(target=serve).start()


@pytest.fixture
def monitor() -> Iterator[Monitor]:
    both = Monitor()
    yield both
    both.peer.close()
    both.qmp.close()


def test_it_starts_with_the_version(monitor: Monitor) -> None:
    monitor.peer.say(GREETING)
    monitor.answer({})
    assert monitor.qmp.start(AMPLE_S) == (9, 8, 7)


def test_a_command_returns_its_answer_whatever_comes_between(monitor: Monitor) -> None:
    event = {"event": "STOP", "data": {}}
    monitor.answer({"size": 1}, event, {"return": "somebody else's", "id": 99}, event)
    assert monitor.qmp.run("query-this", node_name="disk") == {"size": 1}
    assert [each["event"] for each in monitor.events] == ["STOP", "STOP"]


def test_underscores_become_dashes(monitor: Monitor) -> None:
    heard: list[dict[str, Any]] = []
    original = monitor.peer.hear

    def hear() -> dict[str, Any]:
        heard.append(original())
        return heard[-1]

    monitor.peer.hear = hear  # type: ignore[method-assign]
    monitor.answer({})
    monitor.qmp.run("block_resize", node_name="disk", size=3)
    assert heard[0]["execute"] == "block_resize"
    assert heard[0]["arguments"] == {"node-name": "disk", "size": 3}


def test_a_refusal_says_what_and_why(monitor: Monitor) -> None:
    monitor.answer(error={"class": "DeviceNotFound", "desc": "no such thing"})
    with pytest.raises(QmpError, match="refused device_del: no such thing") as refused:
        monitor.qmp.run("device_del", id="x")
    assert refused.value.kind == "DeviceNotFound"


def test_silence_has_a_bound_and_a_late_answer_does_no_harm(monitor: Monitor) -> None:
    with (
        answers_within(0.05, monitor.qmp),
        pytest.raises(vioblk.TransportError, match=r"0\.05 s \(waiting for slow\)"),
    ):
        monitor.qmp.run("slow")
    monitor.peer.say({"return": "late", "id": monitor.peer.hear()["id"]})
    monitor.answer("in time")
    assert monitor.qmp.run("fast") == "in time"


def test_a_command_that_is_not_taken_in_has_a_bound_and_ends_the_monitor(monitor: Monitor) -> None:
    """What was sent of it cannot be taken back."""
    started = time.monotonic()
    with (
        answers_within(0.05, monitor.qmp),
        pytest.raises(vioblk.TransportError, match=r"not answered for 0\.05 s") as caught,
    ):
        monitor.qmp.hmp("x" * (1 << 22))
    assert not isinstance(caught.value, vioblk.DeviceGoneError)
    with pytest.raises(vioblk.DeviceGoneError):
        monitor.qmp.run("another")
    assert time.monotonic() - started < AMPLE_S


def test_what_is_no_text_is_refused_and_the_monitor_lives(monitor: Monitor) -> None:
    with pytest.raises(vioblk.UnsupportedError, match=r"takes text only, and '\\udcff'"):
        monitor.qmp.run("device_add", serial=os.fsdecode(b"\xff"))
    monitor.answer("\N{SNOWMAN}")
    assert monitor.qmp.run("echo", text="\N{SNOWMAN}") == "\N{SNOWMAN}"


def test_an_exception_of_a_signal_handler_costs_its_command_and_no_event(monitor: Monitor) -> None:
    def serve() -> None:
        while line := monitor.peer._lines.readline():
            number = json.loads(line)["id"]
            with suppress(BrokenPipeError):
                monitor.peer.say({"event": "SEEN", "data": {}}, {"return": number, "id": number})

    server = threading.Thread(target=serve)
    server.start()
    with interrupter() as interruptions:
        for count in range(500):
            interruptions.interrupt(lambda: monitor.qmp.run("query-this"))
            assert monitor.qmp.run("query-that") > count
    monitor.qmp.close()
    server.join(AMPLE_S)
    assert not server.is_alive()


def test_events_are_waited_for_once_each_and_by_name(monitor: Monitor) -> None:
    monitor.peer.say({"event": "A", "data": {"n": 1}}, {"event": "B"}, {"event": "A", "data": {}})
    first = monitor.qmp.wait_event("A", AMPLE_S)
    assert first is not None
    assert first["data"] == {"n": 1}
    assert monitor.qmp.wait_event("A", AMPLE_S, lambda event: "data" in event) is not None
    assert monitor.qmp.wait_event("A", 0.01) is None
    assert monitor.qmp.wait_event("B", AMPLE_S) is not None


def test_events_that_nobody_waits_for_take_no_end_of_memory(monitor: Monitor) -> None:
    monitor.peer.say(*({"event": "A"} for _ in range(EVENTS_KEPT)), {"event": "B"}, {"event": "C"})
    assert monitor.qmp.wait_event("C", AMPLE_S) is not None
    kept = sum(monitor.qmp.wait_event("A", 0) is not None for _ in range(EVENTS_KEPT + 1))
    assert kept <= EVENTS_KEPT


@pytest.mark.parametrize(
    "garbage", [b"", b"no json\n", b"[1]\n", b"1\n", b'{"neither": 1}\n', b"\xff\n"]
)
def test_the_end_and_garbage_end_all_waiting(monitor: Monitor, garbage: bytes) -> None:
    ended: list[BaseException] = []

    def wait() -> None:
        try:
            monitor.qmp.start(60)
        except BaseException as error:
            ended.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    if garbage:
        monitor.peer.connection.sendall(garbage)
    else:
        monitor.peer.connection.shutdown(socket.SHUT_RDWR)
    waiting.join(AMPLE_S)
    (error,) = ended
    assert isinstance(error, vioblk.DeviceGoneError)
    assert "it is over" in str(error)
    with pytest.raises(vioblk.DeviceGoneError, match="it is over"):
        monitor.qmp.run("anything")
    monitor.qmp.close()
