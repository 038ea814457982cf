"""A queue that was given up stays away from ring and doorbell: another may have its place."""

import threading

import pytest

from tests.block.queue_bench import LANGUAGES, Language, make_puppet_bench
from vioblk.block.request import RequestType
from vioblk.errors import DeviceGoneError


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_waits_for_room_is_not_submitted_by_who_reaps_afterwards(language: Language) -> None:
    bench = make_puppet_bench(language, size=4)
    records = b"".join(bench.record(RequestType.IN) for _ in range(8))
    raised: list[Exception] = []

    def run() -> None:
        try:
            bench.queue.execute(records, bytearray(8), 20)
        except DeviceGoneError as error:
            raised.append(error)

    waiter = threading.Thread(target=run)
    waiter.start()
    taken: list[int] = []
    while not taken:
        taken = bench.puppet.take()
    bench.queue.take_kick()
    kicks = bench.queue.kick_count
    bench.queue.abort("another has its place")
    bench.complete(taken[0])
    with pytest.raises(DeviceGoneError, match="another has its place"):
        bench.reap()
    waiter.join(20)
    assert not waiter.is_alive()
    assert len(raised) == 1
    assert bench.puppet.take() == []
    assert not bench.queue.take_kick()
    assert bench.queue.kick_count == kicks


@pytest.mark.parametrize("language", LANGUAGES)
def test_who_waited_is_told_why_also_after_it_was_taken_back(language: Language) -> None:
    bench = make_puppet_bench(language)
    raised: list[Exception] = []

    def run() -> None:
        try:
            bench.queue.execute(bench.record(RequestType.IN), bytearray(1), 20)
        except DeviceGoneError as error:
            raised.append(error)

    waiter = threading.Thread(target=run)
    waiter.start()
    while not bench.puppet.take():
        pass
    bench.queue.abort("queue 0 was reset")
    bench.queue.reclaim()
    waiter.join(20)
    assert not waiter.is_alive()
    assert [str(error) for error in raised] == ["queue 0 was reset"]
