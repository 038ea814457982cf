"""No QEMU outlives the process that started it, whatever ends that; and nothing else ends one."""

import gc
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import vioblk
from tests.support.leaks import no_leaks
from tests.test_fork import in_child
from vioblk.block.disk import BlockDevice
from vioblk.transport import qemu
from vioblk.transport.pci import PciTransport
from vioblk.transport.qemu.process import QemuProcess, guard
from vioblk.transport.qemu.qmp import Qmp

TIMEOUT_S = 60.0


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.truncate(1 << 20)
    return path


def platform_of(disk: BlockDevice) -> qemu.QemuPlatform:
    transport = disk.device.transport
    assert isinstance(transport, PciTransport)
    platform = transport.platform
    assert isinstance(platform, qemu.QemuPlatform)
    return platform


def has_ended(pidfd: int) -> bool:
    """Wait for the end of a process, anybody's child."""
    return bool(select.select([pidfd], [], [], TIMEOUT_S)[0])


@contextmanager
def watched(pid: int) -> Iterator[int]:
    pidfd = os.pidfd_open(pid)
    try:
        yield pidfd
    finally:
        os.close(pidfd)


PROGRAM = """
import os, sys, threading
import vioblk
from vioblk.transport import qemu
from vioblk.transport.qemu import machine, process

address = sys.argv[1]

def tell(pid):
    print(pid, flush=True)
    sys.stdin.read()  # for ever: nobody writes or closes it before this process is killed

{body}
"""

MOMENTS = {
    # QEMU has been started, and has not said anything.
    "starting": """
class Told(process.QemuProcess):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        tell(self.pid)
machine.QemuProcess = Told
vioblk.open(address)
""",
    # Half of what firmware does has been done.
    "programming": """
def place_device(self):
    tell(self.process.pid)
machine.Machine.place_device = place_device
vioblk.open(address)
""",
    "idle": """
disk = vioblk.open(address)
tell(disk.device.transport.platform.machine.process.pid)
""",
    "opened by a thread that has ended": """
disks = []
thread = threading.Thread(target=lambda: disks.append(vioblk.open(address)))
thread.start()
thread.join()
disks[0].write(0, bytes(512))
tell(disks[0].device.transport.platform.machine.process.pid)
""",
    "with a request in flight": """
disk = vioblk.open(address)
platform = disk.device.transport.platform
platform.hold_requests("write")
threading.Thread(target=disk.write, args=(0, bytes(512))).start()
tell(platform.machine.process.pid)
""",
    "standing still": """
disk = vioblk.open(address)
disk.device.transport.platform.pause()
tell(disk.device.transport.platform.machine.process.pid)
""",
    # A child has copies of all descriptors, and lives on.
    "with a child that lives": """
disk = vioblk.open(address)
if os.fork() == 0:
    os.execlp("sleep", "sleep", "200")
tell(disk.device.transport.platform.machine.process.pid)
""",
}


@contextmanager
def opener(body: str, image: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", PROGRAM.format(body=body), f"qemu:{image}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()
            # And the children that it may have left behind.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("moment", MOMENTS)
def test_sigkill_of_the_opener_ends_qemu(moment: str, image: Path) -> None:
    with opener(MOMENTS[moment], image) as process:
        assert process.stdout is not None
        with watched(int(process.stdout.readline())) as pidfd:
            assert not select.select([pidfd], [], [], 0)[0], "QEMU ended too early"
            process.kill()
            assert has_ended(pidfd)


@pytest.mark.parametrize(
    "ending",
    [
        "",
        "raise SystemExit(3)",
        "os._exit(0)",
        "os.execlp('true', 'true')",
        "os.kill(os.getpid(), 15)",
        "raise ValueError",
    ],
)
def test_an_opener_that_ends_without_closing_leaves_no_qemu(ending: str, image: Path) -> None:
    body = f"""
disk = vioblk.open(address)
print(disk.device.transport.platform.machine.process.pid, flush=True)
sys.stdin.readline()
sys.stderr = open(os.devnull, "w")
{ending}
"""
    with opener(body, image) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        with watched(int(process.stdout.readline())) as pidfd:
            process.stdin.write("\n")
            process.stdin.flush()
            assert has_ended(pidfd)
        process.wait(TIMEOUT_S)


PR_GET_PDEATHSIG = 2


def test_qemu_has_a_parent_death_signal() -> None:
    """What is executed after the guard has it: an exec keeps it."""
    ask = (
        "import ctypes; number = ctypes.c_int(); "
        f"ctypes.CDLL(None).prctl({PR_GET_PDEATHSIG}, ctypes.byref(number)); print(number.value)"
    )
    process = QemuProcess([sys.executable, "-c", ask])
    assert process.wait(TIMEOUT_S)
    assert process.output() == str(int(signal.SIGKILL))


def test_a_parent_that_died_before_the_signal_was_set_is_noticed(tmp_path: Path) -> None:
    """Then the kernel would send none: the child has to look itself."""
    mark = tmp_path / "mark"
    *before, parent = guard()
    assert parent == str(os.getpid())
    run = [*before, parent, "touch", str(mark)]
    subprocess.run(run, check=True, timeout=TIMEOUT_S)
    assert mark.exists()
    mark.unlink()
    orphaned = [*before, "1", "touch", str(mark)]
    subprocess.run(orphaned, check=False, timeout=TIMEOUT_S)
    assert not mark.exists()


def test_the_end_of_the_thread_that_opened_does_not_end_qemu(image: Path) -> None:
    disks: list[BlockDevice] = []
    thread = threading.Thread(target=lambda: disks.append(vioblk.open(f"qemu:{image}")))
    thread.start()
    thread.join(TIMEOUT_S)
    with disks[0] as disk:
        disk.write(512, b"\x17" * 512)
        assert disk.read(512, 512) == b"\x17" * 512


def test_a_forked_child_ends_without_ending_qemu(image: Path) -> None:
    with vioblk.open(f"qemu:{image}") as disk:
        machine = platform_of(disk).machine

        def use_and_close() -> None:
            for call in (machine.pause, lambda: machine.qmp("quit"), lambda: disk.read(0, 512)):
                with pytest.raises(vioblk.ForkedError):
                    call()
            machine.close()

        in_child(use_and_close)
        disk.write(0, b"\x18" * 512)
        assert disk.read(0, 512) == b"\x18" * 512
        assert platform_of(disk).machine.qmp("query-status")["running"]


def children() -> set[str]:
    found: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        # A thread may end meanwhile, and has no children then.
        with suppress(FileNotFoundError, ProcessLookupError):
            found |= set((task / "children").read_text().split())
    return found


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("made up")])
def test_an_exception_in_the_middle_of_opening_leaves_nothing(
    error: BaseException | type[BaseException], image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        assert children() > before, "QEMU was started"
        raise error

    with vioblk.open(f"qemu:{image}"):
        pass
    before = children()
    with no_leaks():
        monkeypatch.setattr(Qmp, "start", fail)
        with pytest.raises(type(error) if isinstance(error, BaseException) else error):
            vioblk.open(f"qemu:{image}")
        monkeypatch.undo()
    assert children() == before


def test_closing_ends_qemu_and_frees_the_image(image: Path) -> None:
    for _ in range(2):
        with vioblk.open(f"qemu:{image}") as disk:
            process = platform_of(disk).machine.process
            assert process.running
        assert not process.running


def test_a_forgotten_disk_ends_its_qemu_and_leaves_nothing(image: Path) -> None:
    pidfds = []

    def forget() -> None:
        disk = vioblk.open(f"qemu:{image}?interrupts=intx")
        pidfds.append(os.pidfd_open(platform_of(disk).machine.process.pid))
        del disk
        gc.collect()

    with no_leaks():
        for _ in range(3):
            with pytest.warns(ResourceWarning, match="unclosed <BlockDevice qemu"):
                forget()
            assert has_ended(pidfds[-1])
            os.close(pidfds.pop())


def test_qemu_inherits_nothing_but_what_it_needs(image: Path) -> None:
    read_end, write_end = os.pipe()
    os.set_inheritable(read_end, True)
    try:
        with vioblk.open(f"qemu:{image}") as disk:
            pid = platform_of(disk).machine.process.pid
            held = [str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir()]
            assert str(Path(f"/proc/self/fd/{read_end}").readlink()) not in held
            sockets = [each for each in held if each.startswith("socket:")]
            assert len(sockets) == 3, "qtest, monitor, doorbells"
            assert not [each for each in held if each.startswith(("pipe:", "/dev/pts", "/dev/tty"))]
    finally:
        os.close(read_end)
        os.close(write_end)


def test_interrupts_of_a_terminal_do_not_reach_qemu(image: Path) -> None:
    """Ctrl-C goes to all processes of a group; what is in flight is the driver's to end."""
    with vioblk.open(f"qemu:{image}") as disk:
        pid = platform_of(disk).machine.process.pid
        assert os.getpgid(pid) != os.getpgid(0)
        assert os.getsid(pid) != os.getsid(0)


def test_a_process_that_ends_by_itself_is_noticed() -> None:
    ended = threading.Event()
    process = QemuProcess(["sh", "-c", "echo some last words; exit 7"])
    process.on_end(ended.set)
    assert ended.wait(TIMEOUT_S)
    assert process.wait(TIMEOUT_S)
    assert process.explain_end() == "QEMU has ended with exit code 7 and said: some last words"
    process.kill()
    late = threading.Event()
    process.on_end(late.set)
    assert late.is_set()


def test_one_that_is_forgotten_in_the_middle_of_its_own_work_is_ended_all_the_same() -> None:
    """The garbage collector may run on any thread, one that has the lock included."""
    process = QemuProcess(["sleep", "60"])

    def collect() -> None:
        with process._life._lock:
            process._kill_if_forgotten()

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    thread.join(TIMEOUT_S)
    assert not thread.is_alive()
    assert process.wait(TIMEOUT_S)


def test_a_program_that_cannot_be_run_says_why(tmp_path: Path) -> None:
    program = tmp_path / "qemu"
    program.write_text("not a program")
    process = QemuProcess([str(program)])
    assert process.wait(TIMEOUT_S)
    assert "ermission denied" in process.explain_end()
