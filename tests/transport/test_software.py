"""The software device as a transport reaches it, and the life cycle on it."""

import os
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import pytest

import vioblk
from tests.clauses import clause
from tests.conftest import RingName
from tests.support.drivers import PlainDriver
from tests.support.leaks import no_leaks
from vioblk.address import parse_address, sort_options
from vioblk.block.features import BLOCK_DEVICE_TYPE, BlockFeature
from vioblk.device import ConfigField, VirtioDevice
from vioblk.errors import AddressError, NegotiationError, ResetTimeoutError, StateError
from vioblk.features import RING, Feature, FeatureSet, Wish
from vioblk.ring import Chain
from vioblk.status import DeviceState
from vioblk.transport import SCHEMES, back_end, connect
from vioblk.transport.software import FIRST_DEVICE_ADDRESS, OPTIONS, SoftwareTransport

TIMEOUT_S = 30.0

CAPACITY = ConfigField("capacity", 0x00, 8)
SIZE_MAX = ConfigField("size_max", 0x08, 4, BlockFeature.SIZE_MAX)
SEG_MAX = ConfigField("seg_max", 0x0C, 4, BlockFeature.SEG_MAX)
BLOCK_SIZE = ConfigField("blk_size", 0x14, 4, BlockFeature.BLK_SIZE)
WRITEBACK = ConfigField("writeback", 0x20, 1, BlockFeature.CONFIG_WCE, writable=True)
QUEUE_COUNT = ConfigField("num_queues", 0x22, 2, BlockFeature.MQ)
DISCARD = ConfigField("max_discard_sectors", 0x24, 4, BlockFeature.DISCARD)
WRITE_ZEROES = ConfigField("max_write_zeroes_sectors", 0x30, 4, BlockFeature.WRITE_ZEROES)


class Reach(Protocol):
    def __call__(self, address: str) -> SoftwareTransport: ...


@pytest.fixture
def reach() -> Iterator[Reach]:
    with ExitStack() as stack:

        def reach(address: str) -> SoftwareTransport:
            parsed = parse_address(address)
            options = sort_options(
                parsed,
                {},
                transport_options=OPTIONS,
                driver_options={},
                device_type=BLOCK_DEVICE_TYPE,
            ).transport
            transport = connect(parsed, options)
            assert isinstance(transport, SoftwareTransport)
            stack.callback(transport.close)
            return transport

        yield reach


def offered(transport: SoftwareTransport) -> FeatureSet:
    return FeatureSet.from_mask(transport.read_features())


def start(transport: SoftwareTransport, ring: str = "native") -> tuple[VirtioDevice, PlainDriver]:
    wish = Wish(
        wanted=frozenset(BlockFeature) - {BlockFeature.ZONED},
        ring_features=RING | {Feature.IN_ORDER},
    )
    device, driver = VirtioDevice(transport), PlainDriver([], wish=wish, ring=ring)
    device.initialize(driver)
    return device, driver


# Addresses and options


def test_the_size_of_a_memory_disk_is_its_address(reach: Reach) -> None:
    device, _ = start(reach("mem:3M"))
    assert device.read_config(CAPACITY) == 3 * 2048


def test_the_size_of_a_file_disk_is_that_of_the_file(reach: Reach, tmp_path: Path) -> None:
    image = tmp_path / "a?disk.img"
    image.write_bytes(bytes(5 * 512))
    device, _ = start(reach(f"file:{str(image).replace('?', '%3F')}"))
    assert device.read_config(CAPACITY) == 5


@pytest.mark.parametrize("target", ["0", "511", "1000", "many"])
def test_a_size_that_no_disk_has_is_refused(reach: Reach, target: str) -> None:
    with pytest.raises(AddressError, match=target):
        reach(f"mem:{target}")


def test_a_file_whose_end_no_sector_holds_is_refused(reach: Reach, tmp_path: Path) -> None:
    odd = tmp_path / "odd.img"
    odd.write_bytes(b"x" * 1000)
    with pytest.raises(AddressError, match=r"1000 bytes long, .* its last 488 bytes"):
        reach(f"file:{odd}")
    assert odd.read_bytes() == b"x" * 1000


def test_a_file_that_is_not_there_is_named(reach: Reach, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.img"):
        reach(f"file:{tmp_path}/none.img")


def test_a_disk_that_is_no_whole_blocks_is_refused_with_its_address(reach: Reach) -> None:
    with pytest.raises(AddressError, match=r"mem:512\?block_size=4096: .*4096"):
        reach("mem:512?block_size=4096")


@pytest.mark.parametrize("place", ["0000:00:05.0", "00:05.0", "pci:0000:00:05.0"])
def test_a_place_on_a_pci_bus_is_told_from_an_address(place: str) -> None:
    with pytest.raises(AddressError, match=f"^{re.escape(place)}: .* vioblk list says how"):
        vioblk.open(place)


def test_an_unknown_scheme_names_those_that_look_like_it() -> None:
    with pytest.raises(AddressError, match="no scheme 'vhostuser'; did you mean vhost-user"):
        back_end(parse_address("vhostuser:/a.sock"))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_has_a_back_end(scheme: str) -> None:
    found = back_end(parse_address(f"{scheme}:target"))
    assert callable(found.connect)
    assert all(option.meaning for option in found.OPTIONS.values())


def test_options_reach_the_device(reach: Reach) -> None:
    transport = reach(
        "mem:1M?queues=3&queue_size=64&size_max=8192&seg_max=9&block_size=4096"
        "&max_discard_sectors=800&max_write_zeroes_sectors=1600"
    )
    device, _ = start(transport)
    fields = [SIZE_MAX, SEG_MAX, BLOCK_SIZE, QUEUE_COUNT, DISCARD, WRITE_ZEROES]
    assert device.read_config_fields(fields) == {
        "size_max": 8192,
        "seg_max": 9,
        "blk_size": 4096,
        "num_queues": 3,
        "max_discard_sectors": 800,
        "max_write_zeroes_sectors": 1600,
    }
    assert device.queue_count() == 3
    assert [device.queue_size_max(index) for index in range(4)] == [64, 64, 64, 0]


def test_read_only_is_offered_as_asked(reach: Reach) -> None:
    assert BlockFeature.RO in offered(reach("mem:1M?read_only=on"))
    assert BlockFeature.RO not in offered(reach("mem:1M"))


@pytest.mark.parametrize(("cache", "flushes"), [("writeback", 1), ("volatile", 1), ("none", 0)])
def test_flushes_are_offered_where_there_is_a_cache(reach: Reach, cache: str, flushes: int) -> None:
    features = offered(reach(f"mem:1M?cache={cache}"))
    assert (BlockFeature.FLUSH in features) is bool(flushes)
    assert (BlockFeature.CONFIG_WCE in features) is bool(flushes)


def test_what_is_offered_can_be_chosen(reach: Reach) -> None:
    features = offered(reach("mem:1M?offer=access_platform,50&withhold=flush,event_idx"))
    assert {Feature.ACCESS_PLATFORM, 50} <= features
    assert not {BlockFeature.FLUSH, Feature.EVENT_IDX} & features


# The transport


def test_mappings_lie_above_4_gib_with_gaps_between_them(reach: Reach) -> None:
    transport = reach("mem:1M")
    ranges = []
    for length in (2 << 20, 4096, 4 << 20):
        mapping = transport.map_memory(length)
        ranges.append((mapping.device_address, mapping.device_address + mapping.length))
    assert ranges[0][0] == FIRST_DEVICE_ADDRESS
    assert all(end < start for (_, end), (start, _) in pairwise(ranges))


def test_a_change_of_the_configuration_is_reported(reach: Reach) -> None:
    transport = reach("mem:1M")
    _, driver = start(transport)
    changed = threading.Event()
    capacities = []

    def look(device: VirtioDevice) -> None:
        capacities.append(device.read_config(CAPACITY))
        changed.set()

    driver.steps["config_changed"] = look
    transport.device.resize(4096)
    assert changed.wait(TIMEOUT_S)
    assert capacities == [4096]


def test_a_callback_is_replaced_and_taken_away(reach: Reach) -> None:
    transport = reach("mem:1M")
    start(transport)
    calls: list[str] = []
    second = threading.Event()

    def call_second() -> None:
        calls.append("second")
        second.set()

    transport.on_config_change(lambda: calls.append("first"))
    transport.on_config_change(call_second)
    transport.device.resize(4096)
    assert second.wait(TIMEOUT_S)
    transport.on_config_change(None)
    transport.device.resize(2048)
    assert set(calls) == {"second"}


def test_a_callback_may_take_itself_away(reach: Reach) -> None:
    transport = reach("mem:1M")
    start(transport)
    done = threading.Event()

    def call() -> None:
        transport.on_config_change(None)
        done.set()

    transport.on_config_change(call)
    transport.device.resize(4096)
    assert done.wait(TIMEOUT_S)


def test_closing_a_transport_twice_does_nothing(reach: Reach) -> None:
    transport = reach("mem:1M")
    transport.close()
    transport.close()


# The life cycle


@clause("INIT-11", "STATUS-01")
def test_a_device_comes_to_life(reach: Reach, ring: RingName) -> None:
    transport = reach("mem:1M")
    device, driver = start(transport, ring)
    assert transport.read_status() == 15
    assert driver.queue.ring.free_count == 8
    device.close()
    assert device.state is DeviceState.CLOSED


@clause("FEAT-01", "FEAT-05", "FEAT-06", "FEAT-11")
def test_a_device_that_offers_every_bit_agrees_with_what_is_accepted(reach: Reach) -> None:
    every_bit = ",".join(str(bit) for bit in range(64))
    device, _ = start(reach(f"mem:1M?read_only=on&offer={every_bit}&withhold=15,16,17"))
    assert len(device.offered) == 61
    assert device.accepted == {
        *(1, 2, 4, 5, 6, 9, 10, 11, 12, 13, 14),
        *(Feature.INDIRECT_DESC, Feature.EVENT_IDX, Feature.VERSION_1, Feature.IN_ORDER),
        *(Feature.ACCESS_PLATFORM, Feature.ORDER_PLATFORM, Feature.RING_RESET),
    }


@clause("RSVD-03", "RSVD-07")
def test_platform_features_are_accepted(reach: Reach) -> None:
    device, _ = start(reach("mem:1M?offer=access_platform,order_platform"))
    assert device.has(Feature.ACCESS_PLATFORM)
    assert device.has(Feature.ORDER_PLATFORM)


@clause("INIT-09")
def test_a_device_that_refuses_the_features_is_given_up(reach: Reach) -> None:
    transport = reach("mem:1M")
    transport.device.inject("refuse_features")
    with pytest.raises(NegotiationError, match="cleared FEATURES_OK"):
        start(transport)
    assert transport.read_status() == 128 | 3
    device, _ = start(transport)
    assert device.state is DeviceState.LIVE


@clause("INIT-14")
def test_the_device_is_not_notified_before_driver_ok(reach: Reach) -> None:
    transport = reach("mem:1M")
    kicks = []
    driver = PlainDriver([])
    driver.steps["live"] = lambda device: kicks.append(transport.device.counters()["kicks"])
    VirtioDevice(transport).initialize(driver)
    assert kicks == [0]


@clause("RESET-01")
def test_a_reset_that_never_ends_times_out_and_can_be_tried_again(reach: Reach) -> None:
    transport = reach("mem:1M")
    device, driver = start(transport)
    transport.device.inject("reset_never_ends")
    with pytest.raises(ResetTimeoutError, match=r"mem:1M did not confirm its reset within 0\.05"):
        device.reset(timeout_s=0.05)
    assert device.refresh_state() is DeviceState.FAILED
    transport.device.clear_faults()
    device.reset()
    device.initialize(driver)
    assert device.state is DeviceState.LIVE


def test_a_device_that_needs_a_reset_is_noticed_at_once(reach: Reach) -> None:
    transport = reach("mem:1M")
    device, driver = start(transport)
    queue = driver.queue
    transport.device.inject("needs_reset")
    assert queue.was_aborted.wait(TIMEOUT_S)
    assert queue.aborted == "the device has met an error and needs a reset"
    assert device.refresh_state() is DeviceState.NEEDS_RESET
    device.reset()
    device.initialize(driver)
    assert device.state is DeviceState.LIVE


@clause("CFG-03")
def test_a_capacity_that_flickers_while_it_is_read_is_read_again(reach: Reach) -> None:
    transport = reach("mem:1M")
    device, _ = start(transport)
    # After the first half is read the capacity shown is one less, after the second all of it.
    transport.device.inject("config_flicker", count=1)
    assert device.read_config(CAPACITY) == 2047


def test_the_cache_mode_can_be_written(reach: Reach) -> None:
    device, _ = start(reach("mem:1M"))
    assert device.read_config(WRITEBACK) == 1
    device.write_config(WRITEBACK, 0)
    assert device.read_config(WRITEBACK) == 0


@pytest.mark.parametrize("close", ["close", "reset then close", "closed when it failed"])
def test_opening_and_closing_leaks_nothing(reach: Reach, close: str) -> None:
    def cycle() -> None:
        transport = SoftwareTransport("mem:64K", capacity_sectors=128, features=1 << 32)
        if close == "closed when it failed":
            transport.device.inject("refuse_features")
            device = VirtioDevice(transport)
            with pytest.raises(NegotiationError):
                device.initialize(PlainDriver([]))
        else:
            device, _ = start(transport)
        if close == "reset then close":
            device.reset()
        device.close()

    cycle()
    with no_leaks():
        for _ in range(50):
            cycle()


def test_closing_frees_memory_threads_and_descriptors_at_once(reach: Reach) -> None:
    """Without the help of the garbage collector."""
    transport = SoftwareTransport("mem:64K", capacity_sectors=128, features=1 << 32)
    with no_leaks(collect=False):
        inner = SoftwareTransport("mem:64K", capacity_sectors=128, features=1 << 32)
        device, driver = start(inner)
        device.close()
        del inner, device, driver
    transport.close()


@clause("RSVD-04", "RSVD-05")
@pytest.mark.parametrize("offer", ["", "&offer=access_platform"])
def test_the_device_is_given_addresses_of_its_own_space_only(
    reach: Reach, ring: RingName, offer: str
) -> None:
    """With ACCESS_PLATFORM or without: what the device finds there is the memory meant."""
    transport = reach(f"mem:1M?threaded=off{offer}")
    device, driver = start(transport, ring)
    mappings = transport.space.mappings
    parts = driver.queue.parts
    header, status = device.memory.alloc(16), device.memory.alloc(1)
    data = device.memory.alloc(512)
    memoryview(status)[0] = 0xFF
    memoryview(data)[:] = b"\xff" * 512
    driver.queue.ring.push(Chain([(header, 0, 16)], [(data, 0, 512), (status, 0, 1)]))
    driver.queue.ring.publish()
    for region in (parts.ring, header, data, status):
        assert any(
            mapping.device_address <= region.device_address
            and region.device_address + region.length <= mapping.device_address + mapping.length
            for mapping in mappings
        )
    assert all(mapping.device_address != mapping.host_address for mapping in mappings)
    assert transport.device.serve() == 1
    assert transport.device.counters()["bad_chains"] == 0
    assert bytes(memoryview(data)) == bytes(512)
    assert bytes(memoryview(status)) == b"\0"


def test_changes_that_arrive_during_resets_block_nobody(reach: Reach, ring: RingName) -> None:
    transport = reach("mem:1M")
    device, driver = start(transport, ring)
    over = threading.Event()

    def resize() -> None:
        sectors = 0
        with suppress(StateError):  # once it is closed
            while not over.is_set():
                sectors = sectors % 64 + 1
                transport.device.resize(sectors)

    driver.steps["config_changed"] = lambda device: device.read_config(CAPACITY)
    thread = threading.Thread(target=resize)
    thread.start()
    try:
        for _ in range(100):
            device.reset()
            device.initialize(driver)
        device.close()
    finally:
        over.set()
        thread.join(TIMEOUT_S)
    assert not thread.is_alive()


def test_an_io_error_of_the_file_tells_its_cause(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    with vioblk.open(f"file:{image}") as disk:
        os.truncate(image, 0)  # somebody cuts the file under the device
        with pytest.raises(vioblk.RequestFailedError, match="last error of the file was: reading"):
            disk.read(0, 4096)
