"""A real qemu-storage-daemon for tests and benchmarks, and the tools that go with it.

    with StorageDaemon(directory, [raw_export("disk", image)]) as daemon:
        with vioblk.open(daemon.address("disk")) as disk: ...

Its monitor (QMP) is a socket pair: the greeting comes when everything is set up, so nothing has to
be polled, and the end of the stream shows that the daemon has died.
"""

import json
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

DAEMON = "qemu-storage-daemon"

PACKAGES = {
    DAEMON: "qemu-utils (on Debian 12: qemu-system-common)",
    "qemu-img": "qemu-utils",
    "qemu-io": "qemu-utils",
    "mke2fs": "e2fsprogs",
    "debugfs": "e2fsprogs",
}

TIMEOUT_S = 60.0
"""For anything that the daemon or a tool does."""

STOP_TIMEOUT_S = 10.0
"""For an end in good order, which takes milliseconds."""


class MissingTool(RuntimeError):
    """A program that the tests need is not installed."""


def tool(name: str) -> str:
    """The path of a program. Raises MissingTool, which names the Debian package."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if path is None:
        raise MissingTool(f"{name} is missing; install it: apt-get install {PACKAGES[name]}")
    return path


def run_tool(name: str, *arguments: str | Path) -> str:
    """Run a program to its end, and return what it prints. Raises CalledProcessError."""
    command = [tool(name), *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=TIMEOUT_S)
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


@dataclass(frozen=True)
class Export:
    """A disk of the daemon, and the block nodes that it is made of."""

    name: str
    """Of the node and of the socket, which is NAME.sock in the daemon's directory."""
    nodes: tuple[str, ...]
    """Arguments of --blockdev; the last is the node that is exported."""
    objects: tuple[str, ...] = ()
    """Arguments of --object."""
    options: str = "writable=on,num-queues=2"
    """Further options of --export."""

    def arguments(self, directory: Path) -> list[str]:
        """For the daemon's command line."""
        objects = [each for value in self.objects for each in ("--object", value)]
        nodes = [each for value in self.nodes for each in ("--blockdev", value)]
        export = (
            f"type=vhost-user-blk,id=export-{self.name},node-name={self.name},"
            f"addr.type=unix,addr.path={directory / self.name}.sock,{self.options}"
        )
        return [*objects, *nodes, "--export", export]


def raw_export(name: str, image: Path, options: str = Export.options) -> Export:
    """A raw image."""
    return Export(
        name, (f"driver=file,node-name={name},filename={image},discard=unmap",), options=options
    )


def qcow2_export(name: str, image: Path, options: str = Export.options) -> Export:
    """A qcow2 image."""
    return Export(
        name,
        (
            f"driver=file,node-name={name}-file,filename={image},discard=unmap",
            f"driver=qcow2,node-name={name},file={name}-file,discard=unmap",
        ),
        options=options,
    )


def throttled_export(name: str, image: Path, limit: str) -> Export:
    """A raw image that is slow on purpose; `limit` such as `x-iops-total=8`."""
    return Export(
        name,
        (
            f"driver=file,node-name={name}-file,filename={image}",
            f"driver=throttle,node-name={name},throttle-group={name}-limit,file={name}-file",
        ),
        (f"throttle-group,id={name}-limit,{limit}",),
    )


def null_export(name: str, size_bytes: int = 1 << 30, options: str = Export.options) -> Export:
    """A node that completes every request at once and moves no data, in a thread of its own: what
    it reaches is a ceiling of protocol and rings."""
    return Export(
        name,
        (f"driver=null-co,node-name={name},size={size_bytes},read-zeroes=off",),
        (f"iothread,id={name}-thread",),
        f"{options},iothread={name}-thread",
    )


class StorageDaemon:
    """A running daemon. Its end is that of the `with` block at the latest."""

    def __init__(self, directory: Path, exports: Sequence[Export]) -> None:
        """Start it and wait until it serves all `exports`; its files go to `directory`.

        Raises MissingTool, AssertionError with what the daemon printed if it does not start.
        """
        self._directory = directory
        self._log = directory / "daemon.log"
        self._monitor, theirs = socket.socketpair()
        self._monitor.settimeout(TIMEOUT_S)
        command = [
            tool(DAEMON),
            *("--chardev", f"socket,id=qmp,fd={theirs.fileno()}"),
            *("--monitor", "chardev=qmp"),
            *(argument for export in exports for argument in export.arguments(directory)),
        ]
        with theirs, self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._replies = self._monitor.makefile("r")
        try:
            greeting = self._receive()
            version = greeting["QMP"]["version"]["qemu"]
            self.version: tuple[int, int] = (version["major"], version["minor"])
            self.qmp("qmp_capabilities")
        except BaseException:
            self.kill()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def socket_path(self, name: str) -> Path:
        """Where the export called `name` listens."""
        return self._directory / f"{name}.sock"

    def address(self, name: str) -> str:
        """The address of the export called `name`."""
        return f"vhost-user:{self.socket_path(name)}"

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process.poll() is None

    def log(self) -> str:
        """What the daemon has printed."""
        return self._log.read_text(errors="replace")

    def qmp(self, command: str, **arguments: object) -> Any:
        """Run a monitor command and return what it returns. Raises AssertionError if it fails."""
        request = {"execute": command, "arguments": arguments}
        self._monitor.sendall(json.dumps(request).encode() + b"\n")
        while True:
            reply = self._receive()
            if "event" not in reply:
                break
        assert "return" in reply, f"{command} {arguments}: {reply}"
        return reply["return"]

    def _receive(self) -> Any:
        line = self._replies.readline()
        assert line, f"{DAEMON} has died:\n{self.log()}"
        return json.loads(line)

    def pause(self) -> None:
        """Let it stand still (SIGSTOP): it answers nothing more. Only `kill` ends it then."""
        self._process.send_signal(signal.SIGSTOP)

    def stop(self) -> None:
        """End the daemon in good order, images included, if it lets itself be ended. Idempotent.

        QEMU 7.2's was seen to stand still at its end, with nobody connected, where it had an
        iothread.
        """
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_TIMEOUT_S)
        self.kill()

    def kill(self) -> None:
        """End the daemon at once (SIGKILL). Idempotent."""
        with suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait(TIMEOUT_S)
        self._replies.close()
        self._monitor.close()
