"""The names of the device types (VIRTIO 1.4, 5 Device Types)."""

from types import MappingProxyType
from typing import Final

NETWORK: Final = 1
BLOCK: Final = 2
ENTROPY: Final = 4

DEVICE_TYPES: Final = MappingProxyType(
    {
        1: "network",
        2: "block",
        3: "console",
        4: "entropy source",
        5: "memory balloon (traditional)",
        6: "ioMemory",
        7: "rpmsg",
        8: "SCSI host",
        9: "9P transport",
        10: "mac80211 wlan",
        11: "rproc serial",
        12: "CAIF",
        13: "memory balloon",
        16: "GPU",
        17: "RTC",
        18: "input",
        19: "socket",
        20: "crypto",
        21: "signal distribution module",
        22: "pstore",
        23: "IOMMU",
        24: "memory",
        25: "sound",
        26: "file system",
        27: "PMEM",
        28: "RPMB",
        29: "mac80211 hwsim",
        30: "video encoder",
        31: "video decoder",
        32: "SCMI",
        33: "NitroSecureModule",
        34: "I2C adapter",
        35: "watchdog",
        36: "CAN",
        38: "parameter server",
        39: "audio policy",
        40: "Bluetooth",
        41: "GPIO",
        42: "RDMA",
        43: "camera",
        44: "ISM",
        45: "SPI controller",
        46: "TEE",
        47: "CPU balloon",
        48: "media",
        49: "USB controller",
    }
)
"""Virtio device ID to name. 0 is reserved (invalid); numbers left out are not assigned."""


def device_type_name(device_type: int) -> str:
    """The name of a type; for a number that VIRTIO 1.4 does not name, one that says so."""
    return DEVICE_TYPES.get(device_type, f"unknown type {device_type}")
