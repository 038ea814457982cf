import threading
from collections.abc import Iterator

import pytest

from vioblk import RequestTimeoutError, StateError
from vioblk._native import DmaSpace
from vioblk.block.bounce import BouncePool
from vioblk.block.deadline import Deadline

CHUNK = 4096
CLOSED = StateError("closed")
DMA_START = 1 << 32


@pytest.fixture
def space() -> DmaSpace:
    space = DmaSpace()
    space.map(16 * CHUNK, DMA_START)
    return space


@pytest.fixture
def pool(space: DmaSpace) -> Iterator[BouncePool]:
    pool = BouncePool(space.alloc, chunk_bytes=CHUNK, max_chunks=3)
    yield pool
    pool.close(CLOSED)


def test_it_gives_what_is_free_and_never_more_than_its_bound(pool: BouncePool) -> None:
    taken = pool.lend(8, Deadline(1))
    assert len(taken.chunks) == 3
    assert len({chunk.handle for chunk in taken.chunks}) == 3
    pool.end(taken)
    assert len(pool.lend(2, Deadline(1)).chunks) == 2


def test_memory_is_made_only_when_it_is_needed(pool: BouncePool, space: DmaSpace) -> None:
    before = space.free_bytes
    for _ in range(5):
        pool.end(pool.lend(1, Deadline(1)))
    assert before - space.free_bytes == CHUNK


def test_waiting_for_a_chunk_is_bounded(pool: BouncePool) -> None:
    taken = pool.lend(3, Deadline(1))
    with pytest.raises(RequestTimeoutError, match="all 3 are in use"):
        pool.lend(1, Deadline(0.02))
    pool.end(taken)


def test_a_chunk_given_back_wakes_who_waits(pool: BouncePool) -> None:
    first = pool.lend(1, Deadline(1))
    others = pool.lend(3, Deadline(1))
    assert len(others.chunks) == 2
    got: list[int] = []
    waiter = threading.Thread(target=lambda: got.append(len(pool.lend(2, Deadline(10)).chunks)))
    waiter.start()
    pool.end(first)
    waiter.join(30)
    assert got == [1]
    pool.end(others)


def test_closing_wakes_who_waits_and_gives_the_memory_back(
    pool: BouncePool, space: DmaSpace
) -> None:
    before = space.free_bytes
    taken = pool.lend(3, Deadline(1))
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            pool.lend(1, Deadline(10))
        except BaseException as error:
            raised.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    pool.close(CLOSED)
    waiter.join(30)
    assert [type(error) for error in raised] == [StateError]
    pool.end(taken)
    assert space.free_bytes == before


def test_no_memory_at_all_is_said_at_once(space: DmaSpace) -> None:
    pool = BouncePool(space.alloc, chunk_bytes=1 << 30)
    with pytest.raises(MemoryError):
        pool.lend(1, Deadline(10))


def test_it_makes_do_with_fewer_where_memory_ends() -> None:
    space = DmaSpace()
    space.map(2 * CHUNK, DMA_START)
    pool = BouncePool(space.alloc, chunk_bytes=CHUNK, max_chunks=8)
    taken = pool.lend(8, Deadline(1))
    assert len(taken.chunks) == 2
    pool.end(taken)
    assert len(pool.lend(1, Deadline(1)).chunks) == 1
    pool.close(CLOSED)


def test_a_chunk_that_a_request_still_holds_is_not_given_out(pool: BouncePool) -> None:
    first = pool.lend(1, Deadline(1))
    [chunk] = first.chunks
    pin = memoryview(chunk.region)  # as a request in flight holds it
    pool.end(first)
    others = pool.lend(3, Deadline(1))
    assert chunk not in others.chunks
    assert len(others.chunks) == 2
    pin.release()
    again = pool.lend(1, Deadline(1))
    assert again.chunks == [chunk]


def test_a_loan_that_was_lost_is_ended(pool: BouncePool) -> None:
    """As by an exception that comes before the borrower could do anything with it."""
    pool.lend(3, Deadline(1))
    assert pool.free_count == pool.chunk_count == 3
    assert len(pool.lend(3, Deadline(1)).chunks) == 3
