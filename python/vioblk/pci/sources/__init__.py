"""Where configuration space can be read: each is a `vioblk.pci.access.ConfigSpace`."""

from vioblk.pci.sources.dump import DumpConfig, format_dump, parse_dumps
from vioblk.pci.sources.ecam import EcamConfig
from vioblk.pci.sources.file import FileConfig
from vioblk.pci.sources.port_io import ConfigPorts, PortIoConfig
from vioblk.pci.sources.sysfs import SysfsConfig, parse_resource

__all__ = [
    "ConfigPorts",
    "DumpConfig",
    "EcamConfig",
    "FileConfig",
    "PortIoConfig",
    "SysfsConfig",
    "format_dump",
    "parse_dumps",
    "parse_resource",
]
