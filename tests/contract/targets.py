"""The disks that the contract suite runs on. A new transport joins with one entry in TARGETS."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import RingName
from tests.interop.images import blank_image
from tests.interop.storage_daemon import StorageDaemon, qcow2_export, raw_export

CAPACITY_BYTES = 64 << 20
"""Of every target, so that the tests know it."""

SPLIT_BYTES = 16384
"""The targets named "small" take no longer request than this."""


@dataclass(frozen=True)
class Target:
    """A way to a writable disk of CAPACITY_BYTES."""

    name: str
    serve: Callable[[Path], AbstractContextManager[str]]
    """Makes a disk (in a directory, if it needs files) and yields its address. The disk takes one
    client at a time, and keeps its content while it is served."""
    transport: str
    """What `info.transport` must say."""
    discards: bool = True
    """It offers DISCARD and WRITE_ZEROES."""
    keeps_content: bool = True
    """What was written is there when the address is opened again."""
    ring_format: str = "split"
    """As `info.ring_format` says it."""
    modern: bool = True
    """It is driven through the modern interface."""
    rings: tuple[RingName, ...] = ("native", "reference")
    """One is enough where all else that the device is has been tried over both by another."""


@contextmanager
def serve_memory(directory: Path) -> Iterator[str]:
    yield "mem:64M?serial=contract&queues=2"


@contextmanager
def serve_memory_packed(directory: Path) -> Iterator[str]:
    yield "mem:64M?packed=on&queue_size=100&serial=contract&queues=2"


@contextmanager
def serve_memory_in_order(directory: Path) -> Iterator[str]:
    yield "mem:64M?in_order=on&serial=contract&queues=2"


@contextmanager
def serve_memory_packed_in_order(directory: Path) -> Iterator[str]:
    yield "mem:64M?packed=on&in_order=on&indirect=off&queue_size=100&serial=contract&queues=2"


@contextmanager
def serve_memory_packed_on_pci(directory: Path) -> Iterator[str]:
    yield (
        "mem:64M?packed=on&indirect=off&notification_data=on&bus=pci&serial=contract&queues=2"
        "&size_max=4096&seg_max=4&queue_size=27&max_discard_sectors=64"
        "&max_write_zeroes_sectors=64"
    )


@contextmanager
def serve_memory_on_pci(directory: Path) -> Iterator[str]:
    yield "mem:64M?bus=pci&interrupts=msix&serial=contract&queues=2"


@contextmanager
def serve_memory_on_pci_intx(directory: Path) -> Iterator[str]:
    yield "mem:64M?bus=pci&interrupts=intx&serial=contract&queues=2"


@contextmanager
def serve_small_requests(directory: Path) -> Iterator[str]:
    yield (
        "mem:64M?serial=contract&size_max=4096&seg_max=4&queue_size=32"
        "&max_discard_sectors=64&max_write_zeroes_sectors=64"
    )


@contextmanager
def serve_file(directory: Path) -> Iterator[str]:
    image = directory / "disk.img"
    with image.open("wb") as file:
        file.truncate(CAPACITY_BYTES)
    yield f"file:{image}?serial=contract"


@contextmanager
def serve_vhost_user_raw(directory: Path) -> Iterator[str]:
    image = blank_image(directory / "disk.raw", CAPACITY_BYTES)
    with StorageDaemon(directory, [raw_export("disk", image)]) as daemon:
        yield daemon.address("disk")


@contextmanager
def serve_vhost_user_qcow2(directory: Path) -> Iterator[str]:
    image = blank_image(directory / "disk.qcow2", CAPACITY_BYTES, "qcow2")
    with StorageDaemon(directory, [qcow2_export("disk", image)]) as daemon:
        yield daemon.address("disk")


def serve_qemu(options: str) -> Callable[[Path], AbstractContextManager[str]]:
    """A disk of a QEMU, which starts when the address is opened, and ends when it is closed."""

    @contextmanager
    def serve(directory: Path) -> Iterator[str]:
        image = directory / "disk.raw"
        with image.open("wb") as file:
            file.truncate(CAPACITY_BYTES)
        yield f"qemu:{image}?serial=contract&{options}"

    return serve


def qemu_knows(name: str) -> bool:
    """Whether the disk of the QEMU that is installed has a property of that name."""
    program = shutil.which("qemu-system-x86_64")
    if program is None:
        return False  # Its other targets say so.
    command = [program, "-device", "virtio-blk-pci,help"]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    return any(line.strip().startswith(f"{name}=") for line in listed.splitlines())


IN_ORDER_ON_QEMU = "in_order=on&indirect_desc=off&queue_size=512&num_queues=2"
"""QEMU 10.0 loses requests that fill their ring, and some of a ring of the largest size."""

TARGETS = [
    Target("memory", serve_memory, "software", keeps_content=False),
    Target(
        "memory-packed", serve_memory_packed, "software", keeps_content=False, ring_format="packed"
    ),
    Target(
        "memory-in-order",
        serve_memory_in_order,
        "software",
        keeps_content=False,
        ring_format="split-in-order",
    ),
    Target(
        "memory-packed-in-order",
        serve_memory_packed_in_order,
        "software",
        keeps_content=False,
        ring_format="packed-in-order",
    ),
    Target(
        "small-packed-pci",
        serve_memory_packed_on_pci,
        "software",
        keeps_content=False,
        ring_format="packed",
    ),
    Target("memory-pci", serve_memory_on_pci, "software", keeps_content=False),
    Target(
        "memory-pci-intx",
        serve_memory_on_pci_intx,
        "software",
        keeps_content=False,
        rings=("native",),
    ),
    Target("small", serve_small_requests, "software", keeps_content=False),
    Target("file", serve_file, "software"),
    Target("vhost-user-raw", serve_vhost_user_raw, "vhost-user"),
    Target("vhost-user-qcow2", serve_vhost_user_qcow2, "vhost-user"),
    Target(
        "qemu-legacy-intx",
        serve_qemu("interface=legacy&interrupts=intx"),
        "qemu",
        modern=False,
    ),
    Target(
        "qemu-modern-msix",
        serve_qemu("interface=modern&interrupts=msix&num_queues=2"),
        "qemu",
    ),
    Target(
        "qemu-packed",
        serve_qemu("packed=on&interrupts=msix&num_queues=2"),
        "qemu",
        ring_format="packed",
    ),
    Target("qemu-q35-root-port", serve_qemu("machine=q35&iothread=on"), "qemu", rings=("native",)),
]

# From QEMU 10 on. That others say clearly that they have none: tests/interop.
if qemu_knows("in_order"):
    TARGETS += [
        Target("qemu-in-order", serve_qemu(IN_ORDER_ON_QEMU), "qemu", ring_format="split-in-order"),
        Target(
            "qemu-packed-in-order",
            serve_qemu(f"packed=on&{IN_ORDER_ON_QEMU}"),
            "qemu",
            ring_format="packed-in-order",
        ),
    ]
