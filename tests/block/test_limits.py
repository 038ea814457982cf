from dataclasses import replace

import pytest

from vioblk import NegotiationError
from vioblk.block.config import BlockConfig, DiscardConfig, WriteZeroesConfig, parse_block_config
from vioblk.block.features import BlockFeature
from vioblk.block.limits import (
    MAX_RECORD_BYTES,
    MAX_REQUEST_BYTES,
    RequestFeatures,
    disk_limits,
    queue_limits,
    request_types,
)
from vioblk.block.request import RequestType
from vioblk.features import FeatureSet

PLAIN = parse_block_config({"capacity": 2048})


def config(**fields: object) -> BlockConfig:
    return replace(PLAIN, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("size_max", [None, 0])
def test_without_size_max_one_segment_holds_a_whole_request(size_max: int | None) -> None:
    limits = disk_limits(config(size_max=size_max, seg_max=126), 256)
    assert (limits.request_bytes, limits.segment_bytes, limits.segments) == (
        MAX_REQUEST_BYTES,
        0,
        1,
    )
    assert limits.descriptors == 3


def test_a_request_is_segments_of_size_max_up_to_seg_max() -> None:
    limits = disk_limits(config(size_max=4096, seg_max=8), 256)
    assert (limits.request_bytes, limits.segments) == (32768, 8)


def test_without_seg_max_a_request_has_one_segment() -> None:
    assert disk_limits(config(size_max=4096), 256).request_bytes == 4096
    assert disk_limits(config(size_max=4096, seg_max=0), 256).request_bytes == 4096


def test_header_and_status_count_towards_the_queue_and_not_towards_seg_max() -> None:
    assert disk_limits(config(size_max=4096, seg_max=126), 16).descriptors == 16
    assert disk_limits(config(size_max=4096, seg_max=4), 16).segments == 4


def test_a_size_max_that_is_no_multiple_of_a_sector_still_gives_whole_sectors() -> None:
    limits = disk_limits(config(size_max=1000, seg_max=3), 256)
    assert limits.request_bytes == 2560
    assert limits.segment_bytes == 1000


def test_a_device_that_takes_less_than_a_sector_is_refused() -> None:
    with pytest.raises(NegotiationError, match=r"size_max 100 with 5 segments"):
        disk_limits(config(size_max=100, seg_max=5), 256)


@pytest.mark.parametrize("size", [1, 2])
def test_a_queue_that_cannot_hold_a_request_is_refused(size: int) -> None:
    with pytest.raises(NegotiationError, match="takes three"):
        disk_limits(PLAIN, size)


def test_stated_ranges_are_kept_and_no_stated_range_is_the_longest_record() -> None:
    limits = disk_limits(
        config(discard=DiscardConfig(8, 1, 4), write_zeroes=WriteZeroesConfig(0, 1, False)), 256
    )
    assert limits.discard_bytes == 4096
    assert limits.discard_alignment_bytes == 2048
    assert limits.write_zeroes_bytes == MAX_RECORD_BYTES


def test_a_device_that_takes_no_segment_takes_no_such_request() -> None:
    limits = disk_limits(
        config(discard=DiscardConfig(8, 0, 1), write_zeroes=WriteZeroesConfig(8, 0, True)), 256
    )
    types = request_types(limits, RequestFeatures(read_only=False, flush=True))
    assert types == {RequestType.IN, RequestType.OUT, RequestType.GET_ID, RequestType.FLUSH}


def test_only_negotiated_requests_may_be_sent() -> None:
    limits = disk_limits(PLAIN, 256)
    types = request_types(limits, RequestFeatures(read_only=False, flush=False))
    assert types == {RequestType.IN, RequestType.OUT, RequestType.GET_ID}


def test_a_device_that_offered_ro_is_read_only_even_if_ro_was_declined() -> None:
    features = RequestFeatures.of(FeatureSet({BlockFeature.RO}), FeatureSet())
    assert features.read_only
    assert queue_limits(disk_limits(PLAIN, 256), PLAIN, features).read_only


def test_the_queue_is_told_the_same_limits() -> None:
    stated = config(size_max=4096, seg_max=8, discard=DiscardConfig(8, 1, 1))
    limits = disk_limits(stated, 256)
    told = queue_limits(limits, stated, RequestFeatures(read_only=False, flush=True))
    assert told.capacity_sectors == 2048
    assert (told.size_max, told.seg_max) == (4096, 8)
    assert told.max_discard_sectors == 8
    assert told.max_write_zeroes_sectors == 0
    assert told.request_types == request_types(limits, RequestFeatures(False, True))
