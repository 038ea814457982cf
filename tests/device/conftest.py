"""A scripted device, which logs every access in order, and what drives it."""

import pytest

from tests.support.drivers import PlainDriver
from tests.support.scripted import Script
from vioblk.device import VirtioDevice


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def driver(script: Script) -> PlainDriver:
    return PlainDriver(script.log)


@pytest.fixture
def device(script: Script) -> VirtioDevice:
    return VirtioDevice(script)
