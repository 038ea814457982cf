"""The thread that watches an eventfd, and how it ends."""

import errno
import gc
import os
import select
import threading
from collections.abc import Iterator

import pytest

from tests.support.leaks import no_leaks
from vioblk.transport.watch import EventWatcher

WAIT_S = 30.0


@pytest.fixture
def fd() -> Iterator[int]:
    fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    yield fd
    os.close(fd)


def test_each_signal_is_a_call_until_it_is_closed(fd: int) -> None:
    called = threading.Semaphore(0)
    with no_leaks():
        watcher = EventWatcher(fd, lambda: called.release(), "watcher")
        for _ in range(3):
            os.eventfd_write(fd, 1)
            assert called.acquire(timeout=WAIT_S)
        watcher.close()
        watcher.close()
        os.eventfd_write(fd, 1)
        assert not called.acquire(timeout=0.02)


def test_one_that_is_forgotten_ends(fd: int) -> None:
    watcher = EventWatcher(fd, lambda: None, "watcher")
    thread = watcher._thread
    del watcher
    gc.collect()
    thread.join(WAIT_S)
    assert not thread.is_alive()


def test_one_that_cannot_start_leaves_nothing_behind(
    fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with no_leaks(), monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="start new thread"):
            EventWatcher(fd, lambda: None, "watcher")


def test_one_that_can_have_no_epoll_says_so(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(size: int) -> None:
        raise OSError(errno.EMFILE, "too many open files")

    with no_leaks(), monkeypatch.context() as patch:
        patch.setattr(select, "epoll", refuse)
        with pytest.raises(OSError, match="too many open files"):
            EventWatcher(fd, lambda: None, "watcher")


def test_a_child_does_not_end_the_watcher_of_its_parent(fd: int) -> None:
    called = threading.Event()
    watcher = EventWatcher(fd, called.set, "watcher")
    pid = os.fork()
    if pid == 0:
        watcher._stop()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.eventfd_write(fd, 1)
    assert called.wait(WAIT_S)
    watcher.close()
