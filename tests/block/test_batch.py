import pytest

from vioblk import RequestFailedError
from vioblk.block.batch import Record, check_statuses, pieces, range_batch, transfer_batch
from vioblk.block.request import REQUEST_RECORD, UNMAP, RequestType


def records(batch: bytearray) -> list[Record]:
    return [Record._make(each) for each in REQUEST_RECORD.iter_unpack(batch)]


def test_a_transfer_is_cut_into_pieces_that_meet() -> None:
    batch = transfer_batch(
        RequestType.OUT, 8192, region=7, region_offset=64, length=2560, piece=1024
    )
    assert records(batch) == [
        Record(RequestType.OUT, 0, 16, 64, 1024, 7, 0),
        Record(RequestType.OUT, 0, 18, 1088, 1024, 7, 0),
        Record(RequestType.OUT, 0, 20, 2112, 512, 7, 0),
    ]


def test_a_range_is_cut_into_pieces_with_its_flags() -> None:
    batch = range_batch(RequestType.WRITE_ZEROES, pieces(512, 1536, 1024), UNMAP)
    assert records(batch) == [
        Record(RequestType.WRITE_ZEROES, UNMAP, 1, 0, 1024, 0, 0),
        Record(RequestType.WRITE_ZEROES, UNMAP, 3, 0, 512, 0, 0),
    ]


@pytest.mark.parametrize(
    ("start", "length", "piece", "align", "expected"),
    [
        (0, 10, 4, 0, [(0, 4), (4, 4), (8, 2)]),
        (3, 20, 10, 4, [(3, 9), (12, 8), (20, 3)]),
        (3, 4, 10, 4, [(3, 4)]),
        (1, 6, 2, 4, [(1, 2), (3, 1), (4, 2), (6, 1)]),
        (0, 8, 4, 4, [(0, 4), (4, 4)]),
    ],
)
def test_cuts_fall_on_the_alignment_where_they_can(
    start: int, length: int, piece: int, align: int, expected: list[tuple[int, int]]
) -> None:
    assert list(pieces(start, length, piece, align)) == expected


def test_statuses_that_are_all_ok_pass() -> None:
    check_statuses(range_batch(RequestType.DISCARD, pieces(0, 1024, 512)), bytearray(2))


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (1, "I/O error"),
        (2, "does not support"),
        (0xFF, "without writing a status"),
        (0xA5, "status 165, which VIRTIO does not define"),
    ],
)
def test_a_failure_names_the_request_and_what_the_device_said(status: int, words: str) -> None:
    batch = transfer_batch(RequestType.IN, 4096, 1, 0, 1024, 512)
    with pytest.raises(RequestFailedError, match=words) as raised:
        check_statuses(batch, bytearray([0, status]))
    assert raised.value.status == status
    assert "read of 512 bytes at offset 4608 (one of the several" in str(raised.value)


def test_a_failed_flush_is_called_so() -> None:
    batch = bytearray(REQUEST_RECORD.pack(RequestType.FLUSH, 0, 0, 0, 0, 0, 0))
    with pytest.raises(RequestFailedError, match="flush failed"):
        check_statuses(batch, bytearray([1]))
