"""The words of a ring in memory: where each lies, and access to it under its name.

There are no rules here: those are in `vioblk.ring.reference`. So this is where misuse on purpose
is written: what no correct driver does, for tests of devices.
"""

from vioblk.ring.raw.packed import (
    AT_DESCRIPTOR,
    AVAIL,
    DISABLE,
    ENABLE,
    USED,
    PackedDescriptor,
    PackedLayout,
    RawPackedRing,
    packed_layout,
)
from vioblk.ring.raw.split import (
    NO_INTERRUPT,
    NO_NOTIFY,
    Descriptor,
    RawSplitRing,
    SplitLayout,
    UsedEntry,
    split_layout,
)
from vioblk.ring.raw.words import DESCRIPTOR_BYTES, INDIRECT, NEXT, SIZE_MAX, WRITE

__all__ = [
    "AT_DESCRIPTOR",
    "AVAIL",
    "DESCRIPTOR_BYTES",
    "DISABLE",
    "ENABLE",
    "INDIRECT",
    "NEXT",
    "NO_INTERRUPT",
    "NO_NOTIFY",
    "SIZE_MAX",
    "USED",
    "WRITE",
    "Descriptor",
    "PackedDescriptor",
    "PackedLayout",
    "RawPackedRing",
    "RawSplitRing",
    "SplitLayout",
    "UsedEntry",
    "packed_layout",
    "split_layout",
]
