"""Types of the Rust core. Python decides, Rust moves: nothing here knows a policy."""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Literal, Self, final

from typing_extensions import Buffer

from vioblk.ring import Chain, Completion

BUILD_PROFILE: Final[str]
"""`release` or `debug`; benchmarks refuse a debug build."""

@final
class Gate:
    """Counts the calls that use a disk, and stops new ones: `with gate: ...`. Thread-safe.

    A shut gate lets nobody in, and those inside go on. A new one is shut. In a forked child the
    calls raise ForkedError. An exception that a signal handler raises leaves the count right.
    """

    def __new__(cls) -> Self: ...
    def __enter__(self) -> None:
        """Raises StateError with the refusal while the gate is shut."""
    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...
    @property
    def inside(self) -> int:
        """Calls that are inside now."""
    @property
    def entries(self) -> int:
        """Calls that have ever been let in."""
    @property
    def refusal(self) -> str | None:
        """Why nobody is let in; None while the gate is open."""
    def check(self) -> None:
        """Raise as entering does, for a call that need not be waited for."""
    def check_process(self) -> None:
        """Raise ForkedError in any process but the one that made the gate."""
    def open(self) -> None:
        """Let calls in."""
    def shut(self, refusal: str) -> None:
        """Let no more calls in: they raise StateError(refusal)."""
    def shut_if_unused_since(self, entries: int, refusal: str) -> bool:
        """Shut the gate if nobody is inside and nobody was let in since `entries` was read;
        whether it did."""
    def wait_empty(self, timeout_s: float) -> bool:
        """Wait until nobody is inside; False after `timeout_s`. Signal handlers run meanwhile."""

@final
class Mapping:
    """A mapping that the device can reach (immutable description)."""

    @property
    def fd(self) -> int:
        """The descriptor of the memory, owned by the DmaSpace; -1 once it is unmapped."""
    @property
    def file_offset(self) -> int: ...
    @property
    def length(self) -> int:
        """Bytes."""
    @property
    def device_address(self) -> int:
        """Where the device sees the first byte."""
    @property
    def host_address(self) -> int:
        """Where this process sees the first byte (vhost-user names rings by it)."""

@final
class Region:
    """Bytes that the device can reach, cut from a mapping of a DmaSpace; a writable buffer.

    It counts its exports (memoryviews) and the requests in flight on it. Its bytes are given
    out again only when the Region, all exports and all requests on it have gone. It serves as at
    most one ring, or as the slots of one: a second such use raises BufferError.

    It belongs to the process that made its DmaSpace. In a child of fork() every use raises
    ForkedError, and the bytes are not mapped: a memoryview taken before the fork faults there.
    """

    @property
    def length(self) -> int:
        """Bytes."""
    @property
    def device_address(self) -> int: ...
    @property
    def handle(self) -> int:
        """The number by which request records name this region (unique in its DmaSpace)."""
    @property
    def exports(self) -> int: ...
    @property
    def in_flight(self) -> int:
        """Uses that a device may be making of this region: not 0 while requests or chains use it
        (a queue counts once for all of its requests).
        """
    @property
    def closed(self) -> bool: ...
    def close(self) -> None:
        """Give the bytes back. Raises BufferError while exported or in flight; idempotent."""
    def __len__(self) -> int: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __release_buffer__(self, view: memoryview, /) -> None: ...

@final
class DmaSpace:
    """The memory that one device can reach: a few large mappings, and regions cut from them.

    Every call raises ForkedError in a child of fork().
    """

    def __new__(cls) -> Self: ...
    def map(self, length: int, device_address: int) -> Mapping:
        """Map fresh zeroed memory (memfd). `length` and `device_address`: multiples of 4096.

        Raises ValueError if they are not, or if it overlaps another mapping, OSError if the
        system refuses.
        """
    def map_fd(self, fd: int, length: int, device_address: int, file_offset: int = 0) -> Mapping:
        """Map memory that somebody else made (a QEMU's guest RAM). The descriptor is duplicated.

        Its maker is trusted not to shrink it while it is mapped: an access past the new end ends
        this process with SIGBUS. Raises as `map` does, and ValueError if `file_offset` is not a
        multiple of 4096 or the memory ends too soon.
        """
    @property
    def mappings(self) -> list[Mapping]: ...
    @property
    def free_bytes(self) -> int: ...
    def alloc(self, length: int, align: int = 4096) -> Region:
        """Cut a zeroed region. `align`: a power of two up to 4096.

        Raises MemoryError if no mapping has room, BufferError if no handle is left (there are
        2^20 at once, and 2^32 in the life of the space: none names two regions).
        """
    def region(self, handle: int, /) -> Region:
        """The open region of this handle; KeyError if there is none (any more)."""
    def locate(self, buffer: Buffer, /) -> tuple[int, int] | None:
        """(region handle, offset in it) of a contiguous buffer that lies within one open region."""

@final
class MmioWindow:
    """Device registers, each access one volatile load or store of exactly its width.

    Either a mapping of a file (a VFIO region, a resource of sysfs) or the modelled BAR of a
    software device. In a child of fork() every call raises ForkedError.
    """

    @staticmethod
    def map_fd(fd: int, length: int, file_offset: int = 0) -> MmioWindow:
        """Map registers. The descriptor is duplicated. Raises ValueError if `file_offset` is no
        multiple of 4096 or the file ends too soon, OSError."""
    @property
    def length(self) -> int:
        """Bytes."""
    def read(self, offset: int, width: int, /) -> int:
        """A little-endian register of `width` 1, 2 or 4 bytes, naturally aligned.

        Raises ValueError for any other width, an unaligned offset or one beyond the window, and
        StateError once a modelled device is closed."""
    def write(self, offset: int, width: int, value: int, /) -> None:
        """Store a register. Raises as `read`, and ValueError if `value` does not fit."""

@final
class Doorbell:
    """How a queue notifies its device (VIRTIO 1.4, 4.1.5.2 Available Buffer Notifications).

    `carries_data` (NOTIFICATION_DATA): the store is 4 bytes, `value` its lower half, and the
    queue's next available position its upper half; otherwise 2 bytes hold `value`.
    """

    @staticmethod
    def eventfd(fd: int) -> Doorbell:
        """Signal an eventfd (duplicated)."""
    @staticmethod
    def mmio(
        window: MmioWindow, offset: int, value: int, *, carries_data: bool = False
    ) -> Doorbell:
        """Store to a register. Raises ValueError if it does not lie in the window, aligned."""
    @staticmethod
    def file(fd: int, offset: int, value: int, *, carries_data: bool = False) -> Doorbell:
        """pwrite to a file (duplicated): an I/O BAR that cannot be mapped. Raises ValueError if
        `offset` is not aligned to the bytes that are stored, OSError."""
    @property
    def carries_data(self) -> bool: ...
    def ring(self, next_available: int = 0) -> None:
        """Notify the device, after the fence before_doorbell. `next_available`: 16 bits, used if
        it carries data. Raises OSError, StateError (the device was closed), ForkedError.

        A queue rings by itself; if that fails, it is given up, and its callers get
        DeviceGoneError with the reason."""

@final
class SplitLayout:
    """Where the parts of a split ring lie in its region (VIRTIO 1.4, 2.7 Split Virtqueues)."""

    @property
    def descriptors_offset(self) -> int: ...
    @property
    def available_offset(self) -> int: ...
    @property
    def used_offset(self) -> int: ...
    @property
    def driver_offset(self) -> int:
        """Of the driver area: the available ring."""
    @property
    def device_offset(self) -> int:
        """Of the device area: the used ring."""
    @property
    def indirect_offset(self) -> int: ...
    @property
    def length(self) -> int:
        """Bytes that the region must have."""

def split_layout(
    size: int, *, legacy_align: int | None = None, indirect_table_size: int = 0
) -> SplitLayout:
    """Modern: each part on pairs of cache lines of its own. Legacy: the one area of 2.7.2."""

@final
class SplitQueue:
    """The driver's half of a split ring. See `vioblk.ring.Ring` for the meaning of each verb."""

    def __new__(
        cls,
        region: Region,
        size: int,
        *,
        legacy_align: int | None = None,
        indirect_table_size: int = 0,
        event_idx: bool = False,
        in_order: bool = False,
        strict: bool = False,
        zeroed: bool = False,
    ) -> Self:
        """`zeroed`: the region is fresh from `alloc` and the device may know of it and be live,
        so the used ring, which is the device's to write, is left alone. Raises ValueError if an
        index is not 0 all the same."""
    @property
    def size(self) -> int: ...
    @property
    def layout(self) -> SplitLayout: ...
    @property
    def free_count(self) -> int: ...
    @property
    def outstanding_count(self) -> int: ...
    @property
    def clamped_count(self) -> int: ...
    @property
    def broken(self) -> str | None: ...
    @property
    def next_available(self) -> int: ...
    def push(self, chain: Chain, /) -> int: ...
    def push_many(self, chains: Sequence[Chain], /) -> list[int]: ...
    def withdraw(self) -> list[int]: ...
    def publish(self) -> bool: ...
    def reap(self, limit: int | None = None) -> list[Completion]: ...
    def arm(self) -> bool: ...
    def disarm(self) -> None: ...
    def reclaim(self) -> list[int]: ...

@final
class PackedLayout:
    """Where the parts of a packed ring lie in its region (VIRTIO 1.4, 2.8 Packed Virtqueues)."""

    @property
    def descriptors_offset(self) -> int: ...
    @property
    def driver_offset(self) -> int:
        """Of the driver area: the driver event suppression structure."""
    @property
    def device_offset(self) -> int:
        """Of the device area: the device event suppression structure."""
    @property
    def indirect_offset(self) -> int: ...
    @property
    def length(self) -> int:
        """Bytes that the region must have."""

def packed_layout(size: int, *, indirect_table_size: int = 0) -> PackedLayout:
    """Each part on pairs of cache lines of its own. `size`: any from 1 to 32768."""

@final
class PackedQueue:
    """The driver's half of a packed ring. See `vioblk.ring.Ring` for the meaning of each verb;
    the head of a chain is its buffer id."""

    def __new__(
        cls,
        region: Region,
        size: int,
        *,
        indirect_table_size: int = 0,
        event_idx: bool = False,
        in_order: bool = False,
        strict: bool = False,
        zeroed: bool = False,
    ) -> Self:
        """`zeroed`: the region is fresh from `alloc` and the device may know of it and be live,
        so its event suppression structure, which is the device's to write, is left alone. Raises
        ValueError if the flags of any descriptor are not 0 all the same."""
    @property
    def size(self) -> int: ...
    @property
    def layout(self) -> PackedLayout: ...
    @property
    def free_count(self) -> int: ...
    @property
    def outstanding_count(self) -> int: ...
    @property
    def clamped_count(self) -> int: ...
    @property
    def broken(self) -> str | None: ...
    @property
    def next_available(self) -> int: ...
    def push(self, chain: Chain, /) -> int: ...
    def push_many(self, chains: Sequence[Chain], /) -> list[int]: ...
    def withdraw(self) -> list[int]: ...
    def publish(self) -> bool: ...
    def reap(self, limit: int | None = None) -> list[Completion]: ...
    def arm(self) -> bool: ...
    def disarm(self) -> None: ...
    def reclaim(self) -> list[int]: ...

@final
class BlockLimits:
    """What a request record may ask for, as negotiated; checked in Rust for every record."""

    def __new__(
        cls,
        *,
        capacity_sectors: int,
        request_types: frozenset[int] | set[int],
        read_only: bool = False,
        size_max: int = 0,
        seg_max: int = 0,
        max_discard_sectors: int = 0,
        max_write_zeroes_sectors: int = 0,
    ) -> Self: ...
    @property
    def capacity_sectors(self) -> int: ...
    @property
    def request_types(self) -> frozenset[int]: ...
    @property
    def read_only(self) -> bool: ...
    @property
    def size_max(self) -> int:
        """Bytes in one segment; 0: no limit."""
    @property
    def seg_max(self) -> int:
        """Data segments in one request; 0: one."""
    @property
    def max_discard_sectors(self) -> int: ...
    @property
    def max_write_zeroes_sectors(self) -> int: ...

@final
class BlockQueue:
    """A ring with request slots, a doorbell and a way to wait.

    A batch is one packed array of records in, one out (see `vioblk.block.request`).
    Documented at `vioblk.block.queue.RequestQueue`, which the pure-Python twin shares.
    """

    def __new__(
        cls,
        space: DmaSpace,
        ring: Region,
        slots: Region,
        size: int,
        limits: BlockLimits,
        *,
        packed: bool = False,
        legacy_align: int | None = None,
        indirect_table_size: int = 0,
        event_idx: bool = False,
        in_order: bool = False,
        strict: bool = False,
        doorbell: Doorbell | None = None,
        interrupt_fd: int | None = None,
        hangup_fd: int | None = None,
    ) -> Self: ...
    @staticmethod
    def slots_length(size: int) -> int:
        """Bytes that the slots region of a queue of `size` must have."""
    @property
    def size(self) -> int: ...
    @property
    def layout(self) -> SplitLayout | PackedLayout: ...
    @property
    def depth(self) -> int:
        """Requests of the longest shape that fit at once."""
    @property
    def in_flight(self) -> int: ...
    @property
    def broken(self) -> str | None: ...
    @property
    def clamped_count(self) -> int: ...
    @property
    def kick_count(self) -> int: ...
    @property
    def limits(self) -> BlockLimits: ...
    @limits.setter
    def limits(self, limits: BlockLimits, /) -> None: ...
    @property
    def polling(self) -> bool: ...
    @polling.setter
    def polling(self, polling: bool, /) -> None: ...
    def fileno(self) -> int: ...
    def take_kick(self) -> bool: ...
    def submit_many(self, requests: Buffer, /) -> int: ...
    def reap_many(self, out: Buffer, /) -> int: ...
    def execute(
        self, requests: Buffer, statuses: Buffer, timeout_s: float | None = None
    ) -> None: ...
    def wait(self, timeout_s: float | None = None) -> bool: ...
    def arm(self) -> bool: ...
    def slot_frames_length(self, count: int, slot_bytes: int, /) -> int: ...
    def slot_pool(
        self,
        buffer: Region,
        frames: Region,
        count: int,
        slot_bytes: int,
        *,
        write: bool = False,
        explain: Callable[[Exception], BaseException] | None = None,
    ) -> SlotPool: ...
    def end_pools(self, reason: str) -> None: ...
    def abort(self, reason: str) -> None: ...
    def reclaim(self) -> list[int]: ...

@final
class DirectTransfers:
    """Reads and writes of one request each, between the disk and buffers in DMA memory: the least
    work that a request can take. Thread-safe.

    `queues` take turns. Each call enters `gate`. It returns None if it sent nothing, for whatever
    reason: the buffer is not in DMA memory (or not in one piece, or read-only), the request would
    be refused or is too long, there is no room for it, the queue is broken, the gate is shut, this
    is a forked child. Who then goes the general way gets it done, or learns what is wrong.
    """

    def __new__(cls, gate: Gate, space: DmaSpace, queues: Sequence[BlockQueue]) -> Self: ...
    def read(
        self, offset: int, buffer: Buffer, timeout_s: float, /
    ) -> int | tuple[BlockQueue, int, int | Exception] | None:
        """Fill `buffer` from `offset` on; how many bytes that were.

        If it was sent and did not end well: the queue, the length in bytes, and the status or what
        the queue raised. Raises what a signal handler raises.
        """
    def write(
        self, offset: int, buffer: Buffer, timeout_s: float, /
    ) -> int | tuple[BlockQueue, int, int | Exception] | None:
        """The same of writing `buffer` at `offset`."""

@final
class SlotPool:
    """Requests of fixed buffers, whose chains are written once; made by `BlockQueue.slot_pool`.

    Documented at `vioblk.block.queue.QueueSlotPool`, which the pure-Python twin shares.
    """

    @property
    def count(self) -> int: ...
    @property
    def slot_bytes(self) -> int: ...
    @property
    def write(self) -> bool: ...
    @property
    def buffer(self) -> Region: ...
    @property
    def way(self) -> Literal["direct", "indirect", "table", "general"] | None: ...
    @property
    def in_flight(self) -> int: ...
    def submit(self, slots: Buffer, offsets: Buffer, /) -> int: ...
    def reap(self, slots: Buffer, statuses: Buffer | None = None, /) -> int: ...
    def wait(self, timeout_s: float | None = None) -> bool: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...

@final
class SoftwareDevice:
    """A virtio-blk device in this process, served by a thread of its own (or by `serve`)."""

    def __new__(
        cls,
        space: DmaSpace,
        *,
        capacity_sectors: int = 0,
        path: str | None = None,
        features: int,
        queue_count: int = 1,
        queue_size_max: int = 256,
        serial: bytes = b"",
        read_only: bool = False,
        volatile_cache: bool = False,
        block_size: int = 512,
        size_max: int = 0,
        seg_max: int = 126,
        max_discard_sectors: int = 32768,
        max_write_zeroes_sectors: int = 32768,
        threaded: bool = True,
    ) -> Self:
        """`path`: a file or block image served in place (its length is the capacity); without it
        `capacity_sectors` of memory. `features`: what is offered, all bits.

        Until `close`, the file is this device's alone, or shared with other readers if
        `read_only`. Raises OSError (EBUSY) if it is in use elsewhere or a mounted block device.
        """
    # Registers, as a transport sees them.
    def read_status(self) -> int: ...
    def write_status(self, value: int) -> None: ...
    def read_features(self) -> int: ...
    def write_features(self, accepted: int) -> None: ...
    def read_config(self, offset: int, length: int) -> bytes: ...
    def write_config(self, offset: int, data: bytes) -> None: ...
    def config_generation(self) -> int: ...
    def enable_queue(
        self,
        index: int,
        size: int,
        descriptors_address: int,
        driver_address: int,
        device_address: int,
    ) -> None:
        """Before DRIVER_OK; after it, a queue that was reset, with other settings too."""
    def reset_queue(self, index: int) -> None:
        """Forget queue `index` and what came from it (VIRTIO 1.4, 2.6.1 Virtqueue Reset): nothing
        of it is touched any more when this returns. A queue that is not enabled is left so.

        Raises StateError unless RING_RESET was accepted, ValueError for a queue that is not there.
        """
    def is_queue_resetting(self, index: int) -> bool:
        """Whether a reset of the queue has not ended: by a fault."""
    def kick_fd(self, index: int) -> int:
        """An eventfd that wakes the device for queue `index` (owned by the device)."""
    def serving_doorbell(self, index: int) -> Doorbell:
        """A doorbell of queue `index` that serves: whoever rings it serves all that waits, on his
        own thread, before it has rung (with threaded=False). Such a device answers a driver
        without anybody who calls `serve`, and in the same way each time.

        Raises ValueError for a queue that is not there, StateError if the device has a thread.
        """
    def interrupt_fd(self, index: int) -> int:
        """The eventfd that the device signals used buffers of queue `index` with."""
    @property
    def config_fd(self) -> int:
        """The eventfd that the device signals configuration changes with."""
    # The other side of the glass, for tests and study.
    def serve(self, limit: int | None = None) -> int:
        """Serve waiting chains on this thread (with threaded=False); how many were served."""
    def counters(self) -> dict[str, int]:
        """What it saw since it was made or `reset_counters` was called; allowed after `close`.

        Sums: chains, segments, indirect_chains, bad_chains, reads, writes, flushes, discards,
        write_zeroes, get_ids, unknown_requests, failed_requests, bytes_read, bytes_written, kicks,
        interrupts, interrupts_suppressed, config_interrupts, batches (new available indices),
        completions (chains given back), used_elements (in order one can stand for several).
        Maxima: largest_batch, most_outstanding (chains), largest_chain (descriptors).
        """
    def reset_counters(self) -> None: ...
    @property
    def violation(self) -> str | None:
        """What the driver did wrong when the device last set DEVICE_NEEDS_RESET."""
    @property
    def last_error(self) -> str | None:
        """What the system last refused the file ("writing 512 bytes at byte 0: No space left on
        device (os error 28)"), which the driver saw as IOERR; None if it never did. It stays until
        the next one. Allowed after `close`."""
    def inject(self, fault: str, *, count: int = 1, after: int = 0, value: int = 0) -> None:
        """Do something wrong at the next `count` occasions, after `after` of them have passed.

        At a completion: id_out_of_range (queue size + value), id_not_outstanding, id_twice,
        index_ahead (by value; 0: the queue size), index_behind (it does not move past this one),
        id_before (of the chain returned before), id_ahead (of the last one that waits; after it
        the queue is served no more), huge_length (value; 0: 2^32 - 1), short_length
        (value), garbage_status (value; the request is carried out), status (value; it is not),
        silence (never completed), delay (until the next kick or `clear_faults`).
        At a used buffer notification: no_interrupt.
        At a register access: refuse_features (FEATURES_OK does not stick), reset_never_ends
        (until `clear_faults`), slow_reset (after value reads of the status), config_flicker
        (after a read, generation and capacity change, by value sectors), drop_config_write,
        queue_reset_never_ends (until `clear_faults`);
        and, with a PciFace, refuse_vector (vectors from value on read back as NO_VECTOR).
        At once: needs_reset (DEVICE_NEEDS_RESET is set), spurious_interrupt (of queue value),
        spurious_config_interrupt; interrupts at most 65536 times.

        Raises ValueError for any other name.
        """
    def clear_faults(self) -> None:
        """Disarm all faults, complete what was delayed, end a reset that did not."""
    def power_loss(self) -> None:
        """Lose what no flush made stable; nothing, without a volatile cache."""
    def resize(self, capacity_sectors: int) -> None:
        """Change the capacity and tell the driver. A file grows with it, and is never cut."""
    def close(self) -> None:
        """End the thread, write the cache back, let go of the file. Idempotent.

        Raises OSError if writing back fails; the rest is done all the same.
        """

@final
class PciFace:
    """The modern PCI registers of a software device, in one modelled memory BAR.

    It shows what the device does and does not know of its own. It is strict: what a driver may not
    do has no effect and is recorded, as is every access. Accesses of structures: each with the
    width of its field. The rings are served while `set_command` lets the device reach memory.
    In a child of fork() every call but `structures` and `window` raises ForkedError.
    """

    def __new__(
        cls,
        device: SoftwareDevice,
        *,
        vector_count: int = 0,
        notify_multiplier: int = 4,
        queue_count_shown: int | None = None,
        queue_size_shown: int | None = None,
        short_common: bool = False,
    ) -> Self:
        """The one face of `device`, which honours NOTIFICATION_DATA and NOTIF_CONFIG_DATA with it.
        Memory decoding, bus mastering and MSI-X are off, as in a machine that starts.

        `vector_count`: entries of the MSI-X table, at most 2048; 0: none. `notify_multiplier`: 0
        or a power of two from 2 to 4096. `queue_count_shown`, `queue_size_shown`: what num_queues
        and queue_size say, for a device that lies. `short_common`: the common configuration ends
        before queue_notif_config_data.

        Raises ValueError for options that cannot be, StateError if the device has a face already.
        """
    @property
    def window(self) -> MmioWindow:
        """The BAR; its length is a power of two."""
    @property
    def structures(self) -> dict[str, tuple[int, int]]:
        """(offset in the BAR, length) of `common`, `notify`, `isr`, `device`, and with vectors of
        `msix_table` and `msix_pending`."""
    # What the machine does.
    def set_command(self, *, memory: bool, bus_master: bool, intx_disabled: bool = False) -> None:
        """The command register: whether the BAR is decoded (else reads give all ones), whether
        the device reaches memory (once this returns from taking that away, it does not), whether
        INTx is switched off."""
    def set_msix(self, *, enabled: bool, masked: bool = False) -> None:
        """The message control of MSI-X; `masked`: all vectors are."""
    def message_fd(self, data: int) -> int:
        """The eventfd that an MSI-X message with this data signals, to whatever address it goes;
        the face owns it. `data` is below the number of vectors. Raises ValueError, StateError."""
    @property
    def intx_fd(self) -> int:
        """The eventfd that INTx signals when it rises, and once more at `acknowledge_intx` if it
        is still up; the face owns it."""
    @property
    def intx_asserted(self) -> bool:
        """The level of INTx."""
    @property
    def interrupt_status(self) -> bool:
        """The interrupt status bit of the status register."""
    def acknowledge_intx(self) -> None:
        """Let INTx signal again."""
    def remove(self) -> None:
        """Surprise removal: reads give all ones, writes go nowhere, memory is touched and
        interrupts are sent no more. Accesses are still recorded."""
    @property
    def removed(self) -> bool: ...
    # What it saw.
    @property
    def violations(self) -> list[str]:
        """What the driver did that it may not do, in words; the first 64."""
    @property
    def accesses(self) -> list[tuple[int, int, int, bool]]:
        """(offset in the BAR, width in bytes, value, whether it was a write) of the latest 16384
        accesses, the oldest first."""
    @property
    def access_count(self) -> int:
        """How many there were."""
    def clear_log(self) -> None:
        """Forget accesses and violations."""
