"""The QEMU process: how it is started, watched and ended, and that it never outlives this one.

What ends QEMU when this process dies, by whatever means, is its parent death signal
(PR_SET_PDEATHSIG). Two things about it are easily missed:

- It belongs to the *thread* that started the child. So a thread of its own starts QEMU, and stays
  until QEMU has ended.
- It is set by the child itself, and this process may be dead by then. So the child, once it is set,
  looks whether its parent is still who started it.

Python could run both between fork and exec (`preexec_fn`), but that is unsafe in a process with
threads: a lock that another thread held at the fork is never let go of in the child. So two small
programs do it on the way to QEMU: `setpriv` of util-linux sets the signal, which an exec keeps, and
a line of shell compares the parent.
"""

import os
import shutil
import signal
import subprocess
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event, RLock, Thread, current_thread
from typing import Final

from vioblk.errors import ForkedError, TransportError

BINARY: Final = "qemu-system-x86_64"

PACKAGE: Final = "qemu-system-x86 and qemu-system-common"

START_TIMEOUT_S: Final = 30.0
"""Until QEMU has been executed, and until it answers for the first time."""

END_TIMEOUT_S: Final = 5.0
"""For a good end; then it is killed."""

EXPLAIN_TIMEOUT_S: Final = 1.0
"""Its sockets end a little before the process does."""

ERROR_BYTES_MAX: Final = 4000
"""Of what QEMU has printed, the end goes into error messages."""

_GUARD: Final = 'if [ "$PPID" = "$1" ]; then shift; exec "$@"; fi'


class QemuProcess:
    """A running QEMU. It ends with this object, with this process, or by itself.

    `command`: the program and its arguments. `descriptors`: those that it inherits; no other one
    is open in it but for its output, which is kept for error messages.
    Raises TransportError if it cannot be started.
    """

    def __init__(self, command: Sequence[str | bytes], descriptors: Sequence[int] = ()) -> None:
        self._life = _Life()
        self._kill_if_forgotten = weakref.finalize(self, _Life.kill, self._life)
        wrapped = [*guard(), *command]
        self._keeper = Thread(
            target=self._life.keep,
            args=(wrapped, tuple(descriptors)),
            name="vioblk-qemu-process",
            daemon=True,
        )
        try:
            self._keeper.start()
            if not self._life.begun.wait(START_TIMEOUT_S):
                raise TransportError(f"{_name(command)} was not started in {START_TIMEOUT_S:g} s")
            if self._life.failure is not None:
                raise TransportError(
                    f"{_name(command)} could not be started: {self._life.failure}"
                ) from self._life.failure
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._life.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended; one that was paused is running too."""
        return not self._life.ended.is_set()

    def on_end(self, call: Callable[[], None]) -> None:
        """`call` when it has ended, on a thread of its own; at once if it has ended already.

        What `call` refers to lives until then.
        """
        self._life.on_end(call)

    def pause(self) -> None:
        """Let it stand still (SIGSTOP): it answers nothing until `resume`, but can be ended."""
        self._life.send(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        self._life.send(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once (SIGKILL), and wait until it has. Idempotent.

        In a forked child nothing happens: the process is the parent's.
        """
        if self._life.owned:
            self._kill_if_forgotten()
            if self._keeper.ident is not None and self._keeper is not current_thread():
                self._keeper.join(END_TIMEOUT_S)

    def wait(self, timeout_s: float) -> bool:
        """Wait until it has ended; whether it has."""
        return self._life.ended.wait(timeout_s)

    def output(self) -> str:
        """The end of what it has printed."""
        return self._life.output()

    def explain_end(self) -> str:
        """How it ended and what it printed, for error messages."""
        self._life.ended.wait(EXPLAIN_TIMEOUT_S)
        code = self._life.exit_code
        if code is None:
            how = "has hung up and is still running"
        elif code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
        else:
            how = f"has ended with exit code {code}"
        output = self.output()
        return f"QEMU {how}" + (f" and said: {output}" if output else "")


class _Life:
    """What the thread that keeps the process shares with QemuProcess, which it must not keep."""

    def __init__(self) -> None:
        self.begun = Event()
        self.ended = Event()
        self.failure: BaseException | None = None
        self.exit_code: int | None = None
        self.pid = 0
        self._owner_pid = os.getpid()
        # One thread may take it twice: the collector kills what is forgotten on any, at any moment.
        self._lock = RLock()
        self._process_fd: int | None = None
        """A pidfd: a signal by it cannot hit another process that was given the same number."""
        self._unwanted = False
        self._calls: list[Callable[[], None]] = []
        self._final_output = ""
        self._output_fd: int | None = os.memfd_create("vioblk-qemu-output", os.MFD_CLOEXEC)

    @property
    def owned(self) -> bool:
        return os.getpid() == self._owner_pid

    def keep(self, command: Sequence[str | bytes], descriptors: tuple[int, ...]) -> None:
        """Start the process, wait for its end, tell of it: the whole of its thread."""
        try:
            process = self._start(command, descriptors)
        except BaseException as error:
            self.failure = error
            self._finish(None)
            return
        self._finish(process.wait())

    def _start(
        self, command: Sequence[str | bytes], descriptors: tuple[int, ...]
    ) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._output_fd,
            stderr=self._output_fd,
            pass_fds=descriptors,
            # Or Ctrl-C at a terminal would end QEMU too, in the middle of whatever it does.
            start_new_session=True,
        )
        try:
            with self._lock:
                self.pid = process.pid
                self._process_fd = os.pidfd_open(process.pid)
                unwanted = self._unwanted
        except BaseException:
            process.kill()
            process.wait()
            raise
        if unwanted:
            self.send(signal.SIGKILL)
        self.begun.set()
        return process

    def _finish(self, exit_code: int | None) -> None:
        with self._lock:
            self.exit_code = exit_code
            self._final_output = self._read_output()
            fds, self._process_fd, self._output_fd = (self._process_fd, self._output_fd), None, None
            for fd in fds:
                if fd is not None:
                    os.close(fd)
            calls, self._calls = self._calls, []
            self.ended.set()
        self.begun.set()
        for call in calls:
            call()

    def on_end(self, call: Callable[[], None]) -> None:
        with self._lock:
            if not self.ended.is_set():
                self._calls.append(call)
                return
        call()

    def send(self, number: signal.Signals) -> None:
        if not self.owned:
            raise ForkedError("this QEMU was started by the parent process")
        with self._lock:
            if self._process_fd is not None:
                # It may have ended since, and nobody has waited for it yet.
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._process_fd, number)

    def kill(self) -> None:
        """Also before it has been started, for a call that is interrupted meanwhile."""
        if self.owned:
            with self._lock:
                self._unwanted = True
            self.send(signal.SIGKILL)

    def output(self) -> str:
        with self._lock:
            return self._read_output() or self._final_output

    def _read_output(self) -> str:
        if self._output_fd is None:
            return self._final_output
        start = max(0, os.fstat(self._output_fd).st_size - ERROR_BYTES_MAX)
        return os.pread(self._output_fd, ERROR_BYTES_MAX, start).decode(errors="replace").strip()


def find_binary(name: str | None) -> str:
    """The path of QEMU, or of the program called `name`.

    Raises TransportError if there is none, naming the Debian packages.
    """
    wanted = name or BINARY
    path = shutil.which(wanted)
    if path is None:
        hint = f"; on Debian: apt-get install {PACKAGE}" if name is None else ""
        raise TransportError(f"there is no program {wanted}{hint}")
    return str(Path(path).absolute())


def guard() -> list[str]:
    """Arguments before a command that tie its life to this process."""
    setpriv, shell = shutil.which("setpriv"), shutil.which("sh")
    if setpriv is None or shell is None:
        raise TransportError(
            "QEMU is not started without setpriv (Debian: util-linux) and sh (dash), which see to "
            "it that it ends with this process"
        )
    return [setpriv, "--pdeathsig", "KILL", "--", shell, "-c", _GUARD, "sh", str(os.getpid())]


def _name(command: Sequence[str | bytes]) -> str:
    return os.fsdecode(command[0])
