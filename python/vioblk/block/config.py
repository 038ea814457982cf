"""struct virtio_blk_config as a typed value (VIRTIO 1.4, 5.2.4 Device configuration layout)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from vioblk.block.features import BlockFeature as Bit
from vioblk.block.request import SECTOR_BYTES
from vioblk.config_space import ConfigField

CAPACITY: Final = ConfigField("capacity", 0x00, 8)
WRITEBACK: Final = ConfigField(
    "writeback", 0x20, 1, Bit.CONFIG_WCE, after_features_ok=True, writable=True
)

FIELDS: Final = (
    CAPACITY,
    ConfigField("size_max", 0x08, 4, Bit.SIZE_MAX),
    ConfigField("seg_max", 0x0C, 4, Bit.SEG_MAX),
    ConfigField("cylinders", 0x10, 2, Bit.GEOMETRY),
    ConfigField("heads", 0x12, 1, Bit.GEOMETRY),
    ConfigField("sectors", 0x13, 1, Bit.GEOMETRY),
    ConfigField("blk_size", 0x14, 4, Bit.BLK_SIZE),
    ConfigField("physical_block_exp", 0x18, 1, Bit.TOPOLOGY),
    ConfigField("alignment_offset", 0x19, 1, Bit.TOPOLOGY),
    ConfigField("min_io_size", 0x1A, 2, Bit.TOPOLOGY),
    ConfigField("opt_io_size", 0x1C, 4, Bit.TOPOLOGY),
    WRITEBACK,
    ConfigField("num_queues", 0x22, 2, Bit.MQ),
    ConfigField("max_discard_sectors", 0x24, 4, Bit.DISCARD),
    ConfigField("max_discard_seg", 0x28, 4, Bit.DISCARD),
    ConfigField("discard_sector_alignment", 0x2C, 4, Bit.DISCARD),
    ConfigField("max_write_zeroes_sectors", 0x30, 4, Bit.WRITE_ZEROES),
    ConfigField("max_write_zeroes_seg", 0x34, 4, Bit.WRITE_ZEROES),
    ConfigField("write_zeroes_may_unmap", 0x38, 1, Bit.WRITE_ZEROES),
)
"""What this driver reads. A field stands here with the one feature that it exists with; a
configuration space that ends before a field of a feature that was not negotiated is fine."""

MIN_BLOCK_BYTES: Final = SECTOR_BYTES
MAX_BLOCK_BYTES: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Geometry:
    """Of a disk that still has one."""

    cylinders: int
    heads: int
    sectors: int
    """Per track."""


@dataclass(frozen=True, slots=True)
class Topology:
    """How the disk wants to be used; advice, never a limit. Units are logical blocks."""

    physical_block_exp: int
    """log2 of logical blocks per physical block."""
    alignment_offset: int
    """The first logical block that is aligned to a physical one."""
    min_io_size: int
    """Blocks in the smallest transfer that costs no extra work; 0: not said."""
    opt_io_size: int
    """Blocks in the transfer that the device likes best; 0: not said."""


@dataclass(frozen=True, slots=True)
class DiscardConfig:
    """Limits of discard requests, as the device states them."""

    max_sectors: int
    """In one segment; 0: no limit is stated."""
    max_seg: int
    """Segments in one request."""
    sector_alignment: int
    """Sectors; where to split a long discard."""


@dataclass(frozen=True, slots=True)
class WriteZeroesConfig:
    """Limits of write-zeroes requests, as the device states them."""

    max_sectors: int
    """In one segment; 0: no limit is stated."""
    max_seg: int
    """Segments in one request."""
    may_unmap: bool
    """A write-zeroes with `unmap` may deallocate. It can change at run time."""


@dataclass(frozen=True, slots=True)
class BlockConfig:
    """What the device says of itself; None where the feature of a field was not negotiated."""

    capacity_sectors: int
    size_max: int | None
    """Bytes in one segment of a request; 0: no limit."""
    seg_max: int | None
    """Data segments in one request."""
    geometry: Geometry | None
    block_size: int | None
    """Bytes in a logical block, as stated: advice, and not checked."""
    topology: Topology | None
    writeback: bool | None
    """Whether the cache is volatile. Never read before FEATURES_OK."""
    num_queues: int | None
    discard: DiscardConfig | None
    write_zeroes: WriteZeroesConfig | None

    @property
    def logical_block_bytes(self) -> int:
        """`block_size` if it can be one (a power of two from 512 on), 512 otherwise."""
        stated = self.block_size or 0
        sane = MIN_BLOCK_BYTES <= stated <= MAX_BLOCK_BYTES and stated & (stated - 1) == 0
        return stated if sane else SECTOR_BYTES


class ConfigSource(Protocol):
    """What reading the configuration needs of a device."""

    def has(self, bit: int) -> bool:
        """Whether feature `bit` was accepted."""

    def read_config_fields(self, fields: Sequence[ConfigField]) -> dict[str, int]:
        """One consistent snapshot of `fields`."""


def read_block_config(device: ConfigSource) -> BlockConfig:
    """Read, as one snapshot, every field whose feature was accepted (allowed from FEATURES_OK on).

    Raises TransportError if the configuration is too short for such a field or does not hold
    still.
    """
    present = tuple(each for each in FIELDS if each.feature is None or device.has(each.feature))
    return parse_block_config(device.read_config_fields(present))


def parse_block_config(values: dict[str, int]) -> BlockConfig:
    """Make a BlockConfig of field values by name; groups that are not there become None."""
    writeback = values.get("writeback")
    return BlockConfig(
        capacity_sectors=values["capacity"],
        size_max=values.get("size_max"),
        seg_max=values.get("seg_max"),
        geometry=_geometry(values),
        block_size=values.get("blk_size"),
        topology=_topology(values),
        writeback=None if writeback is None else writeback != 0,
        num_queues=values.get("num_queues"),
        discard=_discard(values),
        write_zeroes=_write_zeroes(values),
    )


def _geometry(values: dict[str, int]) -> Geometry | None:
    if "cylinders" not in values:
        return None
    return Geometry(values["cylinders"], values["heads"], values["sectors"])


def _topology(values: dict[str, int]) -> Topology | None:
    if "physical_block_exp" not in values:
        return None
    return Topology(
        physical_block_exp=values["physical_block_exp"],
        alignment_offset=values["alignment_offset"],
        min_io_size=values["min_io_size"],
        opt_io_size=values["opt_io_size"],
    )


def _discard(values: dict[str, int]) -> DiscardConfig | None:
    if "max_discard_sectors" not in values:
        return None
    return DiscardConfig(
        max_sectors=values["max_discard_sectors"],
        max_seg=values["max_discard_seg"],
        sector_alignment=values["discard_sector_alignment"],
    )


def _write_zeroes(values: dict[str, int]) -> WriteZeroesConfig | None:
    if "max_write_zeroes_sectors" not in values:
        return None
    return WriteZeroesConfig(
        max_sectors=values["max_write_zeroes_sectors"],
        max_seg=values["max_write_zeroes_seg"],
        may_unmap=values["write_zeroes_may_unmap"] != 0,
    )
