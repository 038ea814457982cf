"""What the tests against a real qemu-storage-daemon share."""

from pathlib import Path

import pytest

from tests.interop.images import Images, make_images


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """A file system of real files; the images are for reading only."""
    return make_images(Path(tmp_path_factory.mktemp("images")))
