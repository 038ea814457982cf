import threading
from collections.abc import Sequence

import pytest

import vioblk
from tests.block.conftest import OpenDisk, OpenRecorded
from tests.clauses import clause
from vioblk.block.config import (
    FIELDS,
    BlockConfig,
    DiscardConfig,
    Geometry,
    Topology,
    WriteZeroesConfig,
    parse_block_config,
    read_block_config,
)
from vioblk.block.features import BlockFeature
from vioblk.config_space import ConfigField
from vioblk.status import Status

# struct virtio_blk_config (VIRTIO 1.4, 5.2.4): every field that the driver reads, in order.
STRUCTURE = {
    "capacity": (0, 8),
    "size_max": (8, 4),
    "seg_max": (12, 4),
    "cylinders": (16, 2),
    "heads": (18, 1),
    "sectors": (19, 1),
    "blk_size": (20, 4),
    "physical_block_exp": (24, 1),
    "alignment_offset": (25, 1),
    "min_io_size": (26, 2),
    "opt_io_size": (28, 4),
    "writeback": (32, 1),
    "num_queues": (34, 2),
    "max_discard_sectors": (36, 4),
    "max_discard_seg": (40, 4),
    "discard_sector_alignment": (44, 4),
    "max_write_zeroes_sectors": (48, 4),
    "max_write_zeroes_seg": (52, 4),
    "write_zeroes_may_unmap": (56, 1),
}


class FakeDevice:
    """A configuration whose fields hold the numbers 1, 2, 3..."""

    def __init__(self, accepted: frozenset[int]) -> None:
        self.accepted = accepted
        self.read: list[str] = []

    def has(self, bit: int) -> bool:
        return bit in self.accepted

    def read_config_fields(self, fields: Sequence[ConfigField]) -> dict[str, int]:
        self.read += [field.name for field in fields]
        return {field.name: 1 + list(STRUCTURE).index(field.name) for field in fields}


def test_every_field_stands_where_the_specification_puts_it() -> None:
    assert {each.name: (each.offset, each.width) for each in FIELDS} == STRUCTURE


def test_all_fields_are_parsed_into_their_groups() -> None:
    device = FakeDevice(frozenset(BlockFeature))
    assert read_block_config(device) == BlockConfig(
        capacity_sectors=1,
        size_max=2,
        seg_max=3,
        geometry=Geometry(4, 5, 6),
        block_size=7,
        topology=Topology(8, 9, 10, 11),
        writeback=True,
        num_queues=13,
        discard=DiscardConfig(14, 15, 16),
        write_zeroes=WriteZeroesConfig(17, 18, may_unmap=True),
    )


@pytest.mark.parametrize("feature", list(BlockFeature))
def test_a_field_is_read_only_with_its_feature(feature: BlockFeature) -> None:
    device = FakeDevice(frozenset({feature}))
    read_block_config(device)
    own = [each.name for each in FIELDS if each.feature == feature]
    assert sorted(device.read) == sorted(["capacity", *own])


def test_without_features_only_the_capacity_is_known() -> None:
    config = parse_block_config({"capacity": 2048})
    assert config == BlockConfig(2048, *[None] * 9)
    assert config.logical_block_bytes == 512


@pytest.mark.parametrize(
    ("stated", "used"),
    [(512, 512), (4096, 4096), (0, 512), (1000, 512), (256, 512), (3 << 20, 512)],
)
def test_an_impossible_block_size_is_advice_not_taken(stated: int, used: int) -> None:
    assert parse_block_config({"capacity": 8, "blk_size": stated}).logical_block_bytes == used


def test_bit_10_is_topology_and_not_a_transfer_limit(open_disk: OpenDisk) -> None:
    plain = open_disk("mem:1M?withhold=topology")
    with_topology = open_disk("mem:1M")
    assert int(BlockFeature.TOPOLOGY) == 10
    assert plain.topology is None
    assert isinstance(with_topology.topology, Topology)
    assert with_topology.limits == plain.limits


def test_attaching_needs_no_geometry(open_disk: OpenDisk) -> None:
    disk = open_disk("mem:1M?withhold=geometry")
    assert disk.geometry is None
    assert disk.write(0, bytes(512)) == 512


def test_a_disk_with_geometry_shows_it(open_disk: OpenDisk) -> None:
    assert isinstance(open_disk("mem:1M").geometry, Geometry)


@clause("BLK-INIT-04")
def test_writeback_is_not_read_before_features_ok(open_recorded: OpenRecorded) -> None:
    disk, transport = open_recorded("mem:1M")
    reads = [each for each in transport.config_reads if each.offset == STRUCTURE["writeback"][0]]
    assert reads, "the device offers CONFIG_WCE, so the field was to be read"
    assert all(each.status & Status.FEATURES_OK for each in reads)
    assert disk.writeback in (False, True)


@clause("BLK-CAP-01")
def test_a_resized_disk_is_noticed_and_reported(ring: str) -> None:
    changed = threading.Event()
    seen: list[BlockConfig] = []

    def remember(config: BlockConfig) -> None:
        seen.append(config)
        changed.set()

    with vioblk.open("mem:1M", ring=ring, on_config_change=remember) as disk:
        disk.device.transport.device.resize(4096)  # type: ignore[attr-defined]
        assert changed.wait(30)
        assert disk.capacity_bytes == 4096 * 512
        assert seen[-1].capacity_sectors == 4096
        disk.write((4096 - 1) * 512, bytes(512))


def test_fields_of_declined_features_are_left_out(open_disk: OpenDisk) -> None:
    disk = open_disk("mem:1M", discard=False, write_zeroes="off", blk_size=False)
    assert disk.config.discard is None
    assert disk.config.write_zeroes is None
    assert disk.config.block_size is None
