"""What request queues send to the device, and what they refuse."""

from collections.abc import Callable

import pytest

from tests.block.queue_bench import (
    CAPACITY_SECTORS,
    LANGUAGES,
    Header,
    Language,
    PuppetBench,
    is_packed,
    limits_of,
    make_puppet_bench,
)
from tests.clauses import clause
from vioblk._native import DmaSpace
from vioblk.block.reference_queue import ReferenceBlockQueue
from vioblk.block.request import STATUS_PENDING, UNMAP, RequestType
from vioblk.errors import (
    BeyondEndError,
    InvalidRequestError,
    ReadOnlyError,
    RequestTooLongError,
    UnalignedError,
    UnsupportedError,
    ZeroLengthError,
)

IN, OUT, FLUSH = RequestType.IN, RequestType.OUT, RequestType.FLUSH
GET_ID, DISCARD, WRITE_ZEROES = RequestType.GET_ID, RequestType.DISCARD, RequestType.WRITE_ZEROES


# -- What the device is sent -------------------------------------------------------------------


@pytest.mark.parametrize("indirect_table_size", [0, 3])
def test_a_read_is_header_then_writable_data_then_status(
    ring: Language, indirect_table_size: int
) -> None:
    bench = make_puppet_bench(ring, indirect_table_size=indirect_table_size)
    record = bench.record(IN, sector=77, offset=4096, length=1024)
    assert bench.queue.submit_many(record) == 1
    header, data, status = bench.puppet.follow(bench.puppet.take()[0])
    assert bench.header(header) == Header(IN, 0, 77)
    assert data == (bench.data.device_address + 4096, 1024, True)
    assert (status.length, status.device_writes) == (1, True)


def test_a_write_is_header_and_readable_data_then_status(ring: Language) -> None:
    bench = make_puppet_bench(ring)
    bench.write_data(b"payload!" * 64)
    bench.queue.submit_many(bench.record(OUT, sector=CAPACITY_SECTORS - 1))
    header, data, status = bench.puppet.follow(bench.puppet.take()[0])
    assert bench.header(header) == Header(OUT, 0, CAPACITY_SECTORS - 1)
    assert (data.device_writes, bench.bytes_at(data)) == (False, b"payload!" * 64)
    assert (status.length, status.device_writes) == (1, True)


@clause("BLK-FLUSH-01", "BLK-FLUSH-02")
def test_a_flush_has_sector_0_and_no_data(ring: Language) -> None:
    bench = make_puppet_bench(ring)
    bench.queue.submit_many(bench.record(FLUSH))
    header, status = bench.puppet.follow(bench.puppet.take()[0])
    assert bench.header(header) == Header(FLUSH, 0, 0)
    assert (status.length, status.device_writes) == (1, True)


@clause("BLK-REQ-03")
def test_get_id_is_given_exactly_20_bytes(ring: Language) -> None:
    bench = make_puppet_bench(ring)
    bench.queue.submit_many(bench.record(GET_ID))
    header, data, status = bench.puppet.follow(bench.puppet.take()[0])
    assert bench.header(header) == Header(GET_ID, 0, 0)
    assert (data.length, data.device_writes) == (20, True)
    assert (status.length, status.device_writes) == (1, True)


@clause("BLK-REQ-02", "BLK-DISCARD-01", "BLK-WZ-01", "BLK-DISCARD-02")
@pytest.mark.parametrize(
    ("kind", "flags"), [(DISCARD, 0), (WRITE_ZEROES, 0), (WRITE_ZEROES, UNMAP)]
)
def test_a_range_request_has_one_segment_of_16_bytes(
    ring: Language, kind: RequestType, flags: int
) -> None:
    bench = make_puppet_bench(ring)
    bench.queue.submit_many(bench.record(kind, flags=flags, sector=100, length=512 * 9))
    header, segment, status = bench.puppet.follow(bench.puppet.take()[0])
    assert bench.header(header) == Header(kind, 0, 0)
    expected = (100).to_bytes(8, "little") + (9).to_bytes(4, "little") + flags.to_bytes(4, "little")
    assert (segment.device_writes, bench.bytes_at(segment)) == (False, expected)
    assert (status.length, status.device_writes) == (1, True)


@pytest.mark.parametrize("kind", [IN, OUT])
@pytest.mark.parametrize("indirect_table_size", [0, 6])
def test_data_is_cut_into_segments_of_size_max(
    ring: Language, kind: RequestType, indirect_table_size: int
) -> None:
    bench = make_puppet_bench(
        ring,
        limits=limits_of(size_max=1000, seg_max=4),
        indirect_table_size=indirect_table_size,
    )
    bench.queue.submit_many(bench.record(kind, length=3584))
    parts = bench.puppet.follow(bench.puppet.take()[0])
    start = bench.data.device_address
    writes = kind == IN
    assert parts[1:-1] == [
        (start, 1000, writes),
        (start + 1000, 1000, writes),
        (start + 2000, 1000, writes),
        (start + 3000, 584, writes),
    ]


def test_requests_in_flight_have_slots_of_their_own(ring: Language) -> None:
    bench = make_puppet_bench(ring, 64)
    count = bench.queue.depth
    records = b"".join(bench.record(IN, sector=n, offset=512 * n) for n in range(count))
    assert bench.queue.submit_many(records) == count
    chains = [bench.puppet.follow(head) for head in bench.puppet.take()]
    assert [bench.header(chain[0]).sector for chain in chains] == list(range(count))
    assert (
        len({chain[0].address for chain in chains} | {c[-1].address for c in chains}) == 2 * count
    )


def test_status_bytes_are_pending_when_the_device_gets_them(ring: Language) -> None:
    bench = make_puppet_bench(ring, 4)
    for _ in range(6):  # slots are used again
        bench.queue.submit_many(bench.record(FLUSH))
        head = bench.puppet.take()[0]
        assert bench.bytes_at(bench.puppet.follow(head)[-1]) == bytes([STATUS_PENDING])
        bench.complete(head, status=0)
        assert [done.status for done in bench.reap()] == [0]


# -- What is refused ---------------------------------------------------------------------------

REFUSED: list[tuple[str, Callable[[PuppetBench], bytes], type[Exception], str]] = [
    ("unknown type", lambda b: b.record(FLUSH)[:0] + b"\x07" + bytes(39), UnsupportedError, "7"),
    ("huge type", lambda b: b"\xff" * 4 + bytes(36), UnsupportedError, "4294967295"),
    ("no bytes", lambda b: b.record(IN, length=0), ZeroLengthError, "0"),
    ("no bytes to discard", lambda b: b.record(DISCARD, length=0), ZeroLengthError, "0"),
    ("odd length", lambda b: b.record(OUT, length=513), UnalignedError, "513"),
    ("odd discard", lambda b: b.record(DISCARD, length=100), UnalignedError, "100"),
    ("behind the end", lambda b: b.record(IN, sector=4096), BeyondEndError, "4096"),
    ("over the end", lambda b: b.record(OUT, sector=4095, length=1024), BeyondEndError, "4095"),
    ("sector wraps", lambda b: b.record(IN, sector=(1 << 64) - 1), BeyondEndError, "18446744"),
    ("zeroes over the end", lambda b: b.record(WRITE_ZEROES, sector=4096), BeyondEndError, "4096"),
    ("long discard", lambda b: b.record(DISCARD, length=512 * 1025), RequestTooLongError, "524800"),
    (
        "long write-zeroes",
        lambda b: b.record(WRITE_ZEROES, length=512 * 513),
        RequestTooLongError,
        "262656",
    ),
    ("read flags", lambda b: b.record(IN, flags=1), InvalidRequestError, "flags is 1"),
    ("discard flags", lambda b: b.record(DISCARD, flags=UNMAP), InvalidRequestError, "flags is 1"),
    ("odd flags", lambda b: b.record(WRITE_ZEROES, flags=3), InvalidRequestError, "flags is 3"),
    ("flush sector", lambda b: b.record(FLUSH, sector=1), InvalidRequestError, "sector is 1"),
    ("flush length", lambda b: b.record(FLUSH, length=512), InvalidRequestError, "length is 512"),
    ("flush region", lambda b: b.record(FLUSH, region=5), InvalidRequestError, "region is 5"),
    ("long id", lambda b: b.record(GET_ID, length=512), InvalidRequestError, "length is 512"),
    ("id sector", lambda b: b.record(GET_ID, sector=1), InvalidRequestError, "sector is 1"),
    ("discard region", lambda b: b.record(DISCARD, region=3), InvalidRequestError, "region is 3"),
    ("discard offset", lambda b: b.record(DISCARD, offset=8), InvalidRequestError, "offset is 8"),
    ("no region", lambda b: b.record(IN, region=999_999), BufferError, "999999"),
    (
        "outside the region",
        lambda b: b.record(IN, offset=b.data.length - 511),
        InvalidRequestError,
        "not inside the region",
    ),
    (
        "offset wraps",
        lambda b: b.record(OUT, offset=(1 << 64) - 100),
        InvalidRequestError,
        "not inside the region",
    ),
]


@clause("BLK-REQ-01", "BLK-REQ-03")
@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [case[1:] for case in REFUSED],
    ids=[case[0] for case in REFUSED],
)
@pytest.mark.parametrize("index", [0, 2])
def test_a_bad_record_is_refused_before_anything_reaches_the_device(
    ring: Language,
    bad: Callable[[PuppetBench], bytes],
    error: type[Exception],
    message: str,
    index: int,
) -> None:
    bench = make_puppet_bench(ring)
    good = bench.record(IN)
    with memoryview(bench.ring_region) as memory:
        before = bytes(memory)
        for submit in (
            bench.queue.submit_many,
            lambda batch: bench.queue.execute(batch, bytearray(index + 2), 1),
        ):
            with pytest.raises(error, match=f"^request {index}: .*{message}") as caught:
                submit(good * index + bad(bench) + good)
            assert type(caught.value) is error
        assert bytes(memory) == before
    assert bench.queue.in_flight == 0
    assert not bench.queue.take_kick()


@pytest.mark.parametrize("kind", [OUT, DISCARD, WRITE_ZEROES])
def test_a_read_only_disk_refuses_every_sort_of_write(ring: Language, kind: RequestType) -> None:
    bench = make_puppet_bench(ring, limits=limits_of(read_only=True))
    with pytest.raises(ReadOnlyError, match=r"^request 1: "):
        bench.queue.submit_many(bench.record(IN) + bench.record(kind))
    assert bench.puppet.take() == []
    assert bench.queue.submit_many(bench.record(IN) + bench.record(FLUSH)) == 2


@pytest.mark.parametrize("kind", list(RequestType))
def test_a_type_that_was_not_negotiated_is_refused(ring: Language, kind: RequestType) -> None:
    bench = make_puppet_bench(ring, limits=limits_of(request_types=set(RequestType) - {kind}))
    with pytest.raises(UnsupportedError, match=f"^request 0: type {int(kind)} "):
        bench.queue.submit_many(bench.record(kind))


def test_an_id_that_needs_more_segments_than_the_device_takes_is_refused(ring: Language) -> None:
    bench = make_puppet_bench(ring, limits=limits_of(size_max=9, seg_max=2))
    with pytest.raises(RequestTooLongError, match="18"):
        bench.queue.submit_many(bench.record(GET_ID, length=20))
    bench = make_puppet_bench(ring, limits=limits_of(size_max=10, seg_max=2))
    assert bench.queue.submit_many(bench.record(GET_ID, length=20)) == 1


def test_more_data_than_size_max_times_seg_max_is_refused(ring: Language) -> None:
    bench = make_puppet_bench(ring, limits=limits_of(size_max=1024, seg_max=4))
    with pytest.raises(RequestTooLongError, match=r"4608 .* 4096"):
        bench.queue.submit_many(bench.record(IN, length=4608))
    assert bench.queue.submit_many(bench.record(IN, length=4096)) == 1


def test_seg_max_0_means_one_segment(ring: Language) -> None:
    bench = make_puppet_bench(ring, limits=limits_of(size_max=1024, seg_max=0))
    with pytest.raises(RequestTooLongError):
        bench.queue.submit_many(bench.record(IN, length=1536))
    assert bench.queue.submit_many(bench.record(IN, length=1024)) == 1


def test_data_never_needs_more_segments_than_the_ring_has(ring: Language) -> None:
    bench = make_puppet_bench(ring, 8, limits=limits_of(size_max=512, seg_max=100))
    with pytest.raises(RequestTooLongError, match=str(6 * 512)):
        bench.queue.submit_many(bench.record(IN, length=7 * 512))
    assert bench.queue.submit_many(bench.record(IN, length=6 * 512)) == 1


def test_limits_of_0_sectors_are_none(ring: Language) -> None:
    limits = limits_of(max_discard_sectors=0, max_write_zeroes_sectors=0)
    bench = make_puppet_bench(ring, limits=limits)
    whole = 512 * CAPACITY_SECTORS
    records = bench.record(DISCARD, length=whole) + bench.record(WRITE_ZEROES, length=whole)
    assert bench.queue.submit_many(records) == 2


def test_a_closed_region_is_refused(ring: Language) -> None:
    bench = make_puppet_bench(ring)
    region = bench.space.alloc(512)
    record = bench.record(IN, region=region.handle)
    region.close()
    with pytest.raises(BufferError, match=r"^request 0: "):
        bench.queue.submit_many(record)


@pytest.mark.parametrize("length", [1, 39, 41])
def test_half_a_record_is_refused(ring: Language, length: int) -> None:
    bench = make_puppet_bench(ring)
    with pytest.raises(ValueError, match="40"):
        bench.queue.submit_many(bytes(length))


def test_new_limits_hold_for_the_next_record(ring: Language) -> None:
    bench = make_puppet_bench(ring)
    with pytest.raises(BeyondEndError):
        bench.queue.submit_many(bench.record(IN, sector=CAPACITY_SECTORS))
    bench.queue.limits = limits_of(capacity_sectors=CAPACITY_SECTORS + 1)
    assert bench.queue.limits.capacity_sectors == CAPACITY_SECTORS + 1
    assert bench.queue.submit_many(bench.record(IN, sector=CAPACITY_SECTORS)) == 1


@pytest.mark.parametrize("size", [1, 2])
def test_a_queue_too_small_for_a_request_is_refused(ring: Language, size: int) -> None:
    with pytest.raises(ValueError, match=f"queue size {size} is too small"):
        make_puppet_bench(ring, size)


def test_slots_that_are_too_short_are_refused(ring: Language) -> None:
    bench = make_puppet_bench(ring, 16)
    with pytest.raises(ValueError, match=str(64 * 16)):
        type(bench.queue)(  # type: ignore[call-arg]
            bench.space,
            bench.space.alloc(bench.queue.layout.length),
            bench.space.alloc(64 * 16 - 1),
            16,
            limits_of(),
            packed=is_packed(ring),
        )


@pytest.mark.parametrize("ring", [each for each in LANGUAGES if is_packed(each)])
def test_the_legacy_interface_has_no_packed_ring(ring: Language) -> None:
    with pytest.raises(ValueError, match="no packed ring"):
        make_puppet_bench(ring, legacy_align=4096)


def test_the_pure_python_queue_refuses_event_idx() -> None:
    space = DmaSpace()
    space.map(1 << 16, 1 << 32)
    with pytest.raises(ValueError, match="EVENT_IDX"):
        ReferenceBlockQueue(
            space, space.alloc(4096), space.alloc(1024), 16, limits_of(), event_idx=True
        )
