"""How large a packed ring may be: VIRTIO 1.4, 2.8 Packed Virtqueues."""

import pytest

from tests.ring.formats import PACKED, Language


@pytest.mark.parametrize("size", [0, 32769, 65536])
def test_a_queue_size_out_of_range_is_refused(language: Language, size: int) -> None:
    with pytest.raises(ValueError, match=f"{size} is not a number from 1 to 32768"):
        PACKED.layout(language)(size)
