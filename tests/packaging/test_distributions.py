"""What `make wheel` builds, installed into empty environments outside the tree."""

import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.packaging.check_wheel import complaints

ROOT = Path(__file__).resolve().parents[2]

SHARED_TARGET = ROOT / "target" / "sdist"

QUICK_BUILD = {
    "CARGO_PROFILE_RELEASE_LTO": "off",
    "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "16",
    "CARGO_PROFILE_RELEASE_DEBUG": "0",
}
"""The last percent is not squeezed out, to save time. It is a release build all the same."""

# A build from nothing, on a slow machine.
pytestmark = pytest.mark.timeout(900)


def outside_environment() -> dict[str, str]:
    """The environment of somebody who has never heard of this tree."""
    ours = ("VIRTUAL_ENV", "PYO3_PYTHON", "PYTHONPATH", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    environment = {key: value for key, value in os.environ.items() if key not in ours}
    # To save time, what cargo compiled before is shared.
    return environment | QUICK_BUILD | {"CARGO_TARGET_DIR": str(SHARED_TARGET)}


def forget_our_crates() -> None:
    """Let cargo compile them anew; what they depend on stays.

    All files of an sdist are as old as one another, whatever is in them, so cargo would take what
    it made of the last one.
    """
    for fingerprint in SHARED_TARGET.glob("*/.fingerprint/vioblk-*"):
        shutil.rmtree(fingerprint)


class Environment:
    """An empty virtual environment with one distribution in it."""

    def __init__(self, directory: Path, requirement: str) -> None:
        self._directory = directory
        subprocess.run([sys.executable, "-m", "venv", directory / "venv"], check=True)
        self.run("-m", "pip", "install", "--quiet", requirement, check=True)

    def run(self, *arguments: str, check: bool = False) -> "subprocess.CompletedProcess[str]":
        """Run its Python, far from the tree."""
        done = subprocess.run(
            [self._directory / "venv" / "bin" / "python", *arguments],
            cwd=self._directory,
            env=outside_environment(),
            capture_output=True,
            text=True,
            timeout=600,
        )
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run its `vioblk`."""
        return subprocess.run(
            [self._directory / "venv" / "bin" / "vioblk", *arguments],
            cwd=self._directory,
            env=outside_environment(),
            capture_output=True,
            text=True,
            timeout=120,
        )


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dist")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("M")}
    done = subprocess.run(
        ["make", "wheel", f"DIST={directory}"],
        cwd=ROOT,
        env=environment | QUICK_BUILD,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


@pytest.fixture(scope="session")
def wheel(dist: Path) -> Path:
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def sdist(dist: Path) -> Path:
    (path,) = dist.glob("*.tar.gz")
    return path


@pytest.fixture(scope="session", params=["wheel", "sdist"])
def installed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Environment:
    path = request.getfixturevalue(request.param)
    directory = tmp_path_factory.mktemp(request.param)
    forget_our_crates()
    return Environment(directory, f"vioblk[cli] @ {path.as_uri()}")


def test_the_demo_runs_from_an_empty_environment(installed: Environment) -> None:
    done = installed.command("demo")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verified" in done.stdout


def test_python_m_is_the_same_command(installed: Environment) -> None:
    done = installed.run("-m", "vioblk", "--help")
    assert done.returncode == 0, done.stderr
    assert "vioblk" in done.stdout
    assert "copy" in done.stdout


def test_the_types_are_installed(installed: Environment) -> None:
    where = installed.run("-c", "import vioblk; print(vioblk.__path__[0])", check=True)
    package = Path(where.stdout.strip())
    assert not package.is_relative_to(ROOT)
    assert (package / "py.typed").is_file()
    assert (package / "_native.pyi").is_file()


def test_the_extension_is_a_release_build(installed: Environment) -> None:
    done = installed.run("-c", "from vioblk import _native; print(_native.BUILD_PROFILE)")
    assert done.stdout.strip() == "release", done.stderr


@pytest.fixture(scope="session")
def without_extra(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("library"), str(wheel))


def test_the_library_installs_nothing_else(without_extra: Environment) -> None:
    listed = without_extra.run("-m", "pip", "list", "--format=freeze", check=True).stdout
    names = {line.partition("==")[0] for line in listed.splitlines()}
    assert names - {"pip", "setuptools", "wheel"} == {"vioblk"}


def test_the_library_works_without_the_extra(without_extra: Environment) -> None:
    program = (
        "import vioblk\n"
        "with vioblk.open('mem:1M') as disk:\n"
        "    disk.write(0, b'x' * 512)\n"
        "    assert disk.read(0, 512) == b'x' * 512\n"
    )
    done = without_extra.run("-c", program)
    assert done.returncode == 0, done.stderr


def cli_requirements() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: list[str] = project["optional-dependencies"]["cli"]
    return found


def test_without_the_extra_the_command_says_what_to_install(without_extra: Environment) -> None:
    for done in (without_extra.command("demo"), without_extra.run("-m", "vioblk", "demo")):
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1
        command = done.stderr.partition(": pip install ")[2]
        assert shlex.split(command) == cli_requirements()


def test_the_wheel_runs_on_old_systems(wheel: Path) -> None:
    assert complaints(wheel) == []


def names_in(path: Path) -> list[str]:
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            return wheel.namelist()
    with tarfile.open(path) as sdist:
        return sdist.getnames()


def test_licences_travel_with_both(wheel: Path, sdist: Path) -> None:
    for names in (names_in(wheel), names_in(sdist)):
        for licence in ("LICENSE-MIT", "LICENSE-APACHE"):
            assert any(name.endswith(licence) for name in names), names


def test_the_sdist_holds_no_build_products(sdist: Path) -> None:
    names = names_in(sdist)
    assert not [name for name in names if name.endswith((".so", ".pyc", ".jsonl"))]
    assert any(name.endswith("Cargo.lock") for name in names)
