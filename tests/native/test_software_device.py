"""SoftwareDevice as Python sees it: arguments, exceptions, threads, fork. What it does as a device
is tested in Rust (tests/rust/tests/device)."""

import errno
import fcntl
import gc
import inspect
import os
import resource
import struct
import subprocess
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.leaks import no_leaks
from vioblk._native import DmaSpace, SoftwareDevice, SplitQueue, split_layout
from vioblk.errors import ForkedError, StateError
from vioblk.ring import Chain

FEATURES = 1 << 32 | 1 << 9
"""VERSION_1 and FLUSH."""

IMAGE_BYTES = 64 * 512

QUEUE_SIZE = 8
FLUSH_HEADER = b"\x04" + bytes(15)


class Rig:
    """A live device, its ring, and one flush request to send through it."""

    def __init__(self, **options: Any) -> None:
        self.space = DmaSpace()
        self.space.map(1 << 16, 1 << 32)
        options = {"capacity_sectors": 64, "features": FEATURES, "threaded": False} | options
        self.device = SoftwareDevice(self.space, **options)
        layout = split_layout(QUEUE_SIZE)
        region = self.space.alloc(layout.length)
        self.queue = SplitQueue(region, QUEUE_SIZE)
        self.device.write_status(3)
        self.device.write_features(FEATURES)
        self.device.write_status(11)
        base = region.device_address
        self.device.enable_queue(
            0,
            QUEUE_SIZE,
            base + layout.descriptors_offset,
            base + layout.available_offset,
            base + layout.used_offset,
        )
        self.device.write_status(15)
        self.request = self.space.alloc(17)
        self.set_header(FLUSH_HEADER)

    def set_header(self, header: bytes) -> None:
        """What `push` sends from now on."""
        with memoryview(self.request) as view:
            view[:16] = header

    def push(self, count: int = 1) -> None:
        """Send flushes, without a kick."""
        self.queue.push_many([Chain([(self.request, 0, 16)], [(self.request, 16, 1)])] * count)
        self.queue.publish()


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.device.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give capacity_sectors or path"),
        ({"capacity_sectors": 8, "path": "/dev/null"}, "leave one of them out"),
        ({"capacity_sectors": -1}, "capacity_sectors is -1"),
        ({"capacity_sectors": (1 << 54) + 1}, "more than 2.63 bytes"),
        ({"capacity_sectors": 1 << 200}, "out of range"),
        ({"capacity_sectors": 9, "block_size": 4096}, "whole blocks of 4096"),
        ({"capacity_sectors": 8, "block_size": 1000}, "block_size is 1000"),
        ({"capacity_sectors": 8, "queue_count": 0}, "queue_count is 0"),
        ({"capacity_sectors": 8, "queue_size_max": 100}, "queue_size_max is 100"),
        ({"capacity_sectors": 8, "queue_size_max": 1 << 16}, "queue_size_max is 65536"),
        ({"capacity_sectors": 8, "serial": b"x" * 21}, "21 bytes"),
        ({"path": "/dev/null"}, "/dev/null: neither a regular file nor a block device"),
    ],
)
def test_bad_arguments_are_named_with_their_value(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SoftwareDevice(DmaSpace(), features=FEATURES, **options)


def test_a_file_that_cannot_be_opened_is_the_system_s_own_error(tmp_path: Path) -> None:
    missing = tmp_path / "missing.img"
    with pytest.raises(FileNotFoundError) as caught:
        SoftwareDevice(DmaSpace(), features=FEATURES, path=str(missing))
    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, str(missing))


def open_file(path: Path, **options: Any) -> SoftwareDevice:
    return SoftwareDevice(DmaSpace(), features=FEATURES, path=str(path), **options)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(IMAGE_BYTES))
    return path


@pytest.mark.parametrize("read_only", [False, True])
def test_a_file_that_is_open_elsewhere_for_writing_is_busy(image: Path, read_only: bool) -> None:
    first = open_file(image)
    with pytest.raises(OSError, match=r"disk\.img is open elsewhere for writing; close") as caught:
        open_file(image, read_only=read_only)
    assert caught.value.errno == errno.EBUSY
    first.close()
    open_file(image, read_only=read_only).close()


def test_a_lock_that_another_program_holds_on_bytes_of_a_file_is_heeded(image: Path) -> None:
    """QEMU locks some bytes from 100 on, for reading, in every image that it uses."""
    with image.open("r+b") as other:
        lock = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 101, 1, 0)
        fcntl.fcntl(other, fcntl.F_OFD_SETLK, lock)
        with pytest.raises(OSError, match="is locked by another program") as caught:
            open_file(image)
        assert caught.value.errno == errno.EBUSY
        open_file(image, read_only=True).close()
    open_file(image).close()


def test_a_closed_device_lets_go_of_a_file_that_a_child_has_inherited(image: Path) -> None:
    device = open_file(image)
    read_fd, write_fd = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        os.close(write_fd)
        os.read(read_fd, 1)  # until the parent closes its end
        os._exit(0)
    try:
        device.close()
        open_file(image).close()
    finally:
        os.close(read_fd)
        os.close(write_fd)
        os.waitpid(pid, 0)


def test_a_child_that_drops_an_inherited_device_leaves_the_lock(image: Path) -> None:
    devices = [open_file(image)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        devices[0].close()
        devices.clear()
        gc.collect()
        os._exit(0)
    os.waitpid(pid, 0)
    with pytest.raises(OSError, match="open elsewhere"):
        open_file(image)
    devices[0].close()


@pytest.fixture
def loop_device(image: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("a loop device needs root")
    command = ["losetup", "--find", "--show", str(image)]
    made = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if made.returncode != 0:
        pytest.skip(f"no loop device: {made.stderr.strip()}")
    path = Path(made.stdout.strip())
    yield path
    subprocess.run(["losetup", "--detach", str(path)], check=True, timeout=30)


def test_a_block_device_that_somebody_claims_is_not_written(loop_device: Path) -> None:
    claim = os.open(loop_device, os.O_RDWR | os.O_EXCL)  # as a mount claims it
    try:
        why = f"{loop_device} is mounted or in use; unmount it, or open it with read_only=on"
        with pytest.raises(OSError, match=why) as caught:
            open_file(loop_device)
        assert caught.value.errno == errno.EBUSY
        open_file(loop_device, read_only=True).close()
    finally:
        os.close(claim)
    first = open_file(loop_device)
    with pytest.raises(OSError, match="in use"):
        open_file(loop_device)
    first.close()
    open_file(loop_device).close()


def test_the_error_of_a_file_behind_an_ioerr_is_kept(image: Path) -> None:
    rig = Rig(capacity_sectors=0, path=str(image))
    data = rig.space.alloc(512)
    rig.set_header(struct.pack("<IIQ", 1, 0, 16))
    chain = Chain([(rig.request, 0, 16), (data, 0, 512)], [(rig.request, 16, 1)])
    rig.queue.push(chain)
    rig.queue.publish()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        rig.device.serve()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with memoryview(rig.request) as view:
        assert view[16] == 1  # IOERR
    expected = "writing 512 bytes at byte 8192: File too large (os error 27)"
    assert rig.device.last_error == expected
    rig.device.close()
    assert rig.device.last_error == expected


def test_an_integer_must_be_one() -> None:
    with pytest.raises(TypeError, match="capacity_sectors must be an integer"):
        SoftwareDevice(DmaSpace(), features=FEATURES, capacity_sectors="64")  # type: ignore[arg-type]


def test_the_documented_faults_are_those_that_there_are(rig: Rig) -> None:
    with pytest.raises(ValueError, match="there is no fault") as caught:
        rig.device.inject("nonsense")
    names = str(caught.value).partition("there are: ")[2].split(", ")
    assert len(names) == 24
    for name in names:
        if name != "needs_reset":
            rig.device.inject(name, count=0)
    with pytest.raises(ValueError, match="count is -1"):
        rig.device.inject("silence", count=-1)
    with pytest.raises(ValueError, match=r"count is 9223372036854775808, but .* at most 65536"):
        rig.device.inject("spurious_interrupt", count=2**63)


def test_serve_is_for_devices_without_a_thread(rig: Rig) -> None:
    rig.push(4)
    assert rig.device.serve(1) == 1
    assert rig.device.serve(0) == 0
    assert rig.device.serve() == 3
    threaded = Rig(threaded=True)
    with pytest.raises(StateError, match="threaded=False"):
        threaded.device.serve()
    threaded.device.close()


def test_a_serving_doorbell_has_the_device_serve_before_it_has_rung(rig: Rig) -> None:
    doorbell = rig.device.serving_doorbell(0)
    rig.push(3)
    doorbell.ring()
    assert len(rig.queue.reap()) == 3
    assert rig.device.counters()["kicks"] == 1
    doorbell.ring()
    assert rig.queue.reap() == []


def test_a_serving_doorbell_is_for_a_device_without_a_thread_and_for_its_queues(rig: Rig) -> None:
    with pytest.raises(ValueError, match="there is no queue 1, but 1 queues"):
        rig.device.serving_doorbell(1)
    threaded = Rig(threaded=True)
    with pytest.raises(StateError, match="threaded=False"):
        threaded.device.serving_doorbell(0)
    threaded.device.close()


def test_a_serving_doorbell_of_a_closed_device_says_so(rig: Rig) -> None:
    doorbell = rig.device.serving_doorbell(0)
    rig.device.close()
    with pytest.raises(StateError, match="is closed"):
        doorbell.ring()


def test_configuration_has_96_bytes(rig: Rig) -> None:
    assert len(rig.device.read_config(0, 96)) == 96
    for call in (
        lambda: rig.device.read_config(95, 2),
        lambda: rig.device.write_config(96, b"x"),
        lambda: rig.device.read_config(1 << 63, 1 << 63),
    ):
        with pytest.raises(ValueError, match="has 96 bytes"):
            call()


def test_the_reason_for_a_demanded_reset_can_be_read(rig: Rig) -> None:
    assert rig.device.violation is None
    rig.queue.push(Chain([(rig.request, 0, 8)], [(rig.request, 16, 1)]))
    rig.queue.publish()
    rig.device.serve()
    assert rig.device.read_status() == 15 | 64
    assert rig.device.violation == "a request has 8 readable bytes, less than its header"


def test_after_close_only_the_counters_can_be_read(rig: Rig) -> None:
    rig.push()
    rig.device.serve()
    rig.device.close()
    rig.device.close()
    assert rig.device.counters()["flushes"] == 1
    assert rig.device.violation is None
    assert rig.device.last_error is None
    for call in _calls(rig.device).values():
        with pytest.raises(StateError, match="closed"):
            call()


def test_a_child_gets_an_error_from_every_call_and_the_parent_goes_on() -> None:
    rig = Rig(threaded=True)
    calls = _calls(rig.device) | {
        "counters": rig.device.counters,
        "violation": lambda: rig.device.violation,
        "last_error": lambda: rig.device.last_error,
    }
    with warnings.catch_warnings():
        # Python warns of forking with threads; that it is survived is what is tested.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        refused = 0
        try:
            for call in calls.values():
                try:
                    call()
                except ForkedError:
                    refused += 1
            rig.device.close()
            del rig, call, calls
            gc.collect()
        finally:
            os._exit(refused)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == len(calls)
    # Its thread still serves: neither close() nor the last reference in the child reached it.
    rig.push()
    os.eventfd_write(rig.device.kick_fd(0), 1)
    _wait_for(rig.device.interrupt_fd(0))
    assert len(rig.queue.reap()) == 1
    rig.device.close()


def test_devices_leave_nothing_behind_closed_or_not() -> None:
    with no_leaks():
        for number in range(100):
            rig = Rig(threaded=True)
            if number % 2:
                rig.device.close()
            del rig


def test_other_threads_run_while_the_device_serves() -> None:
    rig = Rig()
    stop = threading.Event()
    failures: list[BaseException] = []

    def visit() -> None:
        try:
            while not stop.is_set():
                rig.device.resize(64)
                rig.device.counters()
        except BaseException as error:
            failures.append(error)

    visitor = threading.Thread(target=visit)
    visitor.start()
    try:
        for _ in range(300):
            rig.push(4)
            assert rig.device.serve() == 4
            assert len(rig.queue.reap()) == 4
    finally:
        stop.set()
        visitor.join(30)
    assert not failures
    assert not visitor.is_alive()
    rig.device.close()


def _wait_for(fd: int) -> None:
    import select

    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(30_000), "no interrupt within 30 s"


def _calls(device: SoftwareDevice) -> dict[str, Callable[[], object]]:
    """Every public call that needs an open device of this process."""
    calls: dict[str, Callable[[], object]] = {
        "read_status": device.read_status,
        "write_status": lambda: device.write_status(0),
        "read_features": device.read_features,
        "write_features": lambda: device.write_features(0),
        "read_config": lambda: device.read_config(0, 8),
        "write_config": lambda: device.write_config(0x20, b"\0"),
        "config_generation": device.config_generation,
        "enable_queue": lambda: device.enable_queue(0, QUEUE_SIZE, 0, 0, 0),
        "reset_queue": lambda: device.reset_queue(0),
        "is_queue_resetting": lambda: device.is_queue_resetting(0),
        "kick_fd": lambda: device.kick_fd(0),
        "serving_doorbell": lambda: device.serving_doorbell(0),
        "interrupt_fd": lambda: device.interrupt_fd(0),
        "config_fd": lambda: device.config_fd,
        "serve": device.serve,
        "reset_counters": device.reset_counters,
        "inject": lambda: device.inject("silence"),
        "clear_faults": device.clear_faults,
        "power_loss": device.power_loss,
        "resize": lambda: device.resize(64),
    }
    public = {name for name, _ in inspect.getmembers_static(SoftwareDevice) if name[0] != "_"}
    assert public == set(calls) | {"close", "counters", "violation", "last_error"}
    return calls
