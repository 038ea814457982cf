import threading
from collections.abc import Iterator

import pytest

from vioblk import RequestTimeoutError, StateError
from vioblk._native import DmaSpace
from vioblk.block.bounce import BouncePool
from vioblk.block.deadline import Deadline

CHUNK = 4096
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
    pool.close()


def test_it_gives_what_is_free_and_never_more_than_its_bound(pool: BouncePool) -> None:
    taken = pool.take(8, Deadline(1))
    assert len(taken) == 3
    assert len({chunk.handle for chunk in taken}) == 3
    pool.give_back(taken)
    assert len(pool.take(2, Deadline(1))) == 2


def test_memory_is_made_only_when_it_is_needed(pool: BouncePool, space: DmaSpace) -> None:
    before = space.free_bytes
    for _ in range(5):
        pool.give_back(pool.take(1, Deadline(1)))
    assert before - space.free_bytes == CHUNK


def test_waiting_for_a_chunk_is_bounded(pool: BouncePool) -> None:
    taken = pool.take(3, Deadline(1))
    with pytest.raises(RequestTimeoutError, match="all 3 are in use"):
        pool.take(1, Deadline(0.02))
    pool.give_back(taken)


def test_a_chunk_given_back_wakes_who_waits(pool: BouncePool) -> None:
    taken = pool.take(3, Deadline(1))
    got: list[int] = []
    waiter = threading.Thread(target=lambda: got.append(len(pool.take(2, Deadline(10)))))
    waiter.start()
    pool.give_back(taken[:1])
    waiter.join(10)
    assert got == [1]


def test_closing_wakes_who_waits_and_gives_the_memory_back(
    pool: BouncePool, space: DmaSpace
) -> None:
    before = space.free_bytes
    taken = pool.take(3, Deadline(1))
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            pool.take(1, Deadline(10))
        except BaseException as error:
            raised.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    pool.close()
    waiter.join(10)
    assert [type(error) for error in raised] == [StateError]
    pool.give_back(taken)
    assert space.free_bytes == before


def test_no_memory_at_all_is_said_at_once(space: DmaSpace) -> None:
    pool = BouncePool(space.alloc, chunk_bytes=1 << 30)
    with pytest.raises(MemoryError):
        pool.take(1, Deadline(10))


def test_it_makes_do_with_fewer_where_memory_ends() -> None:
    space = DmaSpace()
    space.map(2 * CHUNK, DMA_START)
    pool = BouncePool(space.alloc, chunk_bytes=CHUNK, max_chunks=8)
    taken = pool.take(8, Deadline(1))
    assert len(taken) == 2
    pool.give_back(taken)
    assert len(pool.take(1, Deadline(1))) == 1
    pool.close()


def test_a_chunk_that_a_request_still_holds_is_not_given_out(pool: BouncePool) -> None:
    [chunk] = pool.take(1, Deadline(1))
    pin = memoryview(chunk.region)  # as a request in flight holds it
    pool.give_back([chunk])
    others = pool.take(3, Deadline(1))
    assert chunk not in others
    assert len(others) == 2
    pin.release()
    assert pool.take(1, Deadline(1)) == [chunk]
    pool.give_back([chunk, *others])
