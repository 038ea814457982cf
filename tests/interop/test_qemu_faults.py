"""Faults on demand: QEMU's disk fails, is slow, answers out of order, changes or stands still, and
every request ends, well or with a clear error."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import vioblk
from tests.clauses import clause
from tests.conftest import RingName
from tests.interop.qemu_machines import (
    CAPACITY_BYTES,
    WAIT_S,
    WAYS,
    Way,
    alternating,
    content_of,
    numbered_disk,
    on,
    poll,
)
from tests.support.leaks import no_leaks
from tests.support.patience import standing_still
from tests.support.qemu import qemu_of
from vioblk.block.config import BlockConfig
from vioblk.block.disk import BlockDevice
from vioblk.block.request import (
    COMPLETION_RECORD,
    REQUEST_RECORD,
    STATUS_PENDING,
    RequestStatus,
    RequestType,
)
from vioblk.transport.qemu import ErrorRule, QemuPlatform

OLDEST_AND_NEWEST = (WAYS[0], WAYS[-1])
"""The legacy interface on an old machine, the modern one behind a root port."""

EACH_RING = pytest.mark.parametrize(
    ("ring", "way"),
    [
        pytest.param(ring, way, id=f"{ring}-{way.name}")
        for ring, way in zip(("native", "reference"), OLDEST_AND_NEWEST, strict=True)
    ],
)

SECTOR = 7
"""Where things go wrong."""


def reads(region: vioblk.Region, count: int) -> bytes:
    """Requests for every second sector, as QEMU joins neighbours; tokens are their indices."""
    return b"".join(
        REQUEST_RECORD.pack(RequestType.IN, 0, 2 * index, 512 * index, 512, region.handle, index)
        for index in range(count)
    )


def assert_read(region: vioblk.Region, count: int) -> None:
    """They have brought what the sectors hold."""
    with memoryview(region) as data:
        assert data == b"".join(content_of(2 * index) for index in range(count))


def reap(disk: BlockDevice, count: int) -> list[tuple[int, int]]:
    """Wait for as many completions: (token, status) in the order of their arrival."""
    found: list[tuple[int, int]] = []
    out = bytearray(COMPLETION_RECORD.size * count)
    while len(found) < count:
        assert disk.wait(WAIT_S), f"{len(found)} of {count}"
        filled = disk.reap_many(out)
        records = list(COMPLETION_RECORD.iter_unpack(out))[:filled]
        found += [(token, status) for token, _, status in records]
    return found


def all_are_back(disk: BlockDevice) -> bool:
    """Whether what was given up has come back too; nobody is told of that, so it is looked for."""
    disk.reap_many(bytearray(COMPLETION_RECORD.size))
    return disk.device.in_flight == 0


# Errors


def failing_call(disk: BlockDevice, rule: ErrorRule) -> tuple[Callable[[], object], str]:
    """The call that such a rule makes fail, and what the error is called."""
    offset = SECTOR * 512
    calls: dict[str, Callable[[], object]] = {
        "read": lambda: disk.read(offset, 512),
        "write": lambda: disk.write(offset, content_of(SECTOR)),
        "flush": disk.flush,
        "discard": lambda: disk.discard(offset, 4096),
        "write-zeroes": lambda: disk.write_zeroes(offset, 4096),
    }
    return calls[rule.request], os.strerror(rule.errno)


RULES = ("read:sector=7", "write:sector=7", "write:sector=7:errno=ENOSPC", "flush", "discard")


@pytest.mark.parametrize("once", [False, True], ids=["always", "once"])
@alternating("rule", RULES, OLDEST_AND_NEWEST)
def test_an_io_error_fails_its_request_and_no_other(
    tmp_path: Path, way: Way, rule: str, once: bool
) -> None:
    address = f"qemu:{numbered_disk(tmp_path)}?{way.options}&inject={rule}{':once' if once else ''}"
    with vioblk.open(address, timeout_s=WAIT_S) as disk:
        platform = qemu_of(disk.device)
        failing, why = failing_call(disk, platform.machine.settings.inject[0])
        disk.write(0, content_of(0))
        with pytest.raises(vioblk.RequestFailedError) as caught:
            failing()
        assert caught.value.status == RequestStatus.IOERR
        assert why in str(caught.value)
        assert platform.qmp("query-status")["running"], "nor does QEMU stop"
        assert disk.read(0, 512) == content_of(0)
        if not once:
            with pytest.raises(vioblk.RequestFailedError):
                failing()
            platform.inject_error()
        failing()
        assert disk.read(0, 512) == content_of(0)


def test_errors_come_and_go_while_the_disk_is_in_use(tmp_path: Path, ring: RingName) -> None:
    with vioblk.open(f"qemu:{numbered_disk(tmp_path)}", ring=ring, timeout_s=WAIT_S) as disk:
        platform = qemu_of(disk.device)
        region = disk.alloc(16 * 512)
        for rules, bad in (
            ([ErrorRule("read", sector=6), ErrorRule("read", sector=18)], {3, 9}),
            ([ErrorRule("read", sector=10, once=True)], {5}),
            ([], set()),
        ):
            platform.inject_error(*rules)
            assert disk.submit_many(reads(region, 16)) == 16
            completions = reap(disk, 16)
            assert {token for token, status in completions if status} == bad
        assert_read(region, 16)


# Order and time


@EACH_RING
def test_completions_out_of_order_go_to_their_requests(
    tmp_path: Path, ring: RingName, way: Way
) -> None:
    with vioblk.open(f"qemu:{numbered_disk(tmp_path)}?{way.options}", ring=ring) as disk:
        platform = qemu_of(disk.device)
        region = disk.alloc(4 * 512)
        platform.hold_requests("read")
        try:
            assert disk.submit_many(reads(region, 4)) == 4
            assert sorted(token for token, _ in reap(disk, 3)) == [1, 2, 3]
            assert platform.queue_status(0)["inuse"] == 1
            assert not disk.wait(0)
        finally:
            platform.release_requests("read")
        assert reap(disk, 1) == [(0, RequestStatus.OK)]
        assert_read(region, 4)


@EACH_RING
def test_a_request_that_takes_too_long_keeps_its_buffer(
    tmp_path: Path, ring: RingName, way: Way
) -> None:
    with vioblk.open(f"qemu:{numbered_disk(tmp_path)}?{way.options}", ring=ring) as disk:
        platform = qemu_of(disk.device)
        region = disk.alloc(512)
        statuses = bytearray(1)
        platform.hold_requests("read")
        try:
            with pytest.raises(vioblk.RequestTimeoutError, match="shows no error"):
                disk.execute(reads(region, 1), statuses, SHORT_S)
            assert statuses[0] == STATUS_PENDING
            assert disk.read(512, 512) == content_of(1), "others are served"
            assert disk.device.in_flight == 1
            with pytest.raises(BufferError):
                region.close()
        finally:
            platform.release_requests("read")
        assert poll(lambda: all_are_back(disk))
        assert_read(region, 1)
        region.close()


SHORT_S = 0.1
"""Too short for what does not happen."""

LATENCY_S = 0.1


@EACH_RING
def test_a_slow_disk_is_waited_for(ring: RingName, way: Way) -> None:
    address = f"qemu:null:1M?{way.options}&latency={LATENCY_S}"
    with vioblk.open(address, ring=ring, timeout_s=WAIT_S) as disk:
        statuses = bytearray([STATUS_PENDING] * 4)
        with disk.alloc(4 * 512) as region:
            start = time.monotonic()
            disk.execute(reads(region, 4), statuses)
            assert time.monotonic() - start >= LATENCY_S
        assert statuses == bytes(4)


REQUESTS_PER_SECOND = 40


def throttle(platform: QemuPlatform) -> None:
    """Put a limit between the device and its file."""
    limits = {"iops-total": REQUESTS_PER_SECOND}
    platform.qmp("object-add", qom_type="throttle-group", id="group", limits=limits)
    add = platform.machine.monitor.run_with
    add(
        "blockdev-add",
        {"driver": "throttle", "node-name": "slow", "throttle-group": "group", "file": "disk"},
    )
    platform.qmp("qom-set", path="/machine/peripheral/device0", property="drive", value="slow")


def test_a_throttled_disk_is_slow_and_loses_nothing(tmp_path: Path, ring: RingName) -> None:
    count = 12
    with vioblk.open(f"qemu:{numbered_disk(tmp_path)}", ring=ring, timeout_s=WAIT_S) as disk:
        throttle(qemu_of(disk.device))
        region = disk.alloc(count * 512)
        start = time.monotonic()
        assert disk.submit_many(reads(region, count)) == count
        assert sorted(token for token, _ in reap(disk, count)) == list(range(count))
        # It lets a tenth of a second's requests through at once.
        least = count - REQUESTS_PER_SECOND / 10 - 1
        assert time.monotonic() - start >= least / REQUESTS_PER_SECOND
        assert_read(region, count)


# Another size


@clause("BLK-CAP-01", "BLK-CAP-02")
@on(WAYS)
def test_a_resized_disk_is_used_as_far_as_it_goes_now(tmp_path: Path, way: Way) -> None:
    seen: list[int] = []
    changed = threading.Event()

    def on_change(config: BlockConfig) -> None:
        seen.append(config.capacity_sectors)
        changed.set()

    address = f"qemu:{numbered_disk(tmp_path)}?{way.options}"
    with vioblk.open(address, on_config_change=on_change, timeout_s=WAIT_S) as disk:
        for size in (2 * CAPACITY_BYTES, CAPACITY_BYTES // 2):
            changed.clear()
            qemu_of(disk.device).resize(size)
            assert changed.wait(WAIT_S)
            assert disk.capacity_bytes == size
            disk.write(size - 512, b"\x42" * 512)
            assert disk.read(size - 512, 512) == b"\x42" * 512
            with pytest.raises(vioblk.BeyondEndError):
                disk.read(size - 512, 1024)
        assert seen == [2 * CAPACITY_BYTES // 512, CAPACITY_BYTES // 2 // 512]


# The process


@EACH_RING
def test_a_stopped_qemu_costs_time_outs_and_nothing_else(
    tmp_path: Path, ring: RingName, way: Way
) -> None:
    address = f"qemu:{numbered_disk(tmp_path)}?{way.options}"
    with vioblk.open(address, ring=ring, timeout_s=WAIT_S) as disk:
        platform = qemu_of(disk.device)
        region = disk.alloc(512)
        with standing_still(platform, REPLY_S):
            with pytest.raises(vioblk.RequestTimeoutError, match="its status cannot be read"):
                disk.execute(reads(region, 1), bytearray(1), SHORT_S)
            with pytest.raises(vioblk.TransportError, match="has not answered"):
                disk.device.transport.read_status()
        assert disk.read(512, 512) == content_of(1)
        assert poll(lambda: all_are_back(disk))
        assert_read(region, 1)


REPLY_S = 0.1


@EACH_RING
def test_a_killed_qemu_fails_what_is_in_flight_at_once(ring: RingName, way: Way) -> None:
    with no_leaks():
        with vioblk.open(f"qemu:null:1M?{way.options}", ring=ring, timeout_s=60) as disk:
            kill_in_flight(disk)
        del disk


def kill_in_flight(disk: BlockDevice) -> None:
    raised: list[Exception] = []

    def read() -> None:
        try:
            disk.read(0, 4096)
        except vioblk.VioblkError as error:
            raised.append(error)

    platform = qemu_of(disk.device)
    platform.set_bus_master(False)  # so that requests stay in flight
    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert poll(lambda: disk.device.in_flight == 3)
    os.kill(platform.machine.process.pid, signal.SIGKILL)
    for thread in threads:
        thread.join(WAIT_S)
    assert [type(error) for error in raised] == [vioblk.DeviceGoneError] * 3
    assert any("QEMU was ended by SIGKILL" in str(error) for error in raised)
    for call in (lambda: disk.write(0, bytes(512)), disk.flush, disk.reset):
        with pytest.raises(vioblk.DeviceGoneError, match="QEMU was ended by SIGKILL"):
            call()
