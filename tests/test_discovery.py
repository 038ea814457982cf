"""Finding PCI devices through sysfs: what is told of each, and why it cannot be opened."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

import vioblk
from tests.pci.spaces import chained, endpoint, virtio_cap
from tests.support.sysfs_tree import (
    LEGACY_RESOURCE,
    MODERN_RESOURCE,
    TRANSITIONAL_RESOURCE,
    SysfsTree,
    dump_bytes,
)
from vioblk.device_types import DEVICE_TYPES
from vioblk.discovery import FoundDevice, KernelUse, Scan, scan, scan_sysfs, sysfs
from vioblk.discovery.describe import AS_ROOT, NO_WAY, TRUNCATED
from vioblk.pci.bars import Bar, read_bars
from vioblk.pci.sources import SysfsConfig

NOBODY = 65534

PAGE = Path(__file__).resolve().parents[1] / "docs/find-devices.md"

DRIVERS = {2: "block", 4: "entropy"}

COMMON, NOTIFY, ISR = (
    virtio_cap(1, length=0x38),
    virtio_cap(2, offset=0x3000, extra=(4).to_bytes(4, "little")),
    virtio_cap(3, offset=0x1000, length=1),
)


@pytest.fixture
def tree(tmp_path: Path) -> SysfsTree:
    return SysfsTree(tmp_path / "sys")


def look_at(tree: SysfsTree) -> Scan:
    return scan_sysfs(tree.root, DRIVERS)


def only(tree: SysfsTree) -> FoundDevice:
    """The one function that is there, read without any difficulty."""
    devices, notes = look_at(tree)
    assert notes == []
    (device,) = devices
    return device


def test_a_disk_of_the_kernel_is_named_and_left_to_it(tree: SysfsTree) -> None:
    function = tree.add(
        "0000:00:05.0",
        dump_bytes("legacy_1001"),
        resource=LEGACY_RESOURCE,
        driver="virtio-pci",
        group=7,
    )
    tree.add_virtio(function, 2, "virtio_blk", block_names=["vda"])
    found = only(tree)
    assert found.address == "0000:00:05.0"
    assert (found.vendor_id, found.device_id) == (0x1AF4, 0x1001)
    assert (found.subsystem_vendor_id, found.subsystem_id) == (0x1AF4, 2)
    assert (found.class_code, found.revision_id) == (0x010000, 0)
    assert (found.device_type, found.type_name, found.interface) == (2, "block", "legacy")
    assert found.kernel == KernelUse("virtio-pci", "virtio_blk", ("vda",), 7)
    assert found.open_with is None
    assert found.reason == "in use by the kernel (virtio-pci, virtio_blk: /dev/vda)"
    assert found.advice is not None
    assert "file:/dev/vda, while nothing of it is mounted" in found.advice
    assert found.problems == ()


def test_lengths_of_bars_are_those_that_the_kernel_found(tree: SysfsTree) -> None:
    tree.add("0000:00:05.0", dump_bytes("legacy_1001"), resource=LEGACY_RESOURCE)
    assert only(tree).bars == (
        Bar(0, "io", 32, False, 0xC300, 0x40),
        Bar(1, "memory", 32, False, 0xF2060000, 0x1000),
    )


@pytest.mark.parametrize(
    ("dump", "resource", "interface"),
    [
        ("legacy_1001", LEGACY_RESOURCE, "legacy"),
        ("transitional_1001", TRANSITIONAL_RESOURCE, "transitional"),
        ("modern_1042", MODERN_RESOURCE, "modern"),
    ],
)
def test_the_interface_is_told_by_ids_and_capabilities(
    tree: SysfsTree, dump: str, resource: list[tuple[int, int, int]], interface: str
) -> None:
    tree.add("0000:00:05.0", dump_bytes(dump), resource=resource)
    found = only(tree)
    assert found.interface == interface
    assert found.structures.present == (interface != "legacy")


def test_functions_are_in_the_order_of_their_addresses(tree: SysfsTree) -> None:
    places = ["10000:00:01.0", "0000:0a:00.0", "0000:00:1f.2", "0000:00:03.0", "0000:00:1f.1"]
    for place in places:
        tree.add(place, dump_bytes("host_bridge"))
    (tree.add_bus() / "no-function").mkdir()
    found = [device.address for device in look_at(tree).devices]
    assert found == [
        "0000:00:03.0", "0000:00:1f.1", "0000:00:1f.2", "0000:0a:00.0", "10000:00:01.0"
    ]  # fmt: skip


def test_every_type_is_named_and_only_those_with_a_driver_can_be_opened(tree: SysfsTree) -> None:
    for device_type in DEVICE_TYPES:
        space = endpoint(device=0x1040 + device_type, capabilities=chained(COMMON, NOTIFY, ISR))
        space.add_bar(4, 0x4000, address=0xE0000000)
        tree.add(f"0000:{device_type:02x}:00.0", bytes(space.data), resource=MODERN_RESOURCE)
    found, notes = look_at(tree)
    assert notes == []
    assert {device.device_type: device.type_name for device in found} == DEVICE_TYPES
    for device in found:
        assert device.open_with is None
        assert device.reason is not None
        if device.device_type in DRIVERS:
            assert device.reason == NO_WAY
        else:
            name = f"type {device.device_type}, {device.type_name}"
            assert device.reason == f"no driver in this package for {name}"
            assert device.advice == "it has drivers for block, entropy"


UNUSABLE: Final = [
    (dump_bytes("host_bridge"), [], "no virtio device: vendor 0x8086 is not 0x1af4"),
    (dump_bytes("ivshmem_1110"), [], "no virtio device: device ID 0x1110: ivshmem"),
    (bytes(endpoint(device=0x1080).data), [], "no virtio device: device ID 0x1080"),
    (bytes(endpoint(device=0x107F).data), [], "type 63 is not one that VIRTIO 1.4 defines"),
    (
        bytes(endpoint().data),
        MODERN_RESOURCE,
        "no usable modern interface: there is no virtio capability",
    ),
    (
        bytes(endpoint(capabilities=chained(COMMON, NOTIFY)).data),
        MODERN_RESOURCE,
        "no usable modern interface: no usable ISR status",
    ),
    (
        bytes(endpoint(capabilities=chained(COMMON, NOTIFY, virtio_cap(3, offset=0x4000))).data),
        MODERN_RESOURCE,
        "do not lie in BAR 4, which has 0x4000",
    ),
    (
        bytes(endpoint(device=0x1001, subsystem=2, revision=0).data),
        MODERN_RESOURCE,
        "and no legacy one: BAR 0 is no I/O BAR",
    ),
    (
        bytes(endpoint(device=0x1001, capabilities=chained(COMMON, NOTIFY)).data),
        TRANSITIONAL_RESOURCE,
        "no usable modern interface: no usable ISR status",
    ),
    (dump_bytes("modern_1042"), MODERN_RESOURCE, NO_WAY),
]


@pytest.mark.parametrize(("config", "resource", "reason"), UNUSABLE)
def test_whatever_is_not_usable_says_why(
    tree: SysfsTree, config: bytes, resource: list[tuple[int, int, int]], reason: str
) -> None:
    tree.add("0000:00:05.0", config, resource=resource)
    found = only(tree)
    assert found.open_with is None
    assert found.reason is not None
    assert reason in found.reason


def test_the_page_explains_every_reason(tree: SysfsTree) -> None:
    for index, (config, resource, _) in enumerate(UNUSABLE):
        tree.add(f"0000:00:{index:02x}.0", config, resource=resource)
    config = dump_bytes("modern_1042")
    tree.add("0000:01:00.0", config, driver="virtio-pci")
    tree.add("0000:01:01.0", config, driver="vfio-pci")
    tree.add("0000:01:02.0", bytes(endpoint(device=0x1041).data))
    tree.add("0000:01:03.0", b"\xff" * 256, ids_from=config)
    make_unreadable(tree.add("0000:01:04.0", config) / "config")
    told = {device.reason for device in look_at(tree).devices}
    page = PAGE.read_text(encoding="utf-8").partition("## Why a device cannot be opened")[2]
    rows = re.findall(r"^\| (?!reason)([a-z][^|]*) \|", page.partition("\n## ")[0], re.MULTILINE)
    patterns = [re.escape(row).replace("N", r"\d+") for row in rows]
    assert [row for row in told if not any(re.match(each, row or "") for each in patterns)] == []
    assert [each for each in patterns if not any(re.match(each, row or "") for row in told)] == []


@pytest.mark.parametrize(
    ("driver", "virtio_driver", "reason"),
    [
        ("virtio-pci", "virtio_blk", "in use by the kernel (virtio-pci, virtio_blk)"),
        ("virtio-pci", None, "in use by the kernel (virtio-pci)"),
        ("pci-stub", None, "in use by the kernel (pci-stub)"),
        ("vfio-pci", None, "kept for VFIO (vfio-pci), which this version does not have"),
    ],
)
def test_a_driver_of_the_kernel_is_named(
    tree: SysfsTree, driver: str, virtio_driver: str | None, reason: str
) -> None:
    function = tree.add(
        "0000:00:05.0", dump_bytes("modern_1042"), resource=MODERN_RESOURCE, driver=driver
    )
    if virtio_driver:
        tree.add_virtio(function, 0, virtio_driver)
    assert only(tree).reason == reason


def test_a_disk_with_several_block_devices_names_them_all(tree: SysfsTree) -> None:
    function = tree.add(
        "0000:00:05.0", dump_bytes("modern_1042"), resource=MODERN_RESOURCE, driver="virtio-pci"
    )
    tree.add_virtio(function, 11, "virtio_blk", block_names=["vdb", "vda"])
    found = only(tree)
    assert found.reason is not None
    assert "/dev/vda, /dev/vdb" in found.reason
    assert found.advice is not None
    assert "file:/dev/vda or file:/dev/vdb" in found.advice


def test_an_unprivileged_reader_is_told_what_is_hidden_and_how_to_see_it(tree: SysfsTree) -> None:
    config = dump_bytes("modern_1042")
    tree.add("0000:00:05.0", config[:64], resource=MODERN_RESOURCE)
    found = only(tree)
    assert (found.type_name, found.interface) == ("block", "modern")
    assert found.capabilities.capabilities == ()
    assert found.bars[1].length == 0x4000
    assert found.problems == (f"{TRUNCATED}; {AS_ROOT}",)
    assert found.reason == NO_WAY


def test_without_a_pci_bus_there_is_nothing_and_a_note(tree: SysfsTree) -> None:
    devices, (note,) = look_at(tree)
    assert devices == []
    assert "no PCI bus" in note
    assert str(tree.root / "bus/pci/devices") in note
    tree.add_bus()
    assert look_at(tree) == ([], [])


def test_a_function_that_was_unplugged_is_left_out(tree: SysfsTree) -> None:
    directory = tree.add("0000:00:04.0", dump_bytes("modern_1042"))
    tree.add("0000:00:05.0", dump_bytes("modern_1042"), resource=MODERN_RESOURCE)
    shutil.rmtree(directory)
    assert only(tree).address == "0000:00:05.0"


def test_a_function_may_be_unplugged_while_it_is_read(
    tree: SysfsTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tree.add("0000:00:04.0", dump_bytes("modern_1042"), resource=MODERN_RESOURCE)
    tree.add("0000:00:05.0", dump_bytes("modern_1042"), resource=MODERN_RESOURCE)
    real_read = SysfsConfig.read

    def read(config: SysfsConfig, offset: int, width: int) -> int:
        if offset >= 0x40 and directory.exists():
            shutil.rmtree(directory)
            raise OSError(19, "No such device")
        return real_read(config, offset, width)

    monkeypatch.setattr(SysfsConfig, "read", read)
    assert only(tree).address == "0000:00:05.0"
    assert not directory.exists()


def make_unreadable(path: Path) -> None:
    """So that root cannot read it either."""
    path.unlink()
    path.mkdir()


def test_a_function_whose_space_cannot_be_read_is_told_by_what_the_kernel_knows(
    tree: SysfsTree,
) -> None:
    directory = tree.add("0000:00:05.0", dump_bytes("modern_1042"), resource=MODERN_RESOURCE)
    make_unreadable(directory / "config")
    found = only(tree)
    assert (found.header.chip, found.header.card) == (0x10421AF4, 0x11001AF4)
    assert (found.class_code, found.revision_id, found.type_name) == (0x010000, 1, "block")
    assert found.bars[1].length == 0x4000
    assert found.interface is None
    assert found.reason == "its configuration space cannot be read: Is a directory"
    assert found.problems == (found.reason,)


def test_a_function_that_answers_with_all_ones_is_said_to_be_silent(tree: SysfsTree) -> None:
    tree.add("0000:00:05.0", b"\xff" * 256, ids_from=dump_bytes("modern_1042"))
    found = only(tree)
    assert found.type_name == "block"
    assert found.reason == sysfs.SILENT


def test_a_virtual_function_has_the_ids_that_the_kernel_knows(tree: SysfsTree) -> None:
    config = dump_bytes("modern_1042")
    tree.add("0000:00:05.1", b"\xff" * 4 + config[4:], resource=MODERN_RESOURCE, ids_from=config)
    found = only(tree)
    assert (found.type_name, found.interface) == ("block", "modern")
    assert found.reason == NO_WAY
    assert found.structures.why_not_modern() is None


@pytest.mark.parametrize("content", ["", "virtio", "0x11af4"])
def test_a_function_of_which_nothing_makes_sense_is_a_note(tree: SysfsTree, content: str) -> None:
    directory = tree.add("0000:00:04.0", b"\xff" * 256)
    (directory / "vendor").write_text(content)
    tree.add("0000:00:05.0", dump_bytes("modern_1042"))
    (device,), (note,) = look_at(tree)
    assert device.address == "0000:00:05.0"
    assert note.startswith("0000:00:04.0 cannot be read: ")
    assert "vendor holds no number of 2 bytes" in note


def test_without_lengths_the_bars_are_those_of_the_header(tree: SysfsTree) -> None:
    directory = tree.add("0000:00:05.0", dump_bytes("legacy_1001"), resource=LEGACY_RESOURCE)
    make_unreadable(directory / "resource")
    found = only(tree)
    assert [(bar.index, bar.address, bar.length) for bar in found.bars] == [
        (0, 0xC300, None),
        (1, 0xF2060000, None),
    ]
    assert found.problems == ("the lengths of the BARs cannot be read (Is a directory)",)


@pytest.mark.parametrize("text", ["", "nonsense\n", "1 2\n3 4 5 6\n", "\udcff\udc80\n"])
def test_no_resource_file_stops_the_scan(tree: SysfsTree, text: str) -> None:
    directory = tree.add("0000:00:05.0", dump_bytes("legacy_1001"))
    (directory / "resource").write_bytes(text.encode(errors="surrogateescape"))
    assert [bar.length for bar in only(tree).bars] == [None, None]


def test_a_device_becomes_json_with_the_documented_keys(tree: SysfsTree) -> None:
    tree.add("0000:00:05.0", dump_bytes("modern_1042"), resource=MODERN_RESOURCE, group=3)
    tree.add("0000:00:07.0", dump_bytes("ivshmem_1110"))
    devices = look_at(tree).devices
    block, other = (json.loads(json.dumps(device.as_dict())) for device in devices)
    assert set(block) == set(other) == {
        "address", "vendor_id", "device_id", "subsystem_vendor_id", "subsystem_id", "class_code",
        "revision_id", "device_type", "type_name", "interface", "kernel_driver", "virtio_driver",
        "block_names", "iommu_group", "open_with", "reason", "advice", "header", "bars",
        "capabilities", "extended_capabilities", "structures", "problems",
    }  # fmt: skip
    assert (block["device_id"], block["iommu_group"], block["type_name"]) == (0x1042, 3, "block")
    assert block["bars"][0]["length"] == 0x1000
    assert block["capabilities"][0]["name"] == "MSI-X"
    assert block["structures"]["notify"][0]["multiplier"] == 4
    assert other["type_name"] is None


def test_find_leaves_out_what_is_no_virtio_device(
    tree: SysfsTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysfs, "ROOT", tree.root)
    assert vioblk.find() == []
    tree.add("0000:00:00.0", dump_bytes("host_bridge"))
    tree.add("0000:00:05.0", dump_bytes("rng"), resource=TRANSITIONAL_RESOURCE)
    assert [device.type_name for device in vioblk.find()] == ["entropy source"]
    assert len(vioblk.find(everything=True)) == 2


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(1 << 20)
    return path


@pytest.mark.parametrize(
    ("options", "place", "device_id", "interface"),
    [
        ("machine=pc&interface=legacy", "0000:00:05.0", 0x1001, "legacy"),
        ("machine=pc&slot=9", "0000:00:09.0", 0x1001, "transitional"),
        ("machine=pc&interface=modern", "0000:00:05.0", 0x1042, "modern"),
        ("machine=q35", "0000:01:00.0", 0x1042, "modern"),
    ],
)
def test_the_disk_of_a_qemu_is_found_and_opens_with_what_is_said(
    image: Path, options: str, place: str, device_id: int, interface: str
) -> None:
    (found,) = vioblk.find(f"qemu:{image}?{options}")
    assert (found.address, found.device_id) == (place, device_id)
    assert (found.type_name, found.interface) == ("block", interface)
    assert (found.kernel, found.reason, found.problems) == (None, None, ())
    assert all(bar.length for bar in found.bars)
    assert found.open_with is not None
    with vioblk.open(found.open_with) as disk:
        assert disk.capacity_bytes == 1 << 20


def test_any_type_with_a_driver_is_found_behind_an_address() -> None:
    (found,) = vioblk.find("qemu:/dev/urandom?device=rng")
    assert (found.type_name, found.reason) == ("entropy source", None)
    assert found.open_with == "qemu:/dev/urandom?device=rng"


def test_every_function_of_a_qemu_is_there_with_the_reason(image: Path) -> None:
    found = vioblk.find(f"qemu:{image}", everything=True)
    chips = [device.header.chip for device in found]
    assert chips[0] == 0x12378086
    assert chips[-2:] == [0x10011AF4, 0x11101AF4]
    usable = [device.header.chip for device in found if device.reason is None]
    assert usable == [device.header.chip for device in found if device.open_with] == [0x10011AF4]


def test_a_listing_leaves_no_qemu_behind(image: Path) -> None:
    before = children()
    vioblk.find(f"qemu:{image}")
    assert children() == before


def children() -> set[str]:
    """Of this process, by number; those of every thread."""
    lists = Path("/proc/self/task").glob("*/children")
    return {number for each in lists for number in each.read_text().split()}


@pytest.mark.parametrize("access", ["bar", "window"])
def test_the_software_device_on_a_pci_bus_is_found(access: str) -> None:
    (found,) = vioblk.find(f"mem:1M?bus=pci&access={access}&vectors=3")
    assert (found.type_name, found.interface, found.problems) == ("block", "modern", ())
    assert found.capabilities.msix is not None
    assert found.capabilities.msix.vector_count == 3
    assert all(bar.length for bar in found.bars)
    assert found.open_with is not None
    with vioblk.open(found.open_with) as disk:
        assert disk.capacity_bytes == 1 << 20


@pytest.mark.parametrize("address", ["mem:1M", "file:/nowhere/x", "vhost-user:/nowhere.sock"])
def test_an_address_without_a_pci_bus_is_refused(address: str) -> None:
    with pytest.raises(vioblk.AddressError, match="no PCI bus behind"):
        scan(address)


CHILD = """
import json, os, sys
from pathlib import Path
from vioblk.discovery import scan_sysfs

root, user = Path(sys.argv[1]), int(sys.argv[2])
if user:
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
opened, written = set(), set()

def watch(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        opened.add(os.fspath(path))
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND):
            written.add(os.fspath(path))
    elif event.startswith(("os.", "socket.", "subprocess.")) and event not in allowed:
        written.add(event)

allowed = {"os.listdir", "os.scandir"}
sys.addaudithook(watch)
devices, notes = scan_sysfs(root, {2: "block"})
print(json.dumps({
    "devices": [device.as_dict() for device in devices],
    "notes": notes,
    "opened": sorted(opened),
    "written": sorted(written),
}))
"""
"""Drops its privileges after the imports, so that it does not matter who may read them."""


def watched_scan(root: Path, user: int = 0) -> dict[str, Any]:
    """What a scan in a process of its own finds, and all that it opened."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(root), str(user)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_a_scan_only_reads_and_only_below_its_root(tree: SysfsTree) -> None:
    function = tree.add(
        "0000:00:05.0", dump_bytes("modern_1042"), resource=MODERN_RESOURCE, driver="virtio-pci"
    )
    tree.add_virtio(function, 0, "virtio_blk", block_names=["vda"])
    report = watched_scan(tree.root)
    place = tree.root / "bus/pci/devices/0000:00:05.0"
    assert report["opened"] == [str(place / "config"), str(place / "resource")]
    assert report["written"] == []


def true_ids() -> dict[str, tuple[int, int]]:
    """Vendor and device ID of this machine's functions, read in the simplest way."""
    bus = Path("/sys/bus/pci/devices")
    if not bus.is_dir():
        return {}
    return {
        path.name: (
            int((path / "vendor").read_text(), 16),
            int((path / "device").read_text(), 16),
        )
        for path in bus.iterdir()
    }


@pytest.mark.parametrize("user", [0, NOBODY], ids=["as we are", "as nobody"])
def test_this_machine_is_listed_by_reading_sysfs_alone(user: int) -> None:
    if user and os.geteuid() != 0:
        user = 0  # Then this user is unprivileged already.
    report = watched_scan(Path("/sys"), user)
    assert {
        device["address"]: (device["vendor_id"], device["device_id"])
        for device in report["devices"]
    } == true_ids()
    assert bool(report["notes"]) == (not Path("/sys/bus/pci/devices").is_dir())
    assert all(path.startswith("/sys/bus/pci/devices/") for path in report["opened"])
    assert report["written"] == []
    for device in report["devices"]:
        assert device["open_with"] is None
        if user and device["header"]["capabilities_pointer"]:
            assert device["capabilities"] == []
            assert device["problems"] == [f"{TRUNCATED}; {AS_ROOT}"]


def test_the_kernels_bars_are_those_that_the_devices_show() -> None:
    for device in scan().devices:
        known = {bar.index: bar for bar in device.bars}
        with SysfsConfig(f"/sys/bus/pci/devices/{device.address}/config") as config:
            for shown in read_bars(config):
                bar = known[shown.index]
                assert (bar.kind, bar.width_bits) == (shown.kind, shown.width_bits)
                assert bar.length
                assert bar.address % bar.length == 0
