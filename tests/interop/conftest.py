"""What the tests against real back ends share."""

from pathlib import Path

import pytest

from tests.interop.images import Images, make_images
from vioblk.transport import qemu


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """A file system of real files; the images are for reading only."""
    return make_images(Path(tmp_path_factory.mktemp("images")))


@pytest.fixture(scope="session")
def known_properties() -> frozenset[str]:
    """What can be set of the disk of the QEMU that is installed."""
    with qemu.start("qemu:null:1M") as machine:
        listed = machine.qmp("device-list-properties", typename=machine.device_name)
    return frozenset(each["name"] for each in listed)
