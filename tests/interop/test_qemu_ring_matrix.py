"""Every ring format with every feature of rings, on QEMU's device: what is written is read again,
and the ring is, by QEMU's own account, what was negotiated."""

from collections.abc import Iterator
from itertools import pairwise, product
from pathlib import Path
from typing import Final, NamedTuple

import pytest

import vioblk
from tests.conftest import RingName
from tests.interop.qemu_machines import WAIT_S, blank_disk, poll, settle
from tests.interop.queue_load import REQUESTS, assert_content, use_from_threads
from tests.interop.ring_view import (
    EVENT_DESCRIPTOR,
    EVENT_ENABLE,
    INDIRECT,
    NEXT,
    RingView,
)
from tests.support.qemu import features_of, qemu_of

RING_FEATURES: Final = frozenset({"ring_packed", "in_order", "event_idx", "indirect_desc"})

DESCRIPTORS: Final = 3
"""Of a request: header, data and status."""


class Format(NamedTuple):
    """One of the four kinds of rings."""

    name: str
    packed: bool
    in_order: bool
    ring_size: int
    """A packed ring has any number of descriptors (VIRTIO 1.4, 2.8 Packed Virtqueues); with
    IN_ORDER, QEMU 10.0 can do powers of two only, below its largest (test_qemu_behaviour)."""

    @property
    def most(self) -> int:
        """Requests in flight. With IN_ORDER, QEMU 10.0 loses those that fill the ring."""
        return self.ring_size - 1 if self.in_order else self.ring_size


FORMATS: Final = (
    Format("split", packed=False, in_order=False, ring_size=32),
    Format("split-in-order", packed=False, in_order=True, ring_size=32),
    Format("packed", packed=True, in_order=False, ring_size=27),
    Format("packed-in-order", packed=True, in_order=True, ring_size=32),
)


class Case(NamedTuple):
    """One place in the matrix."""

    format: Format
    event_idx: bool
    indirect: bool
    queue_count: int
    ring: RingName

    def __str__(self) -> str:
        words = [
            self.format.name,
            "event_idx" if self.event_idx else "flags",
            "indirect" if self.indirect else "direct",
            f"{self.queue_count}-queues",
            self.ring,
        ]
        return "-".join(words)

    @property
    def expected(self) -> set[str]:
        """The features of rings that must be negotiated, and no others."""
        switches = {
            "ring_packed": self.format.packed,
            "in_order": self.format.in_order,
            "event_idx": self.event_idx,
            "indirect_desc": self.indirect,
        }
        return {name for name, on in switches.items() if on}

    @property
    def descriptors(self) -> int:
        """Of the ring, that each request takes."""
        return 1 if self.indirect else DESCRIPTORS

    def address(self, image: Path) -> str:
        switches = "".join(
            f"&{name}={'on' if name in self.expected else 'off'}" for name in sorted(RING_FEATURES)
        )
        return (
            f"qemu:{image}?interface=modern&num_queues={self.queue_count}"
            f"&queue_count={self.queue_count}&ring={self.ring}"
            f"&ring_size={self.format.ring_size}{switches}"
        )


def cases() -> Iterator[Case]:
    switches = (True, False)
    for each in product(FORMATS, switches, switches, (1, 4)):
        yield Case(*each, "native")
    # It never has the event index, so there is half as much of it.
    for kind, indirect in product(FORMATS, switches):
        yield Case(kind, False, indirect, 2, "reference")


@pytest.mark.parametrize("case", tuple(cases()), ids=str)
def test_each_format_with_each_feature_moves_data(
    tmp_path: Path, known_properties: frozenset[str], case: Case
) -> None:
    """Each queue is used by a thread of its own."""
    image = blank_disk(tmp_path)
    if case.format.in_order and "in_order" not in known_properties:
        with pytest.raises(vioblk.TransportError, match=r"in_order.*not found; .*QEMU 10 on"):
            vioblk.open(case.address(image))
        return
    with vioblk.open(case.address(image), timeout_s=WAIT_S) as disk:
        platform = qemu_of(disk.device)
        assert set(disk.info.accepted.names) & RING_FEATURES == case.expected
        assert features_of(platform, "guest") & RING_FEATURES == case.expected
        assert [queue.size for queue in disk.info.queues] == [
            case.format.ring_size
        ] * case.queue_count
        settle(platform)
        before = [RingView.of(platform, index) for index in range(case.queue_count)]
        use_from_threads(disk, case.queue_count, case.format.most)
        settle(platform)
        for view in before:
            check_view(case, view, RingView.of(platform, view.index))
        disk.flush()
    assert_content(image, case.queue_count)


def check_view(case: Case, before: RingView, after: RingView) -> None:
    """QEMU read the ring of this queue as one of that format, and wrote to it as to one."""
    assert (after.size, after.in_use) == (case.format.ring_size, 0)
    assert after.is_packed == case.format.packed
    if case.format.packed:
        moved = (after.taken - before.taken) % after.size
        assert moved == REQUESTS * case.descriptors % after.size
        check_packed(case, after)
    else:
        assert (after.taken - before.taken) % 65536 == REQUESTS
        check_split(case, after)


def check_split(case: Case, view: RingView) -> None:
    # It asks for the next chain when it has taken all.
    assert view.avail_event == (view.taken if case.event_idx else 0)
    last = view.taken - 1
    heads = [int(view.chain(number)["index"]) for number in range(last - 3, last + 1)]
    for head in heads:
        chain = view.chain(last)["descs"]
        assert len(chain) == DESCRIPTORS
        flags, following = view.split_descriptor(head)
        assert bool(flags & INDIRECT) == case.indirect
        assert bool(flags & NEXT) != case.indirect
        if case.format.in_order and not case.indirect:
            assert following == (head + 1) % view.size
    if case.format.in_order:
        steps = [(b - a) % view.size for a, b in pairwise(heads)]
        assert steps == [case.descriptors] * 3


def check_packed(case: Case, view: RingView) -> None:
    event = poll(lambda: view.device_event)
    if case.event_idx:
        assert (event.flags, event.offset) == (EVENT_DESCRIPTOR, view.taken)
    else:
        assert event == (0, False, EVENT_ENABLE)
    if case.format.in_order:
        slots = [(view.taken - number * case.descriptors) % view.size for number in (3, 2, 1)]
        ids = [view.packed_descriptor(slot).buffer_id for slot in slots]
        steps = [(b - a) % view.size for a, b in pairwise(ids)]
        assert steps == [1, 1]


@pytest.mark.parametrize("name", ["notification_data", "notif_config_data"])
def test_qemu_has_no_notifications_with_data(name: str) -> None:
    with vioblk.open("qemu:null:1M?interface=modern") as disk:
        assert name not in disk.info.offered.names
    with pytest.raises(vioblk.NegotiationError, match=f"QEMU's device does not offer {name}"):
        vioblk.open(f"qemu:null:1M?interface=modern&{name}=on")
