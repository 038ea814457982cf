"""`vioblk info`."""

import json
from pathlib import Path

import pytest

from tests.cli.command import succeeds
from vioblk.cli.app import run


def test_info_shows_the_disk_and_its_features() -> None:
    text = succeeds("info", "mem:64M?serial=vb-7").decode()
    for words in ("mem:64M", "67108864 bytes (64M)", "vb-7", "event_idx", "accepted"):
        assert words in text


def test_lines_end_where_their_text_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["info", "mem:1M"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert [line for line in lines if line != line.rstrip()] == []


def test_queues_that_are_not_used_are_said_to_be_there() -> None:
    assert "2 of the device's 4 " in succeeds("info", "mem:1M?queues=4&queue_count=2").decode()
    assert "the device's" not in succeeds("info", "mem:1M?queues=2&queue_count=2").decode()


def test_the_way_to_the_disk_is_shown() -> None:
    address = "mem:1M?bus=pci&interrupts=intx"
    text = succeeds("info", address).decode()
    assert "modern interface" in text
    assert "INTx" in text
    details = json.loads(succeeds("info", "--json", address))["transport_details"]
    assert "modern" in details["interface"]
    assert "intx" in details["interrupts"]
    assert json.loads(succeeds("info", "--json", "mem:1M"))["transport_details"] == {}


@pytest.mark.parametrize(
    ("options", "format_name", "notifications"),
    [
        ("", "split", "event index"),
        ("?event_idx=off", "split", "flags"),
        ("?packed=on", "packed", "event index"),
        ("?in_order=on", "split-in-order", "event index"),
        ("?packed=on&in_order=on", "packed-in-order", "event index"),
        ("?packed=on&bus=pci&notification_data=on", "packed", "event index, with the place"),
    ],
)
def test_the_format_of_the_ring_is_shown(
    capsys: pytest.CaptureFixture[str], options: str, format_name: str, notifications: str
) -> None:
    assert run(["info", f"mem:1M{options}"]) == 0
    rows = dict(
        line.split("  ", 1) for line in capsys.readouterr().out.splitlines() if "  " in line
    )
    assert rows["ring format"].strip() == format_name
    assert rows["notifications"].strip().startswith(notifications)
    assert rows["queue 0"].strip() == (
        "256 descriptors, 256 requests at once, interrupts, 1 notification sent"
    )


def test_each_queue_says_how_it_waits(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["info", "mem:1M?bus=pci&interrupts=none&queues=2&queue_count=2"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("queue ")]
    assert len(rows) == 2
    assert all(", polled, " in row for row in rows)
    assert run(["info", "--json", "mem:1M?packed=on&in_order=on&ring_size=64"]) == 0
    (queue,) = json.loads(capsys.readouterr().out)["queues"]
    assert (queue["format"], queue["in_order"], queue["polling"]) == ("packed", True, False)
    assert (queue["size"], queue["in_flight"], queue["broken"]) == (64, 0, None)


def test_names_are_shown_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = tmp_path / "a [bold]disk[x].img"
    image.write_bytes(bytes(512))
    assert run(["info", f"file:{image}?serial=[red]7[/]"]) == 0
    shown = capsys.readouterr().out
    assert str(image) in shown
    assert "[red]7[/]" in shown


def test_info_as_json_is_one_object_that_programs_read() -> None:
    found = json.loads(succeeds("info", "--json", "mem:1M?queues=2&serial=vb-7"))
    assert found["capacity_bytes"] == 1 << 20
    assert found["serial"] == "vb-7"
    assert "version_1" in found["accepted"]
    assert {"bit", "name", "verdict", "reason"} == set(found["features"][0])


def test_any_feature_can_be_turned_off_from_the_command_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def accepted(address: str) -> set[str]:
        assert run(["info", "--json", address]) == 0
        return set(json.loads(capsys.readouterr().out)["accepted"])

    usual = accepted("mem:1M")
    for name in sorted(usual - {"version_1"}):
        assert accepted(f"mem:1M?{name}=off") <= usual - {name}


def test_info_of_the_reference_ring() -> None:
    found = json.loads(succeeds("info", "--json", "mem:1M?ring=reference"))
    assert found["ring"] == "reference"
    assert "event_idx" not in found["accepted"]


def test_features_of_the_ring_that_are_not_offered_are_said_to_be_missing() -> None:
    rows = succeeds("info", "mem:1M").decode().splitlines()
    (row,) = (row for row in rows if " ring_reset " in row)
    assert row.split() == ["40", "ring_reset", "not", "offered"]
    assert "ring_reset" in json.loads(succeeds("info", "--json", "mem:1M"))["not_offered"]


def test_a_queue_for_one_request_has_room_for_one() -> None:
    text = succeeds("info", "mem:1M?ring_size=4&indirect=off").decode()
    assert "1 request at once" in text
