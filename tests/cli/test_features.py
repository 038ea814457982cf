"""`--feature`, with which each command that opens a disk insists on features or does without."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import fails, succeeds
from vioblk.cli.app import run
from vioblk.features import Verdict


def info(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert run(["info", "--json", *arguments]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def verdicts(found: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {each["name"]: (each["verdict"], each["reason"]) for each in found["features"]}


def test_any_feature_can_be_switched_off(capsys: pytest.CaptureFixture[str]) -> None:
    usual = set(info(capsys, "mem:1M?packed=on&queues=2")["accepted"])
    for name in sorted(usual - {"version_1"}):
        # Where the address alone insists on it, the switch wins.
        found = info(capsys, "mem:1M?packed=on&queues=2", "--feature", f"{name}=off")
        assert set(found["accepted"]) <= usual - {name}
        if name in found["offered"]:
            assert verdicts(found)[name] == ("declined", "switched off by an option")


def test_a_feature_is_switched_on_in_the_device_too(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("ring_packed", "notification_data"):
        plain = info(capsys, "mem:1M?bus=pci")
        assert name not in plain["offered"]
        found = info(capsys, "mem:1M?bus=pci", "--feature", f"{name}=on")
        assert verdicts(found)[name][0] == Verdict.ACCEPTED.name.lower()
        assert verdicts(found)[name][1]


def test_it_wins_over_the_address_under_another_name_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert info(capsys, "mem:1M?packed=on")["ring_format"] == "packed"
    switched_off = info(capsys, "mem:1M?packed=on", "--feature", "ring_packed=off")
    assert switched_off["ring_format"] == "split"
    left_alone = info(capsys, "mem:1M?event_idx=off", "--feature", "event_idx=auto")
    assert "event_idx" in left_alone["accepted"]


def test_several_features(capsys: pytest.CaptureFixture[str]) -> None:
    found = info(
        capsys, "mem:1M", "--feature", "packed=on", "--feature", "event_idx=off", "--feature",
        "indirect=off",
    )  # fmt: skip
    assert "ring_packed" in found["accepted"]
    assert {"event_idx", "indirect_desc"}.isdisjoint(found["accepted"])


COMMANDS = (
    ("info", "ADDRESS"),
    ("read", "ADDRESS", "0", "512"),
    ("write", "ADDRESS", "0"),
    ("zero", "ADDRESS", "0", "512"),
    ("discard", "ADDRESS", "0", "512"),
    ("copy", "ADDRESS", "FILE"),
    ("copy", "FILE", "ADDRESS"),
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_each_command_that_opens_a_disk_takes_it(tmp_path: Path, command: tuple[str, ...]) -> None:
    file = tmp_path / "data"
    file.write_bytes(bytes(512))
    places = {"ADDRESS": "mem:1M", "FILE": str(file)}
    arguments = [places.get(word, word) for word in command]
    succeeds(*arguments, "--feature", "packed=on", stdin=bytes(512))
    # What cannot be had shows that it was asked for.
    assert "secure_erase is forced on but" in fails(
        *arguments, "--feature", "secure_erase=on", stdin=bytes(512)
    )


@pytest.mark.parametrize(
    ("switches", "said"),
    [
        (("packed",), "'packed' is not NAME=on, NAME=off or NAME=auto"),
        (("packed=yes",), "'packed=yes' is not NAME=on, NAME=off or NAME=auto"),
        (("paced=on",), "there is no feature 'paced'; did you mean packed or ring_packed?"),
        (("zz=on",), "there is no feature 'zz'; there are access_platform, "),
        # It is an option, and no feature.
        (("strict=on",), "there is no feature 'strict'"),
        (("packed=on", "packed=off"), "packed is both on and off; give one of them"),
        (("packed=on", "ring_packed=off"), "two names of one feature; give one of them"),
    ],
)
def test_mistakes_are_told(switches: tuple[str, ...], said: str) -> None:
    arguments = [word for switch in switches for word in ("--feature", switch)]
    assert said in fails("info", "mem:1M", *arguments)
