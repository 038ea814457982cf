"""The qtest protocol, against a peer whose answers the tests write."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import Queue

import pytest

import vioblk
from tests.support.interruptions import interrupter
from tests.support.patience import AMPLE_S, answers_within
from tests.test_fork import in_child
from vioblk.transport.qemu.qtest import UNREAD_MAX, Qtest

SHORT_S = 0.05
"""For answers that do not come."""

Answer = Callable[[str], bytes]


class Peer:
    """QEMU's end: it notes each command, and answers it as `answer` says (nothing: not at all)."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.commands: Queue[str] = Queue()
        self.answer: Answer = lambda command: b"OK\n"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with self.connection.makefile("r") as lines:
            for line in lines:
                command = line.rstrip("\n")
                self.commands.put(command)
                if command.startswith("vioblk-"):
                    reply = f"FAIL Unknown command '{command}'\n".encode()
                else:
                    reply = self.answer(command)
                if reply:
                    with suppress(BrokenPipeError):  # nobody may wait for the last ones
                        self.connection.sendall(reply)

    def close(self) -> None:
        self.connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(AMPLE_S)
        self.connection.close()


@pytest.fixture
def ends() -> Iterator[tuple[Qtest, Peer]]:
    ours, theirs = socket.socketpair()
    qtest, peer = Qtest(ours, timeout_s=AMPLE_S, explain_end=lambda: "it is over"), Peer(theirs)
    yield qtest, peer
    peer.close()
    qtest.close()


def sent(peer: Peer) -> list[str]:
    return [peer.commands.get_nowait() for _ in range(peer.commands.qsize())]


def test_each_access_is_a_command_of_its_width(ends: tuple[Qtest, Peer]) -> None:
    qtest, peer = ends
    peer.answer = lambda command: b"OK 0x2a\n" if command[0] in "ri" else b"OK\n"
    for width in (1, 2, 4):
        assert qtest.read_port(0xC000, width) == 0x2A
        qtest.write_port(0xC000, width, 7)
        assert qtest.read_memory(0xE0000000, width) == 0x2A
        qtest.write_memory(0xE0000000, width, 255)
    assert sent(peer) == [
        *("inb 0xc000", "outb 0xc000 0x7", "readb 0xe0000000", "writeb 0xe0000000 0xff"),
        *("inw 0xc000", "outw 0xc000 0x7", "readw 0xe0000000", "writew 0xe0000000 0xff"),
        *("inl 0xc000", "outl 0xc000 0x7", "readl 0xe0000000", "writel 0xe0000000 0xff"),
    ]


def test_interrupts_between_answers_are_delivered_in_their_order(ends: tuple[Qtest, Peer]) -> None:
    qtest, peer = ends
    heard: list[tuple[int, bool]] = []
    qtest.listen_to_interrupts(lambda line, level: heard.append((line, level)))
    assert sent(peer) == ["irq_intercept_in ioapic"]
    peer.answer = lambda command: (
        b"IRQ raise 10\nIRQ lower 10\nIRQ raise 21\nOK 0x5\nIRQ lower 21\n"
    )
    assert qtest.read_port(1, 1) == 5
    qtest.poll()
    assert heard == [(10, True), (10, False), (21, True), (21, False)]


def test_an_idle_connection_is_polled(ends: tuple[Qtest, Peer]) -> None:
    qtest, peer = ends
    heard: list[int] = []
    qtest.listen_to_interrupts(lambda line, level: heard.append(line))
    qtest.poll()
    assert heard == []
    peer.connection.sendall(b"IRQ raise 3\nIRQ rai")
    qtest.poll()
    peer.connection.sendall(b"se 4\n")
    qtest.poll()
    assert heard == [3, 4]


def test_posts_are_not_waited_for_and_their_answers_are_not_taken_for_others(
    ends: tuple[Qtest, Peer],
) -> None:
    qtest, peer = ends
    peer.answer = lambda command: b"OK 0x9\n" if command == "inb 0x1" else b"OK\n"
    for number in range(3):
        qtest.post(f"outw 0xc010 {number:#x}")
    assert qtest.read_port(1, 1) == 9
    assert sent(peer) == ["outw 0xc010 0x0", "outw 0xc010 0x1", "outw 0xc010 0x2", "inb 0x1"]


def test_no_more_posts_than_a_socket_holds_stay_unanswered(ends: tuple[Qtest, Peer]) -> None:
    qtest, peer = ends
    held = threading.Event()

    def answer(command: str) -> bytes:
        return b"OK\n" if held.is_set() else b""

    peer.answer = answer
    for _ in range(UNREAD_MAX):
        qtest.post("outw 0xc010 0x0")
    with (
        answers_within(SHORT_S, qtest),
        pytest.raises(vioblk.TransportError, match=r"not answered for 0\.05 s"),
    ):
        qtest.post("outw 0xc010 0x0")
    held.set()
    peer.connection.sendall(b"OK\n" * UNREAD_MAX)
    for _ in range(10 * UNREAD_MAX):
        qtest.post("outw 0xc010 0x0")


def test_a_late_answer_is_not_taken_for_that_of_the_next_command(ends: tuple[Qtest, Peer]) -> None:
    qtest, peer = ends
    peer.answer = lambda command: b""
    for _ in range(2):
        with (
            answers_within(SHORT_S, qtest),
            pytest.raises(vioblk.TransportError, match="not answered"),
        ):
            qtest.read_port(1, 1)
    peer.answer = lambda command: b"OK 0x3\n"
    peer.connection.sendall(b"OK 0x1\nOK 0x2\n")
    assert qtest.read_port(3, 1) == 3
    assert qtest.read_port(3, 1) == 3


def test_an_interrupted_call_leaves_the_answers_in_step(
    ends: tuple[Qtest, Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C may come between any two instructions, one of them after the answer was taken."""
    qtest, peer = ends
    for name in ("_send", "_next_answer", "_receive"):
        original = getattr(qtest, name)

        def interrupted(*arguments: object, _original: Callable[..., object] = original) -> None:
            _original(*arguments)
            raise KeyboardInterrupt

        peer.answer = lambda command: b"OK 0x1\n"
        with monkeypatch.context() as patch:
            patch.setattr(qtest, name, interrupted)
            with pytest.raises(KeyboardInterrupt):
                qtest.read_port(1, 1)
        peer.answer = lambda command: b"OK 0x2\n"
        assert qtest.read_port(2, 1) == 2
        assert qtest.read_port(2, 1) == 2


@pytest.mark.parametrize("answer", [b"FAIL no\n", b"\n", b"OK\n", b"OK what\n", b"\xff\xfe\n"])
def test_an_answer_that_makes_no_sense_is_an_error(ends: tuple[Qtest, Peer], answer: bytes) -> None:
    qtest, peer = ends
    peer.answer = lambda command: answer
    with pytest.raises(vioblk.ProtocolError, match="inb 0x1"):
        qtest.read_port(1, 1)
    peer.answer = lambda command: b"OK 0x1\n"
    assert qtest.read_port(1, 1) == 1


def test_the_end_is_told_with_its_reason(ends: tuple[Qtest, Peer]) -> None:
    qtest, peer = ends
    peer.connection.shutdown(socket.SHUT_RDWR)
    calls: list[Callable[[], object]] = [
        lambda: qtest.read_port(1, 1),
        lambda: qtest.write_memory(1, 1, 1),
        lambda: qtest.post("outb 0x1 0x1"),
        qtest.poll,
    ]
    for call in calls:
        with pytest.raises(vioblk.DeviceGoneError, match="it is over"):
            call()
    qtest.close()
    qtest.close()
    for call in calls:
        with pytest.raises(vioblk.DeviceGoneError, match="it is over"):
            call()


def test_threads_get_their_own_answers(ends: tuple[Qtest, Peer]) -> None:
    qtest, peer = ends
    peer.answer = lambda command: f"OK {command.split()[1]}\n".encode()
    wrong: list[object] = []

    def work(port: int) -> None:
        try:
            for _ in range(200):
                if qtest.read_port(port, 1) != port:
                    wrong.append(port)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(port,)) for port in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert wrong == []


def test_a_forked_child_may_not_use_it(ends: tuple[Qtest, Peer]) -> None:
    qtest, peer = ends

    def use() -> None:
        with pytest.raises(vioblk.ForkedError):
            qtest.read_port(1, 1)

    in_child(use)
    assert sent(peer) == []


def test_an_exception_of_a_signal_handler_costs_its_call_and_nothing_else(
    ends: tuple[Qtest, Peer],
) -> None:
    """At whatever moment it comes, those that follow are not kept out, and get their answers."""
    qtest, peer = ends
    peer.answer = lambda command: f"OK {command.split()[1]}\n".encode()
    with interrupter() as interruptions:
        for port in range(1, 1001):
            interruptions.interrupt(lambda: qtest.read_port(0, 1))
            assert qtest.read_port(port, 1) == port
