"""The rings in pure Python: the executable specification, written to be read.

`SplitQueue` and `PackedQueue` are the driver's half of VIRTIO 1.4, 2.7 Split Virtqueues and 2.8
Packed Virtqueues. They have the constructors, the exceptions and the order of allocation of their
twins in `vioblk._native`; after every step the bytes of the rings are equal, and the tests hold
them to that.

Read first `vioblk.ring.raw` (which word lies where), then `driver_half`: what push, publish, reap
and arm do in either format. `split` and `packed` are what each adds: the words. `chains` is what is
checked of a chain before it is written, `numbers` which descriptor or buffer id is taken next.

What Python cannot promise. It has no fences, so the comments only name the places where the Rust
rings have them (`shm::fence`). Nor does it promise that an assignment to a cast memoryview is a
single store of that width; with CPython on x86-64 it was observed to be one, whereas
`struct.pack_into` writes zeros first. So these rings are for tests and for study. Against a device
that runs at the same time use them on x86-64 only, notify after every publish whatever `publish`
says, negotiate without EVENT_IDX, never disarm, and bound every wait: that is what
`vioblk.block.reference_queue` does.
"""

from vioblk.ring.raw import (
    PackedLayout,
    RawPackedRing,
    RawSplitRing,
    SplitLayout,
    packed_layout,
    split_layout,
)
from vioblk.ring.reference.chains import event_passed
from vioblk.ring.reference.packed import PackedQueue
from vioblk.ring.reference.split import SplitQueue

__all__ = [
    "PackedLayout",
    "PackedQueue",
    "RawPackedRing",
    "RawSplitRing",
    "SplitLayout",
    "SplitQueue",
    "event_passed",
    "packed_layout",
    "split_layout",
]
