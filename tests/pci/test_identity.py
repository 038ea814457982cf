"""Which virtio device a function is."""

import pytest

from tests.clauses import clause
from tests.pci.spaces import endpoint, recorded
from vioblk.device_types import DEVICE_TYPES
from vioblk.pci.access import ConfigSpace
from vioblk.pci.header import BRIDGE, read_header
from vioblk.pci.identity import Identity, NotVirtio, identify

BLOCK = Identity(device_type=2, type_name="block", transitional=True)
MODERN_BLOCK = Identity(device_type=2, type_name="block", transitional=False)


def identity_of(config: ConfigSpace) -> Identity | NotVirtio:
    header = read_header(config)
    assert header is not None
    return identify(header)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("legacy_1001", BLOCK),
        ("transitional_1001", BLOCK),
        ("modern_1042", MODERN_BLOCK),
        ("q35_behind_root_port", MODERN_BLOCK),
        ("rng", Identity(4, "entropy source", transitional=True)),
    ],
)
def test_recorded_devices_are_known(name: str, expected: Identity) -> None:
    assert identity_of(recorded(name)) == expected


@clause("PCI-DISC-01")
@pytest.mark.parametrize("device_type", range(1, 0x40))
def test_a_modern_id_is_0x1040_and_the_type(device_type: int) -> None:
    name = DEVICE_TYPES.get(device_type, f"unknown type {device_type}")
    expected = Identity(device_type, name, transitional=False)
    assert identity_of(endpoint(device=0x1040 + device_type)) == expected


@clause("PCI-DISC-02")
@pytest.mark.parametrize(
    ("device", "device_type"),
    [(0x1000, 1), (0x1001, 2), (0x1002, 5), (0x1003, 3), (0x1004, 8), (0x1005, 4), (0x1009, 9)],
)
def test_a_transitional_id_is_that_of_the_table(device: int, device_type: int) -> None:
    found = identity_of(endpoint(device=device, subsystem=device_type, revision=0))
    assert found == Identity(device_type, DEVICE_TYPES[device_type], transitional=True)
    assert isinstance(found, Identity)
    assert found.kind == "transitional"


@clause("PCI-DISC-03")
@pytest.mark.parametrize("device", [0x1001, 0x1042])
def test_every_revision_matches(device: int) -> None:
    found = {identity_of(endpoint(device=device, revision=revision)) for revision in range(256)}
    assert found == {BLOCK if device == 0x1001 else MODERN_BLOCK}


@clause("PCI-DISC-04")
@pytest.mark.parametrize("device", [0x1001, 0x1042])
def test_every_subsystem_matches(device: int) -> None:
    space = endpoint(device=device)
    found = set()
    for subsystem in (0, 1, 2, 0x3F, 0x40, 0x1100, 0xFFFF):
        for vendor in (0, 0x1AF4, 0x8086, 0xFFFF):
            space.data[0x2C:0x30] = (subsystem << 16 | vendor).to_bytes(4, "little")
            found.add(identity_of(space))
    assert found == {BLOCK if device == 0x1001 else MODERN_BLOCK}


@pytest.mark.parametrize(("subsystem", "device_type"), [(16, 16), (18, 18), (63, 63)])
def test_other_transitional_ids_have_the_type_in_the_subsystem_id(
    subsystem: int, device_type: int
) -> None:
    found = identity_of(endpoint(device=0x1012, subsystem=subsystem))
    assert isinstance(found, Identity)
    assert (found.device_type, found.transitional) == (device_type, True)


@pytest.mark.parametrize("subsystem", [0, 0x40, 0x1100])
def test_without_one_there_it_is_no_device(subsystem: int) -> None:
    found = identity_of(endpoint(device=0x103F, subsystem=subsystem))
    assert found == NotVirtio(
        f"transitional device ID 0x103f is not assigned, and subsystem ID {subsystem:#06x} is no "
        "device type"
    )


@pytest.mark.parametrize(
    ("vendor", "device", "reason"),
    [
        (0x8086, 0x1042, "vendor 0x8086 is not 0x1af4"),
        (0x1B36, 0x000C, "vendor 0x1b36 is not 0x1af4"),
        (0x1AF4, 0x1110, "device ID 0x1110: ivshmem, which is no virtio device"),
        (0x1AF4, 0x0FFF, "device ID 0x0fff: the range of virtio is 0x1000 to 0x107f"),
        (0x1AF4, 0x1080, "device ID 0x1080: the range of virtio is 0x1000 to 0x107f"),
        (0x1AF4, 0x1040, "device ID 0x1040 names no device type"),
    ],
)
def test_what_is_no_virtio_device_says_why(vendor: int, device: int, reason: str) -> None:
    assert identity_of(endpoint(vendor=vendor, device=device)) == NotVirtio(reason)


def test_an_ivshmem_device_is_not_taken_for_virtio() -> None:
    assert isinstance(identity_of(recorded("ivshmem_1110")), NotVirtio)


def test_a_bridge_with_a_virtio_id_is_none() -> None:
    assert identity_of(endpoint(header_type=BRIDGE)) == NotVirtio(
        "device ID 0x1042, but its header is of type 0x01, not an endpoint's"
    )
