"""Peers that are programs of their own: they read commands and answer each with a line."""

import json
import select
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from benches.peers.daemon import NAME, NBD_SOCKET

ROOT: Final = Path(__file__).parents[2]
DEBIAN_PYTHON: Final = "/usr/bin/python3"
LIBNBD_CLIENT: Final = Path(__file__).with_name("libnbd_client.py")
TIMEOUT_S: Final = 60.0
"""For the answer to one command."""
BUILD_TIMEOUT_S: Final = 900
QUIT_TIMEOUT_S: Final = 10.0


class PeerFailed(RuntimeError):
    """A peer ended, or said something else than what it was asked for."""


class Child:
    """A peer. Its end is that of the `with` block."""

    def __init__(self, command: Sequence[str | Path]) -> None:
        self._name = Path(command[0]).name
        self._process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        try:
            self._expect(self._answer(), "ready")
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def work(self, count: int) -> float:
        """Let it do so many requests; the seconds that it took."""
        return float(self.ask(f"run {count}"))

    def verify(self, count: int) -> None:
        """Let it read so many blocks of the pattern. Raises PeerFailed if one is wrong."""
        self._expect(self.ask(f"verify {count}"), "verified")

    def ask(self, command: str) -> str:
        """Send it a line, and return its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], TIMEOUT_S)
        line = self._process.stdout.readline().strip() if ready else ""
        if not line:
            raise PeerFailed(f"{self._name} {'has ended' if ready else 'does not answer'}")
        return line

    def _expect(self, found: str, wanted: str) -> None:
        if found != wanted:
            raise PeerFailed(f"{self._name} said {found!r} and not {wanted!r}")

    def _end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(QUIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def blkio(socket: Path, **settings: object) -> Child:
    """The crate `blkio`; `settings` as `rust/src/bin/blkio_peer.rs` has them."""
    words = [f"{name}={str(value).lower()}" for name, value in settings.items()]
    return Child([programs()["blkio_peer"], socket, *words])


def memcpy(block: int, disk_bytes: int, depth: int) -> Child:
    """One processor that copies blocks."""
    return Child([programs()["memcpy_bound"], *map(str, (block, disk_bytes, depth))])


def libnbd(directory: Path, block: int, depth: int, method: str) -> Child:
    """python3-libnbd; `method` is `sync` or `async`."""
    words = (directory / NBD_SOCKET, NAME, str(block), str(depth), method)
    return Child([DEBIAN_PYTHON, LIBNBD_CLIENT, *words])


@cache
def programs() -> dict[str, Path]:
    """The peers that are written in Rust, by name; they are built if need be.

    Raises PeerFailed if that cannot be.
    """
    command = ["cargo", "build", "--release", "--locked", "--package", "vioblk-benches", "--bins"]
    done = subprocess.run(
        [*command, "--quiet", "--message-format=json"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=BUILD_TIMEOUT_S,
    )
    if done.returncode:
        raise PeerFailed(f"{' '.join(command)} ended with {done.returncode}")
    return parse_programs(done.stdout)


def parse_programs(output: str) -> dict[str, Path]:
    """Name and path of each program, from cargo's messages."""
    messages = map(json.loads, output.splitlines())
    paths = [Path(each["executable"]) for each in messages if each.get("executable")]
    return {path.name: path for path in paths}
