"""What the device may still reach is nobody else's, whatever becomes of the queue objects."""

import gc
import select
import threading

import pytest

import vioblk
from tests.block.queue_bench import limits_of, make_puppet_bench
from vioblk._native import BlockQueue, DmaSpace, SplitQueue, split_layout
from vioblk.block.request import COMPLETION_RECORD, RequestType
from vioblk.ring import Chain

IN = RequestType.IN


def make_space(length: int = 1 << 16) -> DmaSpace:
    space = DmaSpace()
    space.map(length, 1 << 32)
    return space


def test_the_memory_of_a_live_ring_that_is_dropped_is_never_given_out_again() -> None:
    space = make_space()
    ring, data = space.alloc(split_layout(8).length), space.alloc(512)
    queue = SplitQueue(ring, 8)
    queue.push(Chain([(data, 0, 512)], []))
    queue.publish()
    free_bytes = space.free_bytes
    del queue
    gc.collect()
    ring.close()
    data.close()
    assert space.free_bytes == free_bytes


def test_the_memory_of_a_ring_that_was_reclaimed_is_given_out_again() -> None:
    space = make_space()
    empty_bytes = space.free_bytes
    ring, data = space.alloc(split_layout(8).length), space.alloc(512)
    queue = SplitQueue(ring, 8)
    queue.push(Chain([(data, 0, 512)], []))
    queue.publish()
    queue.reclaim()
    del queue
    gc.collect()
    ring.close()
    data.close()
    assert space.free_bytes == empty_bytes


def test_the_memory_of_a_live_request_queue_that_is_dropped_is_never_given_out_again() -> None:
    bench = make_puppet_bench("native")
    space, regions = bench.space, (bench.ring_region, bench.slots, bench.data)
    assert bench.queue.submit_many(bench.record(IN)) == 1
    free_bytes = space.free_bytes
    del bench
    gc.collect()
    for region in regions:
        region.close()
    assert space.free_bytes == free_bytes


def test_a_region_serves_one_ring_at_a_time() -> None:
    space = make_space()
    region = space.alloc(4096)
    queue = SplitQueue(region, 8)
    with pytest.raises(BufferError, match="already serves"):
        SplitQueue(region, 8)
    with pytest.raises(BufferError, match="already serves"):
        BlockQueue(space, space.alloc(4096), region, 8, limits_of())
    del queue
    gc.collect()
    SplitQueue(region, 8)


def test_a_sequence_that_lies_about_its_length_is_no_reason_to_allocate() -> None:
    queue = SplitQueue(make_space().alloc(4096), 8)
    with pytest.raises(TypeError):
        queue.push_many(range(10**15))  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [-1, 0, 32769, 1 << 16, 1 << 60])
def test_slots_for_a_queue_that_cannot_be_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=str(size)):
        BlockQueue.slots_length(size)


def test_a_timeout_that_is_not_a_number_is_refused() -> None:
    bench = make_puppet_bench("native")
    with pytest.raises(ValueError, match="not a number"):
        bench.queue.wait(float("nan"))


def test_other_threads_leave_on_the_interrupt_that_an_event_loop_asked_for() -> None:
    with select.epoll() as loop:
        bench = make_puppet_bench("native")
        loop.register(bench.queue.fileno(), select.EPOLLIN)
        assert bench.queue.submit_many(bench.record(IN, token=7)) == 1
        (head,) = bench.puppet.take()
        assert not bench.queue.arm()

        def execute_one() -> None:
            bench.queue.execute(bench.record(IN), bytearray(1), 20)

        other = threading.Thread(target=execute_one)
        other.start()
        taken: list[int] = []
        while not taken:
            taken = bench.puppet.take()
        # The loop's request is reaped by the other thread, who was looking for its own.
        bench.complete(head)
        bench.complete(taken[0])
        other.join(20)
        assert not other.is_alive()
        assert loop.poll(20), "the loop sleeps over its completion"
        out = bytearray(COMPLETION_RECORD.size)
        assert bench.queue.reap_many(out) == 1
        assert COMPLETION_RECORD.unpack(out)[0] == 7


def test_memory_that_is_given_out_again_is_zeroed_and_fresh_memory_is_not_touched() -> None:
    space = make_space(1 << 36)
    with space.alloc(4096) as region, memoryview(region) as view:
        view[:] = b"\xff" * 4096
    # 32 GiB, of which only the bytes that were used before are written: else it would not fit.
    with space.alloc(1 << 35) as region, memoryview(region) as view:
        assert not any(view[:8192])


def test_a_region_of_another_space_is_not_taken_for_one_of_this() -> None:
    bench, other = make_puppet_bench("native"), make_puppet_bench("native")
    with pytest.raises(BufferError, match="no open region"):
        bench.queue.submit_many(bench.record(IN, region=other.data.handle))


def test_a_batch_that_is_refused_leaves_no_byte_that_passes_for_a_status() -> None:
    bench = make_puppet_bench("native")
    statuses = bytearray(2)
    with pytest.raises(vioblk.BeyondEndError):
        bench.queue.execute(bench.record(IN) + bench.record(IN, sector=1 << 40), statuses, 1)
    assert statuses == b"\xff\xff"


def test_what_leaves_the_block_of_a_region_is_the_exception_that_was_raised_in_it() -> None:
    region = make_space().alloc(4096)
    view = memoryview(region)
    with pytest.raises(RuntimeError, match="mine") as caught, region:
        raise RuntimeError("mine")
    assert "could not be closed" in caught.value.__notes__[0]
    view.release()
    region.close()
