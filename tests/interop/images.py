"""Disk images for the tests: an ext4 file system made of real files, and its qcow2 twin."""

import hashlib
import random
import shutil
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from tests.interop.storage_daemon import run_tool

FILE_SYSTEM_BYTES = 48 << 20

SOURCES = ("asyncio", "collections", "concurrent", "email", "encodings", "importlib", "json")
"""Packages of the standard library whose sources go into the file system."""

RANDOM_FILE_BYTES = (1, 511, 4096, 1_000_003, 6 << 20)


@dataclass(frozen=True)
class Images:
    """One file system, three times."""

    tree: Path
    """The directory that it was made from."""
    raw: Path
    qcow2: Path

    def sha256(self) -> str:
        """Of the raw image."""
        return sha256(self.raw)


def make_images(directory: Path) -> Images:
    """Collect real files, and make the images from them."""
    tree, raw, qcow2 = directory / "tree", directory / "fs.raw", directory / "fs.qcow2"
    collect_files(tree)
    run_tool("mke2fs", "-q", "-F", "-t", "ext4", "-d", tree, raw, f"{FILE_SYSTEM_BYTES // 1024}k")
    run_tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, qcow2)
    return Images(tree, raw, qcow2)


def collect_files(tree: Path) -> None:
    """The standard library's sources, and some files that do not compress."""
    library = Path(sysconfig.get_path("stdlib"))
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    for package in SOURCES:
        shutil.copytree(library / package, tree / package, ignore=ignore)
    for module in sorted(library.glob("*.py")):
        shutil.copy(module, tree)
    noise = random.Random(20240229)
    for length in RANDOM_FILE_BYTES:
        (tree / f"random-{length}.bin").write_bytes(noise.randbytes(length))


def blank_image(path: Path, size_bytes: int, image_format: str = "raw") -> Path:
    """An empty image."""
    run_tool("qemu-img", "create", "-q", "-f", image_format, path, str(size_bytes))
    return path


def sha256(path: Path) -> str:
    """Of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_of(tree: Path) -> dict[str, str]:
    """Relative path and hash of every file below `tree`."""
    return {
        str(path.relative_to(tree)): sha256(path)
        for path in sorted(tree.rglob("*"))
        if path.is_file()
    }
