"""A QEMU as a machine, its device as the PCI transport sees it, and what can be done to it."""

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import vioblk
from tests.interop.qemu_machines import poll
from tests.support.leaks import no_leaks
from tests.support.patience import AMPLE_S, answers_within, hasty, standing_still
from tests.support.qemu import qemu_of
from vioblk.address import parse_address, sort_options
from vioblk.block.disk import BlockDevice
from vioblk.block.features import BLOCK_DEVICE_TYPE
from vioblk.block.request import COMPLETION_RECORD, REQUEST_RECORD, RequestType
from vioblk.pci.access import NotifyPlace
from vioblk.transport import qemu
from vioblk.transport.qemu.command_line import device_argument
from vioblk.transport.qemu.faults import ErrorRule, parse_rules
from vioblk.transport.qemu.options import OPTIONS, Settings, settings

SECTOR = 512
CAPACITY_BYTES = 4 << 20
WAIT_S = 30.0


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.truncate(CAPACITY_BYTES)
    return path


@pytest.fixture
def machine(image: Path) -> Iterator[qemu.Machine]:
    with qemu.start(f"qemu:{image}?num_queues=2") as machine:
        yield machine


@pytest.fixture
def platform(machine: qemu.Machine) -> Iterator[qemu.QemuPlatform]:
    platform = qemu.QemuPlatform(machine, owns_machine=False)
    yield platform
    platform.close()


# Options


def settings_of(address: str) -> Settings:
    parsed = parse_address(address)
    chosen = sort_options(
        parsed,
        {},
        transport_options=OPTIONS,
        driver_options={},
        device_type=BLOCK_DEVICE_TYPE,
    )
    return settings(parsed, chosen.transport)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("root_port=on", "only machine=q35 has root ports"),
        ("interface=modern&drive=modern", "drive= chooses between"),
        ("machine=q35&drive=legacy", "drive= chooses between"),
        ("latency=1", "needs a target such as null:64M"),
        ("machine=q35&irq=5", "irq= is for machine=pc"),
        ("device=rng&num_queues=2&serial=x", "a source of entropy has no num_queues, serial"),
        ("offer=event_idx&withhold=event_idx", "event_idx cannot be both"),
        ("withhold=flush", "cannot switch flush off"),
        ("ram=17000000", "a multiple of 1M"),
        ("machine=q35&io_address=0xc300", "behind a root port"),
        ("machine=virt", "one of pc, q35"),
        ("slot=31", "a number from 2 to 30"),
        ("io_address=0x80", "an address from 0xb000 to 0xff00"),
        ("io_address=low", "an address from 0xb000 to 0xff00"),
        ("property=on", "name=value,name=value"),
        ("property=addr=7,x=y,id=z", "addr, id cannot be set so: other options decide it"),
        ("property=x=%00", "a NUL byte"),
        ("serial=%00", "a NUL byte"),
        ("binary=%00", "without a NUL byte"),
        ("inject=tear", "one of read, write, flush, discard, write-zeroes, not 'tear'"),
        ("inject=read:sector", "none of sector=NUMBER, errno=NAME and once"),
        ("inject=read:errno=EWHAT", "none of sector=NUMBER, errno=NAME and once"),
        ("inject=read:once:once", "says one thing twice"),
        ("num_queue=2", "did you mean num_queues"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_started(options: str, why: str) -> None:
    with pytest.raises(vioblk.AddressError, match=re.escape(why)):
        settings_of(f"qemu:disk.img?{options}")


@pytest.mark.parametrize("target", ["null:513", "null:what", "null:"])
def test_a_disk_without_image_has_a_size(target: str) -> None:
    with pytest.raises(vioblk.AddressError):
        settings_of(f"qemu:{target}")


def test_a_feature_that_qemu_never_offers_is_an_error_of_negotiation() -> None:
    with pytest.raises(vioblk.NegotiationError, match="does not offer secure_erase"):
        vioblk.open("qemu:null:1M?secure_erase=on")


@pytest.mark.parametrize(
    ("options", "interface", "root_port", "used"),
    [
        ("machine=pc", "transitional", False, "modern"),
        ("machine=pc&drive=legacy", "transitional", False, "legacy"),
        ("machine=pc&interface=legacy", "legacy", False, "legacy"),
        ("machine=pc&offer=iommu_platform", "modern", False, "modern"),
        ("machine=q35", "modern", True, "modern"),
        ("machine=q35&root_port=off", "modern", False, "modern"),
        ("machine=q35&interface=transitional", "transitional", False, "modern"),
    ],
)
def test_what_is_chosen_if_little_is_said(
    options: str, interface: str, root_port: bool, used: str
) -> None:
    chosen = settings_of(f"qemu:disk.img?{options}")
    assert (chosen.interface, chosen.root_port, chosen.used_interface) == (
        interface,
        root_port,
        used,
    )


def test_commas_of_a_value_are_no_end_of_it() -> None:
    argument = device_argument(settings_of("qemu:disk.img?serial=a,b&property=x=1,y=2"))
    assert ",serial=a,,b," in argument
    assert argument.endswith(",x=1,y=2")


def test_rules_can_be_given_as_objects() -> None:
    rule = ErrorRule("flush", once=True)
    assert parse_rules(rule) == parse_rules([rule]) == parse_rules("flush:once") == (rule,)
    with pytest.raises(ValueError, match=r"such as errno\.ENOSPC, and not 9999$"):
        ErrorRule("read", errno=9999)


HOSTILE_NAMES = (
    'a,b=c "d" %\N{SNOWMAN}.img',
    "line\nbreak\\ '$HOME' *",
    'json:{"driver":"null-co"}',
    "nbd:localhost:1",
    "-help",
    "if=none,file=other",
)
"""What QEMU, or a shell, would take for something else in another place."""


@pytest.mark.parametrize("relative", [False, True], ids=["absolute", "relative"])
@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_path_may_contain_anything(
    tmp_path: Path, name: str, relative: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    image = tmp_path / name
    image.write_bytes(bytes(SECTOR))
    with vioblk.open(f"qemu:{name if relative else image}") as disk:
        disk.write(0, b"\x44" * SECTOR)
        disk.flush()
    assert image.read_bytes() == b"\x44" * SECTOR


@pytest.mark.parametrize("name", ["a\0b", os.fsdecode(b"\xff")])
def test_a_path_that_qemu_cannot_be_told_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(vioblk.AddressError, match=r"NUL byte|in UTF-8 only"):
        vioblk.open(f"qemu:{tmp_path}/{name}")


@pytest.mark.parametrize("serial", [",drive=x", "a,,b", 'on,vectors=0"', "-x", "="])
def test_a_serial_number_may_contain_anything(image: Path, serial: str) -> None:
    with vioblk.open(f"qemu:{image}", serial=serial) as disk:
        assert disk.serial == serial


# The machine


def test_the_bars_are_where_they_are_wanted(image: Path) -> None:
    address = f"qemu:{image}?interface=legacy&io_address=0xc300&memory_address=0xf2060000"
    with qemu.start(f"{address}&withhold=discard,write_zeroes") as machine:
        (disk,) = (each for each in machine.functions() if str(each.location) == "0000:00:05.0")
        assert [(bar.kind, bar.address, bar.length) for bar in disk.bars] == [
            ("io", 0xC300, 0x40),
            ("memory", 0xF2060000, 0x1000),
        ]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            "machine=pc",
            {
                *("0000:00:00.0", "0000:00:01.0", "0000:00:01.1", "0000:00:01.3"),
                *("0000:00:05.0", "0000:00:1e.0"),
            },
        ),
        (
            "machine=q35&slot=30",
            {"0000:00:00.0", "0000:00:1d.0", "0000:00:1e.0", "0000:00:1f.0", "0000:01:00.0"},
        ),
        ("machine=q35&vectors=0", {"0000:00:00.0", "0000:00:05.0", "0000:00:1f.0", "0000:01:00.0"}),
    ],
)
def test_every_function_is_found(image: Path, options: str, expected: set[str]) -> None:
    with qemu.start(f"qemu:{image}?{options}") as machine:
        functions = machine.functions()
        assert {str(each.location) for each in functions} == expected
        claimed = sorted(
            (bar.address, bar.address + (bar.length or 0))
            for each in functions
            for bar in each.bars
            if bar.address
        )
        ends = [0, *(end for _, end in claimed)]
        assert all(start >= end for (start, _), end in zip(claimed, ends, strict=False))


def test_memory_is_shared_byte_by_byte_at_its_own_address(
    machine: qemu.Machine, platform: qemu.QemuPlatform
) -> None:
    platform.map_memory(2 << 20)
    with platform.space.alloc(4096) as region:
        with memoryview(region) as view:
            view[16:20] = b"\x11\x22\x33\x44"
            assert machine.qtest.read_memory(region.device_address + 16, 4) == 0x44332211
            machine.qtest.write_memory(region.device_address + 20, 2, 0x5566)
            assert bytes(view[20:22]) == b"\x66\x55"


def test_memory_is_given_out_once_and_has_an_end(image: Path) -> None:
    with qemu.start(f"qemu:{image}?ram=32M") as machine:
        platforms = [qemu.QemuPlatform(machine, owns_machine=False)]
        first = platforms[0].map_memory(8 << 20)
        platforms[0].close()
        platforms.append(qemu.QemuPlatform(machine, owns_machine=False))
        second = platforms[1].map_memory(8 << 20)
        assert second.device_address >= first.device_address + first.length
        with pytest.raises(MemoryError, match=r"has 33554432 bytes of memory.*ram="):
            platforms[1].map_memory(16 << 20)
        platforms[1].close()


def test_registers_are_accessed_with_their_width_and_within_their_bar(
    platform: qemu.QemuPlatform,
) -> None:
    with pytest.raises(vioblk.TransportError, match="no BAR 2"):
        platform.registers(2)
    registers = platform.registers(4)
    assert registers.length == 0x4000
    for offset, width in ((0, 3), (0, 8), (1, 2), (0x4000, 1), (0x3FFE, 4), (-1, 1)):
        with pytest.raises(ValueError, match=r"access|read or written"):
            registers.read(offset, width)
    with pytest.raises(ValueError, match="does not fit"):
        registers.write(0, 1, 256)


def test_each_vector_signals_its_own_descriptor(
    machine: qemu.Machine, platform: qemu.QemuPlatform
) -> None:
    fds = platform.open_vectors(3)
    server = machine.doorbells
    assert server is not None
    for vector in (2, 0, 1):
        machine.qtest.write_memory(machine.doorbell_address, 4, server.message_data(vector))
        assert [_count(fd) for fd in fds] == [int(vector == each) for each in range(3)]
    with pytest.raises(vioblk.TransportError, match="4 MSI-X vectors were asked for, and 3"):
        platform.open_vectors(4)
    assert platform.open_vectors(0) == []
    assert platform.open_vectors(2) == fds[:2]


def _count(fd: int) -> int:
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0


def test_a_doorbell_carries_no_data(platform: qemu.QemuPlatform) -> None:
    with pytest.raises(vioblk.UnsupportedError, match="NOTIFICATION_DATA"):
        platform.doorbell(0, NotifyPlace(4, 0x3000, 0, carries_data=True))


def test_a_machine_without_doorbells_has_no_vectors(image: Path) -> None:
    with pytest.raises(vioblk.TransportError, match="MSI-X"):
        vioblk.open(f"qemu:{image}?vectors=0&interrupts=msix")


# What can be done to the device


def test_the_device_has_its_own_view(image: Path) -> None:
    with vioblk.open(f"qemu:{image}?num_queues=2", queue_count=2) as disk:
        platform = qemu_of(disk.device)
        status = platform.device_status()
        assert status["name"] == "virtio-blk"
        assert status["num-vqs"] == 2
        assert any("DRIVER_OK" in each for each in status["status"]["statuses"])
        assert platform.queue_status(1)["vring-num"] == disk.info.queues[1].size
        assert "disk" in platform.hmp("info block")
        with pytest.raises(qemu.QmpError, match="refused no-such-command"):
            platform.qmp("no-such-command")


@pytest.mark.parametrize("options", ["machine=pc", "machine=q35", "inject=flush"])
def test_held_requests_are_overtaken(image: Path, options: str) -> None:
    with vioblk.open(f"qemu:{image}?{options}") as disk, disk.alloc(2 * SECTOR) as region:
        platform = qemu_of(disk.device)
        platform.hold_requests("read")
        for token in (1, 2):
            record = REQUEST_RECORD.pack(
                # Far from each other: the device makes one request of neighbours.
                *(RequestType.IN, 0, 64 * token, (token - 1) * SECTOR, SECTOR),
                *(region.handle, token),
            )
            assert disk.submit_many(record) == 1
        assert _reap_one(disk) == 2
        platform.release_requests("read")
        assert _reap_one(disk) == 1
        with pytest.raises(ValueError, match="read, write, flush"):
            platform.hold_requests("discard")


def _reap_one(disk: BlockDevice) -> int:
    out = bytearray(COMPLETION_RECORD.size)
    assert disk.wait(WAIT_S)
    assert disk.reap_many(out) == 1
    token, _, status = COMPLETION_RECORD.unpack(out)
    assert status == 0
    return int(token)


def test_rules_for_errors_replace_each_other(image: Path) -> None:
    with vioblk.open(f"qemu:{image}") as disk:
        platform = qemu_of(disk.device)
        platform.inject_error(ErrorRule("read", sector=7), ErrorRule("flush"))
        with pytest.raises(vioblk.RequestFailedError):
            disk.read(0, 16 * SECTOR)
        disk.write(0, b"\x29" * SECTOR)
        with pytest.raises(vioblk.RequestFailedError, match="QEMU told of"):
            disk.flush()
        platform.inject_error(ErrorRule("write", once=True))
        disk.flush()
        with pytest.raises(vioblk.RequestFailedError):
            disk.write(0, bytes(SECTOR))
        platform.inject_error()
        disk.write(SECTOR, b"\x2a" * SECTOR)
        assert disk.read(0, 2 * SECTOR) == b"\x29" * SECTOR + b"\x2a" * SECTOR
        platform.resize(2 * CAPACITY_BYTES)
        assert len(platform.qmp("query-named-block-nodes")) == 2, "old nodes have gone"


@pytest.mark.parametrize("options", ["machine=pc", "machine=pc&interface=legacy", "machine=q35"])
def test_a_device_is_unplugged_and_another_plugged_in(image: Path, options: str) -> None:
    given = f"{options}&num_queues=2&serial=one,two&property=bootindex=3,share-rw=yes"
    with vioblk.open(f"qemu:{image}?{given}") as disk:
        disk.write(0, b"\x61" * SECTOR)
        platform = qemu_of(disk.device)
        platform.inject_error(ErrorRule("write", sector=99))
        platform.unplug()
        with pytest.raises(vioblk.DeviceGoneError):
            disk.read(0, SECTOR)
        with pytest.raises(vioblk.DeviceGoneError, match="unplugged"):
            platform.registers(1).read(0, 4)
        with pytest.raises(qemu.QmpError, match="refused"):
            platform.device_status()
        platform.plug()
        path = "/machine/peripheral/device0"
        assert platform.qmp("qom-get", path=path, property="share-rw") is True
        again = qemu.attach(platform.machine)
        assert again.read_status() == 0
        assert again.queue_size_max(1) == 256
        assert not again.queue_size_max(2)
        again.close()


def test_without_a_root_port_nothing_is_unplugged_on_q35(image: Path) -> None:
    with vioblk.open(f"qemu:{image}?machine=q35&root_port=off") as disk:
        with pytest.raises(vioblk.UnsupportedError, match="root port"):
            qemu_of(disk.device).unplug()
        assert disk.read(0, SECTOR) == bytes(SECTOR)


# Ends


def test_all_who_wait_are_told_when_qemu_dies(image: Path) -> None:
    with vioblk.open(f"qemu:{image}?num_queues=2", queue_count=2, timeout_s=60) as disk:
        platform = qemu_of(disk.device)
        ended: list[BaseException] = []

        def work(call: Callable[[], object]) -> None:
            try:
                call()
            except BaseException as error:
                ended.append(error)

        # No flush: QEMU does nothing, and holds nothing, where nothing was written.
        platform.hold_requests("write")
        platform.hold_requests("read")
        calls: list[Callable[[], object]] = [
            lambda: disk.write(0, bytes(SECTOR)),
            lambda: disk.read(0, SECTOR),
        ]
        threads = [threading.Thread(target=work, args=(call,)) for call in calls]
        for thread in threads:
            thread.start()
        assert poll(lambda: disk.device.in_flight == 2)
        platform.machine.process.kill()
        for thread in threads:
            thread.join(WAIT_S)
        assert [type(error) for error in ended] == [vioblk.DeviceGoneError] * 2
        late: list[Callable[[], object]] = [
            *calls,
            disk.reset,
            lambda: platform.qmp("query-status"),
            lambda: platform.registers(4).read(0, 1),
        ]
        for call in late:
            with pytest.raises(vioblk.DeviceGoneError):
                call()
        with pytest.raises(vioblk.DeviceGoneError, match="SIGKILL"):
            platform.config.read(0, 4)


def test_every_call_has_a_bound_while_qemu_stands_still(image: Path) -> None:
    with vioblk.open(f"qemu:{image}", timeout_s=2 * AMPLE_S) as disk:
        platform = qemu_of(disk.device)
        with standing_still(platform, 0.1), hasty(disk, 0.1):
            for call in (
                lambda: disk.read(0, SECTOR),
                lambda: platform.qmp("query-status"),
                lambda: platform.config.read(0, 4),
                lambda: platform.registers(4).read(0, 4),
                disk.reset,
            ):
                before = time.monotonic()
                with pytest.raises((vioblk.TransportError, TimeoutError)):
                    call()
                assert time.monotonic() - before < AMPLE_S
        disk.reset()
        disk.write(0, b"\x51" * SECTOR)
        assert disk.read(0, SECTOR) == b"\x51" * SECTOR


def test_a_doorbell_that_was_not_heard_in_time_is_rung_again(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else would: the driver has notified the device, and waits."""
    with vioblk.open(f"qemu:{image}", timeout_s=WAIT_S) as disk:
        qtest = qemu_of(disk.device).machine.qtest
        post = qtest.post
        failures = [vioblk.TransportError("QEMU has not answered")] * 2

        def post_late(command: str) -> None:
            if failures:
                raise failures.pop()
            post(command)

        monkeypatch.setattr(qtest, "post", post_late)
        assert disk.read(0, SECTOR) == bytes(SECTOR)
        assert failures == []


def test_a_disk_is_closed_while_its_qemu_stands_still(image: Path) -> None:
    disk = vioblk.open(f"qemu:{image}", timeout_s=0.2)
    machine = qemu_of(disk.device).machine
    process = machine.process
    process.pause()
    before = time.monotonic()
    with (
        answers_within(0.2, machine.qtest, machine.monitor),
        suppress(vioblk.TransportError, TimeoutError),  # it cannot be asked to reset
    ):
        disk.close()
    assert time.monotonic() - before < AMPLE_S
    assert not process.running


@pytest.mark.parametrize(
    ("options", "error", "why"),
    [
        ("property=bogus=1", vioblk.TransportError, "Property 'virtio-blk-pci.bogus' not found"),
        ("format=qcow2", vioblk.TransportError, "not in qcow2 format"),
        ("binary=/no/such/qemu", vioblk.TransportError, "no program /no/such/qemu"),
        ("binary=true", vioblk.TransportError, "did not start: QEMU has ended with exit code 0"),
    ],
)
def test_a_qemu_that_does_not_start_says_why_and_leaves_nothing(
    image: Path, options: str, error: type[Exception], why: str
) -> None:
    vioblk.open(f"qemu:{image}").close()
    with no_leaks(), pytest.raises(error, match=re.escape(why)):
        vioblk.open(f"qemu:{image}?{options}")


def test_a_missing_qemu_is_told_with_its_package(
    image: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(vioblk.TransportError, match="apt-get install qemu-system-x86"):
        vioblk.open(f"qemu:{image}")


def test_a_program_that_says_nothing_is_given_up(image: Path, tmp_path: Path) -> None:
    program = tmp_path / "qemu"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    before = time.monotonic()
    with no_leaks(), pytest.raises(vioblk.TransportError, match=r"not answered for 0\.3 s"):
        vioblk.open(f"qemu:{image}?binary={program}&start_timeout=0.3")
    assert time.monotonic() - before < AMPLE_S


def test_an_image_that_is_not_there_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        vioblk.open(f"qemu:{tmp_path}/none.img")


def test_an_image_in_use_is_refused_and_one_with_readers_shared(image: Path) -> None:
    with vioblk.open(f"qemu:{image}"):
        with pytest.raises(vioblk.TransportError, match="Is another process using the image"):
            vioblk.open(f"qemu:{image}")
    with vioblk.open(f"qemu:{image}?read_only=on"), vioblk.open(f"qemu:{image}?read_only=on"):
        pass


@pytest.mark.parametrize(
    "options", ["machine=pc", "machine=q35&interrupts=intx", "drive=legacy", "access=window"]
)
def test_closing_gives_everything_back(image: Path, options: str) -> None:
    def cycle() -> None:
        with vioblk.open(f"qemu:{image}?{options}", on_config_change=lambda config: None) as disk:
            disk.write(0, bytes(SECTOR))

    cycle()
    # Without the garbage collector: what is closed is given back at once.
    with no_leaks(collect=False):
        for _ in range(3):
            cycle()


def test_a_disk_is_plugged_in_as_often_as_one_likes(image: Path) -> None:
    """Behind a root port there is room for a few BARs only."""
    with qemu.start(f"qemu:{image}?machine=q35&page_per_vq=on") as machine:
        for _ in range(20):
            transport = qemu.attach(machine)
            platform = transport.platform
            assert isinstance(platform, qemu.QemuPlatform)
            platform.unplug()
            platform.plug()
            transport.close()
        assert machine.bars[4].length == 8 << 20


def test_a_bar_that_is_larger_than_its_window_is_an_error(image: Path) -> None:
    address = f"qemu:{image}?machine=pc&page_per_vq=on&memory_address=0xfd900000"
    with no_leaks(), pytest.raises(vioblk.TransportError, match="no room for a BAR of 0x800000"):
        qemu.start(address)
