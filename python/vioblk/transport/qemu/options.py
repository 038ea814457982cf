"""The options of `qemu:` addresses, and what they make of a machine."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from vioblk.address import (
    Address,
    Option,
    choice,
    feature_list,
    flag,
    integer,
    parse_size,
    seconds,
    text,
)
from vioblk.block.features import BLOCK_DEVICE_TYPE, BlockFeature
from vioblk.errors import AddressError, NegotiationError
from vioblk.features import Feature, feature_name
from vioblk.pci.choose import Access, Interface
from vioblk.transport.pci.interrupts import InterruptMode
from vioblk.transport.qemu.chipset import IO_START, MEMORY_START
from vioblk.transport.qemu.faults import ErrorRule, parse_rules
from vioblk.transport.qemu.process import START_TIMEOUT_S
from vioblk.transport.qemu.qtest import REPLY_TIMEOUT_S

MIB: Final = 1 << 20

NULL_PREFIX: Final = "null:"
"""A target that begins so is no file but a size."""

RAM_BYTES: Final = 1 << 30
"""Costs nothing until it is touched."""

RAM_BYTES_MAX: Final = 2 << 30
"""So that all of it is at its own address, with no hole, on both machines."""


OWN_PROPERTIES: Final = frozenset(
    {"id", "bus", "addr", "drive", "rng", "disable-legacy", "disable-modern", "iothread"}
)
"""By these the device is found again."""


def _place(minimum: int, maximum: int, meaning: str) -> Option:
    """An address of the machine, decimal or hexadecimal."""

    def read(value: object) -> int:
        try:
            number = int(value, 0) if isinstance(value, str) else value
        except ValueError:
            number = None
        if not isinstance(number, int) or not minimum <= number <= maximum:
            raise ValueError(f"an address from {minimum:#x} to {maximum:#x}")
        return number

    return Option(read, meaning)


def _argument(meaning: str) -> Option:
    """Text for QEMU's command line."""

    def read(value: object) -> str:
        if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
            raise ValueError("some text")
        if "\0" in str(value):
            raise ValueError("text without a NUL byte")
        return os.fspath(value)

    return Option(read, meaning)


def _read_properties(value: object) -> Mapping[str, str]:
    if not isinstance(value, str):
        raise ValueError("name=value,name=value")
    pairs = [text.partition("=") for text in value.split(",")]
    if not all(name and equals for name, equals, _ in pairs):
        raise ValueError("name=value,name=value")
    taken = sorted(OWN_PROPERTIES & {name for name, _, _ in pairs})
    if taken:
        raise ValueError(f"{', '.join(taken)} cannot be set so: other options decide it")
    return {name: chosen for name, _, chosen in pairs}


OPTIONS: Final[Mapping[str, Option]] = {
    "machine": choice(("pc", "q35"), "pc: an i440FX with a PCI bus; q35: PCI Express; pc"),
    "device": choice(
        ("blk", "rng"),
        "blk: a disk; rng: a source of entropy, and the target is a device such as /dev/urandom; "
        "blk",
    ),
    "interface": choice(
        ("legacy", "modern", "transitional"),
        "what the device has; transitional is both; modern on q35, transitional on pc",
    ),
    "drive": choice(("modern", "legacy"), "which one of a transitional device is used; modern"),
    "access": choice(
        ("auto", "bar", "window"),
        "window: the registers of the modern interface are reached through the configuration "
        "space; bar: directly; auto: directly where that is possible; auto",
    ),
    "interrupts": choice(
        ("auto", "msix", "shared", "config", "intx", "none"),
        "msix: a vector for each queue and one for the configuration; shared: one for all; config: "
        "for the configuration only; intx: the pin; none: the queues are polled; auto: the first "
        "of msix, shared, intx and none that works",
    ),
    "slot": integer(2, 30, "of the device, or of its root port, on the first bus; 5"),
    "root_port": flag(
        "the device is behind a PCI Express root port, which q35 alone has; on for the modern "
        "interface on q35"
    ),
    "num_queues": integer(1, 64, "how many queues the disk has; 1"),
    "queue_size": integer(4, 1024, "the largest size of a queue; 256", power_of_two=True),
    "vectors": integer(
        0, 65, "MSI-X vectors; 0: the device has no MSI-X; one for each queue and one more"
    ),
    "ram": integer(
        16 * MIB, RAM_BYTES_MAX, "bytes of memory, which cost nothing until they are used; 1G"
    ),
    "offer": feature_list(
        "features to switch on, besides what QEMU offers anyhow", BLOCK_DEVICE_TYPE
    ),
    "withhold": feature_list("features to switch off", BLOCK_DEVICE_TYPE),
    "page_per_vq": flag("each queue has its doorbell in a page of its own; off"),
    "modern_pio_notify": flag("the modern interface has doorbells in an I/O BAR as well; off"),
    "format": choice(("raw", "qcow2", "vdi", "vhdx", "vmdk", "vpc"), "of the image; raw"),
    "read_only": flag("the disk refuses to be changed; off"),
    "serial": text("what the disk says its serial number is; empty", length_bytes_max=20),
    "write_cache": flag("off: the disk starts with its write cache off; on"),
    "iothread": flag("a thread of its own serves the queues; off"),
    "inject": Option(
        parse_rules,
        "requests that fail, with commas between: read:sector=7:errno=EIO:once fails the first "
        "read of sector 7; read, write, flush, discard or write-zeroes; none",
    ),
    "latency": seconds("seconds that each request takes, of a target such as null:64M; none"),
    "io_address": _place(0xB000, 0xFF00, "where its I/O BARs are, from here on; 0xc000"),
    "memory_address": _place(
        0xC0000000, 0xFDF00000, "where its memory BARs are, from here on; 0xe0000000"
    ),
    "irq": integer(3, 15, "to which pc routes the pin of the device; 10"),
    "property": Option(
        _read_properties,
        "further properties of the device, as `-device` takes them: name=value,name=value; none",
    ),
    "binary": _argument("the program to run; qemu-system-x86_64"),
    "start_timeout": seconds(
        f"seconds until QEMU has to be ready; {START_TIMEOUT_S:g} if not given"
    ),
    "reply_timeout": seconds(
        f"seconds that QEMU has for one answer; {REPLY_TIMEOUT_S:g} if not given"
    ),
}

PROPERTIES: Final[Mapping[int, str]] = {
    Feature.NOTIFY_ON_EMPTY: "notify_on_empty",
    Feature.ANY_LAYOUT: "any_layout",
    Feature.INDIRECT_DESC: "indirect_desc",
    Feature.EVENT_IDX: "event_idx",
    Feature.ACCESS_PLATFORM: "iommu_platform",
    Feature.RING_PACKED: "packed",
    Feature.IN_ORDER: "in_order",
    Feature.RING_RESET: "queue_reset",
}
"""Feature bit -> the property of every virtio device of QEMU that switches it."""

BLOCK_PROPERTIES: Final[Mapping[int, str]] = {
    BlockFeature.CONFIG_WCE: "config-wce",
    BlockFeature.DISCARD: "discard",
    BlockFeature.WRITE_ZEROES: "write-zeroes",
    BlockFeature.SCSI: "scsi",
}
"""The same, of the block device."""

ALWAYS_OFFERED: Final = frozenset(
    {
        Feature.VERSION_1,
        BlockFeature.SEG_MAX,
        BlockFeature.GEOMETRY,
        BlockFeature.RO,
        BlockFeature.BLK_SIZE,
        BlockFeature.FLUSH,
        BlockFeature.TOPOLOGY,
        BlockFeature.MQ,
    }
)
"""What needs no property: it is offered, or other options decide."""


@dataclass(frozen=True)
class Settings:
    """What a `qemu:` address asks for, complete and consistent. Fields are named as options, but
    for `extra_properties`, which is `property`."""

    target: str
    machine: str = "pc"
    device: str = "blk"
    interface: str = "transitional"
    drive: str = "modern"
    access: Access = "auto"
    interrupts: InterruptMode = "auto"
    slot: int = 5
    root_port: bool = False
    num_queues: int = 1
    queue_size: int | None = None
    vectors: int | None = None
    ram: int = RAM_BYTES
    offer: frozenset[int] = frozenset()
    withhold: frozenset[int] = frozenset()
    page_per_vq: bool = False
    modern_pio_notify: bool = False
    format: str = "raw"
    read_only: bool = False
    serial: bytes | None = None
    write_cache: bool | None = None
    iothread: bool = False
    inject: tuple[ErrorRule, ...] = ()
    latency: float | None = None
    io_address: int = IO_START
    memory_address: int = MEMORY_START
    irq: int = 10
    extra_properties: Mapping[str, str] = field(default_factory=dict)
    binary: str | None = None
    start_timeout: float = START_TIMEOUT_S
    reply_timeout: float = REPLY_TIMEOUT_S

    @property
    def is_null(self) -> bool:
        """The disk has a size and no content."""
        return self.device == "blk" and self.target.startswith(NULL_PREFIX)

    @property
    def null_bytes(self) -> int:
        """The size of such a disk. Raises AddressError if it is none."""
        return parse_size(self.target.removeprefix(NULL_PREFIX))

    @property
    def used_interface(self) -> Interface:
        """Which one a driver should use."""
        chosen = self.drive if self.interface == "transitional" else self.interface
        return "legacy" if chosen == "legacy" else "modern"

    @property
    def vector_count(self) -> int:
        """MSI-X vectors of the device."""
        queues = self.num_queues if self.device == "blk" else 1
        return queues + 1 if self.vectors is None else self.vectors

    @property
    def feature_properties(self) -> dict[str, str]:
        """Properties that switch features, with on or off."""
        table = properties_of(self.device)
        switched = {table[bit]: "on" for bit in self.offer if bit in table}
        return switched | {table[bit]: "off" for bit in self.withhold if bit in table}


def properties_of(device: str) -> dict[int, str]:
    """Feature bit -> the property of that device which switches it."""
    return {**PROPERTIES, **(BLOCK_PROPERTIES if device == "blk" else {})}


def settings(address: Address, options: Mapping[str, object]) -> Settings:
    """Settings from options that `sort_options` has read.

    Raises AddressError for options that contradict each other or ask for what QEMU cannot do,
    NegotiationError for features in `offer` that no device of QEMU has.
    """
    given: dict[str, Any] = dict(options)
    known = properties_of(str(given.get("device", "blk")))
    given.setdefault("interface", _usual_interface(given))
    given.setdefault("root_port", given.get("machine") == "q35" and given["interface"] == "modern")
    _refuse_text(address, given)
    _refuse_contradictions(address, given)
    _refuse_unknown_features(address, given, known)
    given["extra_properties"] = given.pop("property", {})
    chosen = Settings(address.target, **given)
    if chosen.is_null and chosen.null_bytes % 512:
        raise AddressError(f"{address.text}: a disk has a multiple of 512 bytes")
    return chosen


def _refuse_text(address: Address, given: Mapping[str, Any]) -> None:
    """What cannot be said on QEMU's command line."""
    texts = [address.target, os.fsdecode(given.get("serial", b"")), *given.get("property", ())]
    texts += given.get("property", {}).values()
    if any("\0" in each for each in texts):
        raise AddressError(f"{address.text!r}: there is a NUL byte in it, which no program takes")
    try:
        address.target.encode()
    except UnicodeEncodeError:
        raise AddressError(
            f"{address.text!r}: QEMU takes names of files in UTF-8 only; use a link to it"
        ) from None


def _usual_interface(given: Mapping[str, Any]) -> str:
    # With an IOMMU a device has no legacy interface.
    iommu = Feature.ACCESS_PLATFORM in given.get("offer", frozenset())
    return "modern" if iommu or given.get("machine") == "q35" else "transitional"


def _refuse_contradictions(address: Address, given: Mapping[str, Any]) -> None:
    null = address.target.startswith(NULL_PREFIX)
    rng = given.get("device") == "rng"
    offered, withheld = given.get("offer", frozenset()), given.get("withhold", frozenset())
    twice = _names(offered & withheld)
    block_only = sorted(given.keys() & _BLOCK_ONLY) if rng else []
    refusals = (
        (
            given["root_port"] and given.get("machine", "pc") != "q35",
            "only machine=q35 has root ports",
        ),
        (
            "drive" in given and given["interface"] != "transitional",
            "drive= chooses between the interfaces of a transitional device; interface= has "
            f"made it {given['interface']}",
        ),
        ("latency" in given and not null, "latency= needs a target such as null:64M"),
        (null and "format" in given, "what has a size and no content has no format"),
        (bool(block_only), f"a source of entropy has no {', '.join(block_only)}"),
        ("irq" in given and given.get("machine", "pc") != "pc", "irq= is for machine=pc"),
        (
            given["root_port"] and bool(given.keys() & {"io_address", "memory_address"}),
            "behind a root port, the BARs are where its windows are",
        ),
        (bool(twice), f"{twice} cannot be both offered and withheld"),
        (given.get("ram", 0) % MIB != 0, "ram= is a multiple of 1M"),
    )
    for refused, why in refusals:
        if refused:
            raise AddressError(f"{address.text}: {why}")


_BLOCK_ONLY: Final = frozenset(
    {"num_queues", "queue_size", "format", "read_only", "serial", "write_cache", "iothread"}
    | {"inject", "latency"}
)


def _refuse_unknown_features(
    address: Address, given: Mapping[str, Any], known: Mapping[int, str]
) -> None:
    withheld = given.get("withhold", frozenset()) - known.keys()
    if withheld:
        raise AddressError(
            f"{address.text}: QEMU cannot switch {_names(withheld)} off; it can switch "
            f"{_names(known)}"
        )
    # What the user insists on is among what is to be offered, so it may be there anyway.
    foreign = given.get("offer", frozenset()) - known.keys() - ALWAYS_OFFERED
    if foreign:
        raise NegotiationError(
            f"{address.text}: QEMU's device does not offer {_names(foreign)}, and there is no "
            f"property for it; it can switch {_names(known)}"
        )


def _names(bits: Iterable[int]) -> str:
    return ", ".join(feature_name(bit, BLOCK_DEVICE_TYPE) for bit in sorted(bits))
