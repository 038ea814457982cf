"""Each feature of the ring is switched from the address, with and without a PCI bus."""

from pathlib import Path
from typing import Final, Literal

import pytest

import vioblk
from tests.support.pairs import Case, in_pairs
from tests.support.transports import software_transport
from vioblk.block.request import REQUEST_RECORD, RequestType
from vioblk.features import Feature

SWITCHES: Final = {
    "event_idx": Feature.EVENT_IDX,
    "indirect": Feature.INDIRECT_DESC,
    "packed": Feature.RING_PACKED,
    "in_order": Feature.IN_ORDER,
    "notification_data": Feature.NOTIFICATION_DATA,
    "notif_config_data": Feature.NOTIF_CONFIG_DATA,
    "ring_reset": Feature.RING_RESET,
}

OFFERED_ANYWAY: Final = frozenset({"event_idx", "indirect"})

OF_REGISTERS: Final = frozenset({"notification_data", "notif_config_data"})
"""Without registers there is nothing that they could be about."""

DATA_BYTES: Final = 64 << 10
REQUESTS: Final = 1000


def can_be(case: Case) -> bool:
    """Whether all that is switched on can be had."""
    has_registers = case["bus"] == "pci" or not any(case[name] == "on" for name in OF_REGISTERS)
    return has_registers and (case["ring"] == "native" or case["event_idx"] != "on")


CASES: Final = in_pairs(
    {
        "scheme": ("mem", "file"),
        "bus": ("none", "pci"),
        "ring": ("native", "reference"),
        **dict.fromkeys(SWITCHES, ("on", "off", "auto")),
    },
    can_be,
)


def address_of(case: Case, directory: Path) -> str:
    target = "1M"
    if case["scheme"] == "file":
        image = directory / "disk.img"
        image.write_bytes(bytes(1 << 20))
        target = str(image)
    options = "&".join(f"{name}={case[name]}" for name in ("bus", *SWITCHES))
    return f"{case['scheme']}:{target}?{options}&queue_size=64"


def expected_of(case: Case) -> set[Feature]:
    """What driver and device agree on."""
    accepted = {
        bit
        for name, bit in SWITCHES.items()
        if case[name] == "on" or (case[name] == "auto" and name in OFFERED_ANYWAY)
    }
    # Python has no fence between an index and an event.
    return accepted - {Feature.EVENT_IDX} if case["ring"] == "reference" else accepted


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(case.values()))
def test_what_the_address_says_of_features_is_negotiated_and_works(
    case: Case, tmp_path: Path
) -> None:
    ring: Literal["native", "reference"] = "native" if case["ring"] == "native" else "reference"
    pattern = bytes(range(256)) * (DATA_BYTES // 256)
    with vioblk.open(address_of(case, tmp_path), ring=ring) as disk:
        accepted = disk.info.accepted
        assert {bit for bit in SWITCHES.values() if bit in accepted} == expected_of(case)
        # More than a lap.
        for offset in range(0, 1 << 20, DATA_BYTES):
            assert disk.write(offset, pattern) == DATA_BYTES
        disk.flush()
        assert disk.read(3 * DATA_BYTES, DATA_BYTES) == pattern
        seen = software_transport(disk).device.counters()
        assert (seen["indirect_chains"] > 0) is (Feature.INDIRECT_DESC in accepted)
        assert seen["completions"] == seen["chains"] >= seen["used_elements"] > 0
        assert (seen["failed_requests"], seen["bad_chains"]) == (0, 0)


@pytest.mark.parametrize("name", sorted(OF_REGISTERS))
@pytest.mark.parametrize("scheme", ["mem", "file"])
def test_what_needs_registers_is_refused_without_them(
    name: str, scheme: str, tmp_path: Path
) -> None:
    case = {"scheme": scheme, "bus": "none", **dict.fromkeys(SWITCHES, "auto"), name: "on"}
    with pytest.raises(vioblk.NegotiationError, match=f"{name} is forced on but cannot be"):
        vioblk.open(address_of(case, tmp_path))


@pytest.mark.parametrize("packed", ["on", "off"])
@pytest.mark.parametrize("bus", ["none", "pci"])
def test_in_order_a_batch_is_given_back_with_fewer_used_elements(packed: str, bus: str) -> None:
    address = f"mem:1M?bus={bus}&packed={packed}&in_order=on&queue_size=64"
    with vioblk.open(address) as disk:
        device = software_transport(disk).device
        region = disk.alloc(512)
        batch = b"".join(
            REQUEST_RECORD.pack(RequestType.IN, 0, i, 0, 512, region.handle, i)
            for i in range(REQUESTS)
        )
        device.reset_counters()
        disk.execute(batch, bytearray(REQUESTS))
        seen = device.counters()
        assert seen["completions"] == REQUESTS
        assert seen["used_elements"] < REQUESTS / 2
