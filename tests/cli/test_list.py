"""`vioblk list`, on trees of functions that QEMU showed, and on this machine."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vioblk
from tests.cli.command import fails
from tests.cli.command import vioblk as command
from tests.pci.spaces import chained, endpoint, virtio_cap
from tests.support.sysfs_tree import (
    LEGACY_RESOURCE,
    MODERN_RESOURCE,
    TRANSITIONAL_RESOURCE,
    SysfsTree,
    dump_bytes,
)
from vioblk.cli.app import run
from vioblk.discovery import sysfs


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SysfsTree:
    """What the commands of this process take for the sysfs of this machine."""
    tree = SysfsTree(tmp_path / "sys")
    monkeypatch.setattr(sysfs, "ROOT", tree.root)
    return tree


def populate(tree: SysfsTree) -> None:
    """A host bridge, a disk and an entropy source of the kernel's, a free disk, an ivshmem."""
    tree.add("0000:00:00.0", dump_bytes("host_bridge"))
    disk = tree.add(
        "0000:00:05.0",
        dump_bytes("legacy_1001"),
        resource=LEGACY_RESOURCE,
        driver="virtio-pci",
        group=7,
    )
    tree.add_virtio(disk, 0, "virtio_blk", block_names=["vda"])
    rng = tree.add(
        "0000:00:06.0", dump_bytes("rng"), resource=TRANSITIONAL_RESOURCE, driver="virtio-pci"
    )
    tree.add_virtio(rng, 1, "virtio_rng")
    tree.add("0000:00:07.0", dump_bytes("ivshmem_1110"))
    tree.add("0000:00:08.0", dump_bytes("modern_1042"), resource=MODERN_RESOURCE)


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command prints, if it has nothing to say on stderr."""
    assert run(["list", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_each_virtio_device_is_a_line(tree: SysfsTree, capsys: pytest.CaptureFixture[str]) -> None:
    populate(tree)
    heading, *lines = listed(capsys).splitlines()
    assert heading.split("  ")[0] == "address"
    assert [line.split() for line in lines[:3]] == [
        ["0000:00:05.0", "1af4:1001", "block", "legacy", "virtio-pci", "7", "-"],
        ["0000:00:06.0", "1af4:1005", "entropy", "source", "transitional", "virtio-pci", "-", "-"],
        ["0000:00:08.0", "1af4:1042", "block", "modern", "-", "-", "-"],
    ]
    assert "0000:00:05.0  in use by the kernel (virtio-pci, virtio_blk: /dev/vda)" in lines
    assert all("0000:00:07.0" not in line for line in lines)


def test_lines_end_where_their_text_does(
    tree: SysfsTree, capsys: pytest.CaptureFixture[str]
) -> None:
    populate(tree)
    for arguments in ([], ["-v"], ["--all", "--verbose"]):
        lines = listed(capsys, *arguments).splitlines()
        assert [line for line in lines if line != line.rstrip()] == []


def test_verbose_is_the_listing_of_pciconf(
    tree: SysfsTree, capsys: pytest.CaptureFixture[str]
) -> None:
    populate(tree)
    text = listed(capsys, "-v")
    disk = text[text.index("virtio_pci0@") : text.index("virtio_pci1@")].splitlines()
    assert disk == [
        "virtio_pci0@pci0:0:5:0: class=0x010000 card=0x00021af4 chip=0x10011af4 rev=0x00 hdr=0x00",
        "    address    = 0000:00:05.0",
        "    vendor     = 'Red Hat, Inc.'",
        "    device     = 'Virtio block' (legacy)",
        "    class      = mass storage",
        "    subclass   = SCSI",
        "    command    = 0x0007 (io, memory, bus master)",
        "    status     = 0x0010 (capability list)",
        "    interrupt  = INTA, line 10",
        "    bar   [10] = type I/O port, range 32, base 0xc300, size 64, enabled",
        "    bar   [14] = type memory, range 32, base 0xf2060000, size 4096, enabled",
        "    cap 11[40] = MSI-X, 2 messages, disabled, table in BAR 1 at 0x0, "
        "PBA in BAR 1 at 0x800",
        "    kernel     = virtio-pci, virtio_blk, /dev/vda",
        "    iommu      = group 7",
        "    not usable = in use by the kernel (virtio-pci, virtio_blk: /dev/vda)",
        "    advice     = through the kernel it is file:/dev/vda, while nothing of it is mounted; "
        "this version does not take devices from the kernel",
    ]


def test_verbose_shows_what_each_virtio_capability_describes(
    tree: SysfsTree, capsys: pytest.CaptureFixture[str]
) -> None:
    populate(tree)
    text = listed(capsys, "-v")
    for line in (
        "virtio common configuration: BAR 4, offset 0x0, length 0x1000",
        "virtio ISR status: BAR 4, offset 0x1000, length 0x1000",
        "virtio device configuration: BAR 4, offset 0x2000, length 0x1000",
        "virtio notifications: BAR 4, offset 0x3000, length 0x1000, multiplier 4",
        "virtio PCI configuration access",
    ):
        assert f"= {line}\n" in text


def test_verbose_says_why_a_capability_is_skipped(
    tree: SysfsTree, capsys: pytest.CaptureFixture[str]
) -> None:
    capabilities = chained(virtio_cap(1, bar=6), virtio_cap(7))
    config = bytes(endpoint(capabilities=capabilities).data)
    tree.add("0000:00:05.0", config, resource=MODERN_RESOURCE)
    text = listed(capsys, "-v")
    assert "virtio, skipped: common configuration at 0x40: BAR 6 is a reserved value" in text
    assert "virtio, skipped: type 7 at 0x50: the type is reserved" in text
    assert "not usable = no usable modern interface: no usable common configuration" in text


def test_a_bridge_shows_its_buses_and_windows(
    tree: SysfsTree, capsys: pytest.CaptureFixture[str]
) -> None:
    tree.add("0000:00:02.0", dump_bytes("q35_root_port"), driver="pcieport")
    text = listed(capsys, "-v", "--all")
    assert "pcieport0@pci0:0:2:0: class=0x060400" in text
    for line in (
        "buses      = 0 to 1-1",
        "mem range  = 0xe0000000-0xe0ffffff",
        "cap 10[54] = PCI Express",
        "not usable = no virtio device: vendor 0x1b36 is not 0x1af4",
    ):
        assert f"    {line}" in text


def test_near_misses_are_shown_with_v_and_everything_with_all(
    tree: SysfsTree, capsys: pytest.CaptureFixture[str]
) -> None:
    populate(tree)
    verbose = listed(capsys, "-v")
    assert "not usable = no virtio device: device ID 0x1110: ivshmem" in verbose
    assert "0x8086" not in verbose
    everything = listed(capsys, "--all")
    assert "(not virtio)" in everything
    assert "0000:00:00.0  no virtio device: vendor 0x8086 is not 0x1af4" in everything


def test_hidden_capabilities_are_said_to_be_hidden(
    tree: SysfsTree, capsys: pytest.CaptureFixture[str]
) -> None:
    tree.add("0000:00:05.0", dump_bytes("modern_1042")[:64], resource=MODERN_RESOURCE)
    text = listed(capsys, "-v")
    assert "problem    = only the first 64 bytes of the configuration space can be read" in text
    assert "list as root (CAP_SYS_ADMIN)" in text


def test_json_is_what_find_returns(tree: SysfsTree, capsys: pytest.CaptureFixture[str]) -> None:
    populate(tree)
    for arguments, everything in ((["--json"], False), (["--json", "--all"], True)):
        found = vioblk.find(everything=everything)
        assert found
        expected = json.loads(json.dumps([device.as_dict() for device in found]))
        assert json.loads(listed(capsys, *arguments)) == expected


def test_a_machine_without_virtio_devices_is_no_error(
    tree: SysfsTree, capsys: pytest.CaptureFixture[str]
) -> None:
    tree.add("0000:00:00.0", dump_bytes("host_bridge"))
    assert listed(capsys) == "no virtio PCI device among 1 PCI function\n"
    assert json.loads(listed(capsys, "--json")) == []


def test_a_machine_without_a_pci_bus_is_no_error(
    tree: SysfsTree, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["list"]) == 0
    out, err = capsys.readouterr()
    assert out == "no virtio PCI device among 0 PCI functions\n"
    assert err.startswith("vioblk: there is no PCI bus to be seen here: ")
    assert err.count("\n") == 1


def test_names_are_shown_as_they_are(tree: SysfsTree, capsys: pytest.CaptureFixture[str]) -> None:
    tree.add(
        "0000:00:05.0", dump_bytes("modern_1042"), resource=MODERN_RESOURCE, driver="[red]x[bold]"
    )
    assert "[red]x[bold]" in listed(capsys)
    text = listed(capsys, "-v")
    assert "in use by the kernel ([red]x[bold])" in text
    assert "[red]x[bold]0@pci0:0:5:0" in text


def test_this_machine_can_be_listed() -> None:
    for arguments in ([], ["-v", "--all"]):
        outcome = command("list", *arguments)
        assert outcome.status == 0
        assert outcome.out
        assert bool(outcome.err) == (not Path("/sys/bus/pci/devices").is_dir())


def test_a_qemu_shows_its_disk_as_pciconf_did(
    image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = (
        f"qemu:{image}?machine=pc&interface=legacy&withhold=discard,write_zeroes"
        "&io_address=0xc300&memory_address=0xf2060000"
    )
    lines = listed(capsys, "-v", address).splitlines()
    assert lines[0] == (
        "none0@pci0:0:5:0: class=0x010000 card=0x00021af4 chip=0x10011af4 rev=0x00 hdr=0x00"
    )
    for line in (
        "device     = 'Virtio block' (legacy)",
        "bar   [10] = type I/O port, range 32, base 0xc300, size 64, enabled",
        "bar   [14] = type memory, range 32, base 0xf2060000, size 4096, enabled",
    ):
        assert f"    {line}" in lines
    assert "not usable = no virtio device: device ID 0x1110: ivshmem" in "".join(lines)


def test_an_address_is_listed_with_the_options_that_it_is_opened_with(
    capsys: pytest.CaptureFixture[str],
) -> None:
    address = "qemu:null:1M?timeout_s=3&ring_size=16&event_idx=off&packed=on"
    (found,) = json.loads(listed(capsys, "--json", address))
    assert found["open_with"] == address
    assert run(["list", "qemu:null:1M?ring_sise=16"]) == 1
    assert "ring_size" in capsys.readouterr().err


def test_a_qemu_that_does_not_start_is_one_clear_line() -> None:
    assert "/nowhere/disk.img" in fails("list", "qemu:/nowhere/disk.img")


def test_an_address_without_a_pci_bus_is_one_clear_line() -> None:
    assert "mem:1M: there is no PCI bus behind it" in fails("list", "mem:1M")


OPENED = """
import os, sys
from vioblk.cli.app import run

outside = []

def watch(event, arguments):
    if event == "open" and os.fsdecode(arguments[0]).startswith("/dev/"):
        outside.append(os.fsdecode(arguments[0]))

sys.addaudithook(watch)
assert run(["list", "-v", "--all"]) == 0
assert outside == [], outside
"""


def test_listing_this_machine_opens_nothing_in_dev() -> None:
    subprocess.run([sys.executable, "-c", OPENED], check=True, timeout=60)


def test_notes_need_no_standard_error(
    tree: SysfsTree, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert run(["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_the_page_lists_the_keys() -> None:
    page = Path(__file__).resolve().parents[2] / "docs/find-devices.md"
    table = page.read_text(encoding="utf-8").partition("## The keys of `--json`")[2]
    keys = {
        key
        for line in table.splitlines()
        if line.startswith("| `")
        for key in re.findall("`(\\w+)`", line.split("|")[1])
    }
    (device,) = vioblk.find("qemu:null:1M")
    assert keys == set(device.as_dict())
