"""Drivers of other packages, which entry points of installed distributions name."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent

DRIVER = """
from enum import IntEnum

from tests.test_bus import Gadget
from vioblk.driver import BusDriver

class ConsoleFeature(IntEnum):
    SIZE = 0

CONSOLES = BusDriver("consoles", 3, Gadget, features=ConsoleFeature)
DISKS = BusDriver("other-disks", 2, Gadget)
NO_DRIVER = "a text"
"""

USE = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import vioblk
    from tests.test_bus import Found
    from vioblk.drivers import default_bus
    bus = default_bus()
    assert "other_package" not in __import__("sys").modules, "loaded before it was needed"
    added = bus.add(Found())
    print("state:", added.state.name, added.driver, added.reason)
    for kind, driver in sorted(bus.drivers.items()):
        print("driver:", kind, driver.name)
for each in caught:
    print("warning:", each.category.__name__, each.message)
for problem in bus.problems:
    print("problem:", problem)
try:
    with vioblk.attach("mem:1M") as disk:
        print("disk:", type(disk).__name__)
except vioblk.VioblkError as error:
    print("disk:", type(error).__name__, error)
with vioblk.open("mem:1M") as disk:
    print("open:", type(disk).__name__)
from vioblk.features import feature_name
print("bit:", feature_name(0, 3))
"""


def install(site: Path, distribution: str, *entry_points: str) -> None:
    """What an installer leaves behind: a package, and a dist-info directory that names it."""
    (site / "other_package.py").write_text(DRIVER)
    info = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("\n".join(["[vioblk.drivers]", *entry_points, ""]))


def run(site: Path) -> list[str]:
    """The lines that `USE` prints in a process that finds what is installed in `site`."""
    path = [str(site), str(REPOSITORY), str(REPOSITORY / "python")]
    result = subprocess.run(
        [sys.executable, "-c", USE],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return tmp_path


def test_a_driver_of_another_package_attaches_to_its_devices(site: Path) -> None:
    install(site, "more-drivers", "consoles = other_package:CONSOLES")
    assert run(site) == [
        "state: ATTACHED consoles None",
        "driver: 2 virtio-blk",
        "driver: 3 consoles",
        "driver: 4 virtio-rng",
        "disk: BlockDevice",
        "open: BlockDevice",
        "bit: size",
    ]


def test_without_one_the_device_waits(site: Path) -> None:
    lines = run(site)
    assert lines[0] == "state: WAITING None no driver for type 3 (console)"
    assert lines[-1] == "bit: bit_0"


@pytest.mark.parametrize(
    ("entry_point", "why"),
    [
        ("broken = other_package:MISSING", "AttributeError"),
        ("broken = no_such_module:DRIVER", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("broken = other_package:NO_DRIVER", "TypeError: other_package:NO_DRIVER is no BusDriver"),
    ],
)
def test_a_broken_driver_is_reported_and_stops_no_other(
    site: Path, entry_point: str, why: str
) -> None:
    install(site, "broken-drivers", entry_point)
    install(site, "more-drivers", "consoles = other_package:CONSOLES")
    lines = run(site)
    assert lines[0] == "state: ATTACHED consoles None"
    [problem] = [line for line in lines if line.startswith("problem:")]
    assert problem.startswith("problem: the driver broken of broken-drivers cannot be used: ")
    assert why in problem
    assert problem.replace("problem:", "warning: RuntimeWarning") in lines
    assert "disk: BlockDevice" in lines


def test_a_missing_driver_and_a_broken_one_are_told_together(site: Path) -> None:
    install(site, "broken-drivers", "broken = no_such_module:DRIVER")
    assert run(site)[0].startswith(
        "state: WAITING None no driver for type 3 (console); the driver broken of broken-drivers"
    )


def test_two_packages_with_a_driver_for_one_type_are_an_error_that_names_both(site: Path) -> None:
    install(site, "more-drivers", "consoles = other_package:CONSOLES")
    install(site, "extra-drivers", "screens = other_package:CONSOLES")
    lines = run(site)
    message = (
        "both extra-drivers (consoles) and more-drivers (consoles) have a driver for type 3 "
        "(console); uninstall one of them"
    )
    assert lines[0] == f"state: REFUSED None refused: {message}"
    assert f"problem: {message}" in lines
    assert "disk: BlockDevice" in lines


def test_a_package_cannot_take_disks_over_unnoticed(site: Path) -> None:
    install(
        site, "more-drivers", "disks = other_package:DISKS", "consoles = other_package:CONSOLES"
    )
    lines = run(site)
    assert lines[0] == "state: ATTACHED consoles None"
    [disk] = [line for line in lines if line.startswith("disk:")]
    assert disk.startswith(
        "disk: DuplicateDriverError both vioblk (virtio-blk) and more-drivers (other-disks)"
    )
    assert "open: BlockDevice" in lines
