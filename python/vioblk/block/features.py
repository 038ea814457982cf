"""The feature bits of the block device, made known to the general part."""

from enum import IntEnum
from typing import Final

from vioblk.features import register_type_features

BLOCK_DEVICE_TYPE: Final = 2
"""Device ID of a block device (VIRTIO 1.4, 5 Device Types)."""


class BlockFeature(IntEnum):
    """Feature bits of the block device (VIRTIO 1.4, 5.2.3 Feature bits)."""

    BARRIER = 0
    SIZE_MAX = 1
    SEG_MAX = 2
    GEOMETRY = 4
    RO = 5
    BLK_SIZE = 6
    SCSI = 7
    FLUSH = 9
    TOPOLOGY = 10
    CONFIG_WCE = 11
    MQ = 12
    DISCARD = 13
    WRITE_ZEROES = 14
    LIFETIME = 15
    SECURE_ERASE = 16
    ZONED = 17


LEGACY_ONLY: Final = frozenset({BlockFeature.BARRIER, BlockFeature.SCSI})
"""They mean something only on the legacy interface (VIRTIO 1.4, 5.2.3.1 Legacy Interface: Feature
bits)."""

register_type_features(BLOCK_DEVICE_TYPE, BlockFeature, legacy_only=LEGACY_ONLY)
