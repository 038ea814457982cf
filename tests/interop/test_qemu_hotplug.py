"""QEMU's disk is unplugged while many requests are in flight, another is plugged in, and the whole
machine is reset."""

import threading
import time
from collections.abc import Callable

import pytest

import vioblk
from tests.interop.qemu_machines import (
    WAIT_S,
    WAYS,
    Way,
    await_event,
    on,
    open_disk,
    poll,
    reset_machine,
    set_up_again,
)
from tests.support.qemu import qemu_of
from vioblk.block.disk import BlockDevice
from vioblk.block.request import (
    REQUEST_RECORD,
    STATUS_PENDING,
    RequestStatus,
    RequestType,
)
from vioblk.pci.bars import Bar
from vioblk.pci.header import read_header
from vioblk.transport.qemu import QemuPlatform, start
from vioblk.transport.qemu.command_line import DEVICE_ID

EACH_WAY_AND_RING = pytest.mark.parametrize(
    ("way", "ring"),
    [
        pytest.param(way, ring, id=f"{way.name}-{ring}")
        for way, ring in zip(WAYS, ("native", "reference") * 2, strict=True)
    ],
)

PROMPT_S = 30.0
"""Within this, nobody waits for a device any more that has gone: half of what they would wait."""


class Batch:
    """Far more reads than a queue holds, on a thread of its own."""

    COUNT = 4096

    def __init__(self, disk: BlockDevice) -> None:
        self._disk = disk
        self._region = disk.alloc(512 * self.COUNT)
        self.statuses = bytearray([STATUS_PENDING]) * self.COUNT
        self.error: Exception | None = None
        self.ended_at = 0.0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        handle = self._region.handle
        records = b"".join(
            REQUEST_RECORD.pack(RequestType.IN, 0, 2 * index, 512 * index, 512, handle, index)
            for index in range(self.COUNT)
        )
        try:
            self._disk.execute(records, self.statuses, 60)
        except vioblk.VioblkError as error:
            self.error = error
        self.ended_at = time.monotonic()

    def ended(self) -> bool:
        self._thread.join(WAIT_S)
        return not self._thread.is_alive()

    def close(self) -> None:
        """Give its memory back, as nothing uses it any more."""
        self._region.close()


def record_commands(platform: QemuPlatform, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every qtest command from now on."""
    commands: list[str] = []
    qtest = platform.machine.qtest
    send = qtest._send

    def record(command: str) -> None:
        commands.append(command)
        send(command)

    monkeypatch.setattr(qtest, "_send", record)
    return commands


def touch(commands: list[str], bars: dict[int, Bar]) -> list[str]:
    """Those of the commands that access these BARs."""
    places = {"io": ("in", "out"), "memory": ("read", "write")}
    return [
        command
        for command in commands
        for bar in bars.values()
        if command.startswith(places[bar.kind])
        and 0 <= int(command.split()[1], 0) - bar.address < (bar.length or 0)
    ]


@EACH_WAY_AND_RING
def test_unplugged_with_many_requests_in_flight(
    monkeypatch: pytest.MonkeyPatch, way: Way, ring: str
) -> None:
    address = f"qemu:null:8M?{way.options}&latency=0.05&num_queues=2"
    with vioblk.open(address, ring=ring, timeout_s=WAIT_S) as disk:
        platform, bars = qemu_of(disk.device), dict(qemu_of(disk.device).machine.bars)
        batches = [Batch(disk) for _ in range(3)]
        assert poll(lambda: disk.device.in_flight > 100)
        commands = record_commands(platform, monkeypatch)
        assert poll(lambda: touch(commands, bars)), "the doorbells are seen"
        platform.unplug()
        unplugged_at = time.monotonic()
        commands.clear()
        for batch in batches:
            assert batch.ended()
            assert batch.ended_at - unplugged_at < PROMPT_S
            assert isinstance(batch.error, vioblk.DeviceGoneError)
            assert set(batch.statuses) <= {RequestStatus.OK, STATUS_PENDING}
            assert STATUS_PENDING in batch.statuses
        calls: list[Callable[[], object]] = [
            lambda: disk.read(0, 512),
            lambda: disk.write(0, bytes(512)),
            disk.flush,
            disk.reset,
            disk.device.transport.read_status,
        ]
        for call in calls:
            with pytest.raises(vioblk.DeviceGoneError):
                call()
        assert touch(commands, bars) == []
        check_that_another_works(platform)
        commands.clear()
        with pytest.raises(vioblk.DeviceGoneError, match="gone: the device was unplugged"):
            disk.read(0, 512)
        disk.close()
        assert touch(commands, bars) == [], "which are another's now"
        for batch in batches:
            batch.close()


def check_that_another_works(platform: QemuPlatform) -> None:
    platform.plug()
    with open_disk(platform.machine) as another:
        assert another.read(0, 512) == bytes(512)


def assert_gone(disk: BlockDevice, why: str | None = None) -> None:
    """Nothing tells of it but the time: see that a request is not waited for much longer."""
    region = disk.alloc(512)
    record = REQUEST_RECORD.pack(RequestType.IN, 0, 0, 0, 512, region.handle, 0)
    with pytest.raises(vioblk.DeviceGoneError, match=why):
        disk.execute(record, bytearray(1), 0.02)


@EACH_WAY_AND_RING
def test_a_disk_whose_machine_was_reset_cannot_be_reached(way: Way, ring: str) -> None:
    with vioblk.open(f"qemu:null:1M?{way.options}", ring=ring, timeout_s=WAIT_S) as disk:
        assert disk.read(0, 512) == bytes(512)
        machine = qemu_of(disk.device).machine
        reset_machine(machine)
        assert_gone(disk)
        # Else closing would have to wait in vain for a reset to be confirmed.
        set_up_again(machine)


@pytest.mark.parametrize(
    ("way", "ring", "interrupts"),
    [
        pytest.param(way, ring, interrupts, id=f"{way.name}-{ring}-{interrupts}")
        for interrupts in ("msix", "shared", "intx", "none")
        for way, ring in zip(WAYS, ("native", "reference") * 2, strict=True)
        # With one vector for all, any late interrupt is a reason to look at the configuration,
        # which lies elsewhere then (legacy), or behind a root port that leads nowhere yet.
        if interrupts != "shared" or way.name == "pc-modern"
    ],
)
def test_after_a_reset_of_the_machine_a_reset_of_the_disk_brings_it_back(
    way: Way, ring: str, interrupts: str
) -> None:
    address = f"qemu:null:1M?{way.options}&interrupts={interrupts}"
    with vioblk.open(address, ring=ring, timeout_s=WAIT_S) as disk:
        assert disk.read(0, 512) == bytes(512)
        machine = qemu_of(disk.device).machine
        reset_machine(machine)
        set_up_again(machine)
        # Or an interrupt that was late has found no registers in between.
        assert_gone(disk, "somebody else has reset the device|needs a reset")
        disk.reset()
        assert disk.read(0, 512) == bytes(512)


@EACH_WAY_AND_RING
def test_after_a_reset_of_the_machine_the_disk_is_opened_anew(way: Way, ring: str) -> None:
    with start(f"qemu:null:1M?{way.options}&interrupts=msix") as machine:
        with open_disk(machine, ring) as disk:
            assert disk.read(0, 512) == bytes(512)
            reset_machine(machine)
            set_up_again(machine)
            assert_gone(disk, "somebody else has reset the device")
        with open_disk(machine, ring) as disk:
            assert disk.read(0, 512) == bytes(512)
            assert disk.info.queues[0].kick_count


@on(WAYS)
def test_a_reset_of_the_machine_and_a_pending_unplug(way: Way) -> None:
    """On pc the reset completes it; a root port forgets it."""
    with vioblk.open(f"qemu:null:1M?{way.options}", timeout_s=WAIT_S) as disk:
        platform = qemu_of(disk.device)
        machine = platform.machine
        platform.qmp("device_del", id=DEVICE_ID)
        assert disk.read(0, 512) == bytes(512), "it is asked for, and not granted yet"
        reset_machine(machine)
        if not way.q35:
            await_event(machine, "DEVICE_DELETED")
            with pytest.raises(vioblk.DeviceGoneError):
                disk.read(0, 512)
            return
        set_up_again(machine)
        assert read_header(machine.config(machine.location)) is not None
