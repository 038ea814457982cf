"""A qemu-storage-daemon with one disk that is reached by vhost-user and by NBD at once.

No iothread: QEMU's NBD server is at home in the main loop, so there the node and all its exports
are. Each vhost-user socket serves one client at a time, so there is one for each.
"""

from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.interop.storage_daemon import Export, StorageDaemon

DISK_BYTES: Final = 256 << 20
CHUNK_BYTES: Final = 1 << 20
NAME: Final = "disk"
NBD_SOCKET: Final = "nbd.sock"


@dataclass(frozen=True)
class SharedDisk(Export):
    """A node for several clients at once."""

    clients: int = 1
    """How many of vhost-user."""

    def arguments(self, directory: Path) -> list[str]:
        """For the daemon's command line."""
        words = [word for node in self.nodes for word in ("--blockdev", node)]
        for number in range(self.clients):
            words += (
                "--export",
                f"type=vhost-user-blk,id=export-{number},node-name={self.name},writable=on,"
                f"num-queues=1,addr.type=unix,addr.path={socket(directory, number)}",
            )
        words += ("--nbd-server", f"addr.type=unix,addr.path={directory / NBD_SOCKET}")
        words += (
            "--export",
            f"type=nbd,id=export-nbd,node-name={self.name},name={self.name},writable=on",
        )
        return words


def null_disk(clients: int) -> SharedDisk:
    """Completes everything at once, and moves no data."""
    node = f"driver=null-co,node-name={NAME},size={DISK_BYTES},read-zeroes=off"
    return SharedDisk(NAME, (node,), clients=clients)


def raw_disk(image: Path, clients: int) -> SharedDisk:
    """A raw file, read and written by the daemon's pool of threads."""
    node = f"driver=file,node-name={NAME},filename={image},aio=threads"
    return SharedDisk(NAME, (node,), clients=clients)


def socket(directory: Path, number: int) -> Path:
    """Of one of the exports."""
    return directory / f"{NAME}-{number}.sock"


def serve(directory: Path, disk: SharedDisk) -> StorageDaemon:
    """Start a daemon, with its files in a directory of its own."""
    directory.mkdir()
    return StorageDaemon(directory, [disk])


def write_pattern(image: Path, size_bytes: int = DISK_BYTES) -> None:
    """Make an image of which each 64-bit word is its own offset."""
    with image.open("wb") as file:
        for start in range(0, size_bytes, CHUNK_BYTES):
            file.write(pattern(start, CHUNK_BYTES))


def pattern(offset: int, length: int) -> bytes:
    """What the image has at `offset`."""
    return array("Q", range(offset, offset + length, 8)).tobytes()
