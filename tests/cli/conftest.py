from pathlib import Path
from random import Random

import pytest

IMAGE_BYTES = 3 << 20


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A disk image of random bytes, a little longer than a round number of requests."""
    path = tmp_path / "disk.img"
    path.write_bytes(Random(7).randbytes(IMAGE_BYTES + 512))
    return path


@pytest.fixture
def empty_image(tmp_path: Path) -> Path:
    """As long as `image`, all zeroes."""
    path = tmp_path / "empty.img"
    path.write_bytes(bytes(IMAGE_BYTES + 512))
    return path
