"""One queue of the software device is reset, on a PCI bus and off it, in every ring format."""

import threading
from collections.abc import Iterator
from typing import Final

import pytest

import vioblk
from tests.support.transports import software_transport
from vioblk.block.disk import BlockDevice
from vioblk.block.request import REQUEST_RECORD, STATUS_PENDING, RequestType

WAIT_S: Final = 30.0
SECTOR: Final = 512

FORMATS: Final = {
    "split": "",
    "split-in-order": "&in_order=on",
    "packed": "&packed=on",
    "packed-in-order": "&packed=on&in_order=on",
}
"""And what an address says for a ring of each."""


@pytest.fixture(params=FORMATS)
def disk(request: pytest.FixtureRequest, bus: str) -> Iterator[BlockDevice]:
    """A disk with two queues of 64."""
    address = f"mem:1M?queues=2&queue_size=64&ring_reset=on&bus={bus}{FORMATS[request.param]}"
    with vioblk.open(address) as disk:
        yield disk


@pytest.fixture(params=["none", "pci"])
def bus(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.mark.parametrize("fault", ["silence", "delay"])
def test_what_a_device_holds_back_is_lost_with_its_queue_and_the_other_goes_on(
    disk: BlockDevice, fault: str
) -> None:
    device = software_transport(disk).device
    region = disk.alloc(2 * SECTOR)

    def read(queue: int, place: int, timeout_s: float = WAIT_S) -> int:
        record = REQUEST_RECORD.pack(
            RequestType.IN, 0, 0, place * SECTOR, SECTOR, region.handle, queue
        )
        statuses = bytearray([STATUS_PENDING])
        disk.execute(record, statuses, timeout_s, queue=queue)
        return statuses[0]

    ended: list[vioblk.VioblkError] = []

    def wait() -> None:
        try:
            read(0, 0)
        except vioblk.VioblkError as error:
            ended.append(error)

    device.inject(fault)
    waiter = threading.Thread(target=wait)
    waiter.start()
    while device.counters()["chains"] == 0:
        assert waiter.is_alive()
    assert read(1, 1) == 0
    for size in (16, 64, 8):
        disk.reset_queue(0, size)
        assert disk.info.queues[0].size == size
        # Whatever a fault held back stays where it is: the ring is another.
        device.clear_faults()
        for _ in range(2 * size):
            assert (read(0, 0), read(1, 1)) == (0, 0)
    waiter.join(WAIT_S)
    assert [type(error) for error in ended] == [vioblk.QueueResetError]
    assert "queue 0 was reset" in str(ended[0])
    assert disk.device.in_flight == 0
    assert device.violation is None
    assert software_transport(disk).read_status() == 15
