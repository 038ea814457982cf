"""fio with its NBD engine: a client in C, for what the protocol allows."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benches.peers.children import PeerFailed
from benches.peers.daemon import DISK_BYTES, NAME, NBD_SOCKET

TIMEOUT_S: Final = 120


@dataclass(frozen=True)
class Fio:
    """Random reads at a depth. Each piece of work is a process of its own; what it takes to start
    does not count."""

    directory: Path
    """The daemon's."""
    block: int
    depth: int

    def look(self) -> None:
        """Raises PeerFailed if it is not there."""
        if shutil.which(self.command(1)[0]) is None:
            raise PeerFailed("fio is not installed: make bench-tools")

    def work(self, count: int) -> float:
        done = subprocess.run(
            self.command(count), capture_output=True, text=True, check=False, timeout=TIMEOUT_S
        )
        if done.returncode:
            raise PeerFailed(f"fio ended with {done.returncode}: {done.stderr}")
        return parse_seconds(done.stdout, count)

    def command(self, count: int) -> list[str]:
        return [
            "fio",
            "--name=reads",
            "--ioengine=nbd",
            f"--uri=nbd+unix:///{NAME}?socket={self.directory / NBD_SOCKET}",
            "--rw=randread",
            f"--bs={self.block}",
            f"--size={DISK_BYTES}",
            f"--iodepth={self.depth}",
            f"--number_ios={count}",
            f"--io_size={count * self.block}",
            "--norandommap",
            "--gtod_reduce=1",
            "--output-format=json",
        ]


def parse_seconds(output: str, count: int) -> float:
    """How long the reads took, from fio's JSON. Raises PeerFailed unless they are so many."""
    # It may print a remark before the JSON.
    [job] = json.loads(output[output.index("{") :])["jobs"]
    reads = job["read"]
    if job["error"] or reads["total_ios"] != count:
        raise PeerFailed(f"fio read {reads['total_ios']} of {count} blocks, error {job['error']}")
    return float(reads["runtime"]) / 1000
