//! The device as its owner holds it: registers, wires, and a thread that serves the queues.

use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;
use std::sync::atomic::{
    AtomicBool, AtomicUsize, Ordering::AcqRel, Ordering::Acquire, Ordering::Release,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use shm::{DmaSpace, EventFd, Poller, Watch, fork};

use crate::block::{Disk, ID_BYTES, Rules, SECTOR_BYTES};
use crate::counters::Counters;
use crate::engine::{Engine, Wires};
use crate::error::DeviceError;
use crate::faults::{Fault, Moment};
use crate::registers::{Model, QueueSetup, Registers, StatusChange, feature};
use crate::ring::{self, RingFeatures, Violation};
use crate::storage::{FileStorage, MemoryStorage, Storage, WriteCache};

/// How long the rings are watched after the last chain before the thread goes to sleep: about as
/// long as a kick and a wake-up would take.
const LINGER: Duration = Duration::from_micros(20);

/// Looks at the rings between two looks at the clock.
const LOOKS: usize = 64;

/// A sleeping thread looks around this often, whatever happens.
const IDLE_WAIT: Duration = Duration::from_secs(30);

/// Segments of one discard or write-zeroes request.
const SEGMENTS_MAX: u32 = 16;

/// Most queues of one device.
const QUEUES_MAX: u16 = 256;

/// Watched beside the queues, whose tokens are their indices.
const CONTROL: u64 = u64::MAX;

/// What a device is made from.
#[derive(Clone, Debug)]
pub struct DeviceOptions {
    /// Sectors of memory, if there is no `path`.
    pub capacity_sectors: u64,
    /// A file or block device to serve in place; its length is the capacity.
    pub path: Option<PathBuf>,
    /// Features to offer, all bits. RO is added if `read_only`.
    pub features: u64,
    /// Queues, at least 1.
    pub queue_count: u16,
    /// Largest size of each.
    pub queue_size_max: u16,
    /// At most 20 bytes.
    pub serial: Vec<u8>,
    /// Refuse to change the disk.
    pub read_only: bool,
    /// Keep writes in a cache that a loss of power drops.
    pub volatile_cache: bool,
    /// Bytes of a logical block: a power of two from 512 to 2^20.
    pub block_size: u32,
    /// Most bytes in one data segment; 0: no limit.
    pub size_max: u32,
    /// Most data segments in one request; 0: no limit.
    pub seg_max: u32,
    /// Most sectors in one segment of a discard.
    pub max_discard_sectors: u32,
    /// Most sectors in one segment of a write-zeroes request.
    pub max_write_zeroes_sectors: u32,
    /// Serve from a thread of the device's own; else whoever calls `serve` does it.
    pub threaded: bool,
}

impl Default for DeviceOptions {
    fn default() -> Self {
        Self {
            capacity_sectors: 0,
            path: None,
            features: 1 << feature::VERSION_1,
            queue_count: 1,
            queue_size_max: 256,
            serial: Vec::new(),
            read_only: false,
            volatile_cache: false,
            block_size: 512,
            size_max: 0,
            seg_max: 126,
            max_discard_sectors: 32768,
            max_write_zeroes_sectors: 32768,
            threaded: true,
        }
    }
}

impl DeviceOptions {
    fn check(&self) -> Result<(), DeviceError> {
        let queue_size_fits =
            self.queue_size_max.is_power_of_two() && self.queue_size_max <= ring::SIZE_MAX;
        let block_fits =
            self.block_size.is_power_of_two() && (512..=1 << 20).contains(&self.block_size);
        let sectors_per_block = u64::from(self.block_size.max(512)) / SECTOR_BYTES;
        let reason = match self {
            Self { path: Some(path), capacity_sectors: 1.., .. } => format!(
                "capacity_sectors is given beside path {}, whose length is the capacity; leave \
                 one of them out",
                path.display()
            ),
            Self { path: None, capacity_sectors: 0, .. } => {
                "the disk would be empty: give capacity_sectors or path".into()
            }
            Self { capacity_sectors, .. }
                if capacity_sectors.checked_mul(SECTOR_BYTES).is_none() =>
            {
                format!("capacity_sectors is {capacity_sectors}, more than 2^64 bytes")
            }
            Self { queue_count, .. } if !(1..=QUEUES_MAX).contains(queue_count) => {
                format!("queue_count is {queue_count}, not 1 to {QUEUES_MAX}")
            }
            Self { queue_size_max, .. } if !queue_size_fits => format!(
                "queue_size_max is {queue_size_max}, not a power of two up to {}",
                ring::SIZE_MAX
            ),
            Self { serial, .. } if serial.len() > ID_BYTES => {
                format!("serial has {} bytes, more than {ID_BYTES}", serial.len())
            }
            Self { block_size, .. } if !block_fits => {
                format!("block_size is {block_size}, not a power of two from 512 to 1048576")
            }
            Self { capacity_sectors, block_size, .. }
                if !capacity_sectors.is_multiple_of(sectors_per_block) =>
            {
                format!(
                    "capacity_sectors is {capacity_sectors}, not whole blocks of {block_size} bytes"
                )
            }
            _ => return Ok(()),
        };
        Err(DeviceError::Invalid(reason))
    }

    fn open_storage(&self) -> Result<Box<dyn Storage>, DeviceError> {
        let base: Box<dyn Storage> = match &self.path {
            Some(path) => Box::new(
                FileStorage::open(path, self.read_only)
                    .map_err(|error| DeviceError::Open { path: path.clone(), error })?,
            ),
            None => Box::new(MemoryStorage::new(self.capacity_sectors * SECTOR_BYTES)),
        };
        Ok(if self.volatile_cache { Box::new(WriteCache::new(base)) } else { base })
    }

    fn model(&self, offered: u64, storage: &dyn Storage) -> Model {
        Model {
            offered,
            block_size: self.block_size,
            size_max: self.size_max,
            seg_max: self.seg_max,
            queue_count: self.queue_count,
            max_discard_sectors: self.max_discard_sectors,
            max_write_zeroes_sectors: self.max_write_zeroes_sectors,
            max_segments: SEGMENTS_MAX,
            may_unmap: storage.can_deallocate(),
        }
    }

    fn rules(&self, offered: u64) -> Rules {
        let mut serial = [0; ID_BYTES];
        serial.iter_mut().zip(&self.serial).for_each(|(to, &from)| *to = from);
        Rules {
            features: 0,
            read_only: offered >> feature::RO & 1 != 0,
            write_through: true,
            size_max: self.size_max,
            seg_max: self.seg_max,
            max_discard_sectors: self.max_discard_sectors,
            max_write_zeroes_sectors: self.max_write_zeroes_sectors,
            max_segments: SEGMENTS_MAX,
            serial,
        }
    }
}

/// What the handle and the thread share. Locks are taken in the order engine, registers, others.
struct Shared {
    wires: Wires,
    engine: Mutex<Engine>,
    /// Callers who want the engine while the thread serves; it makes way for them.
    visitors: AtomicUsize,
    registers: Mutex<Registers>,
    /// What the driver did wrong when DEVICE_NEEDS_RESET was last set.
    violation: Mutex<Option<String>>,
    config_event: EventFd,
    /// Wakes the thread for anything but a kick.
    control: EventFd,
    closed: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic is a mistake of ours elsewhere; the data stays usable, and a reset mends the rest.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn is_closed(&self) -> bool {
        self.closed.load(Acquire)
    }

    /// The engine, for anybody but the thread that serves.
    fn visit(&self) -> MutexGuard<'_, Engine> {
        self.visitors.fetch_add(1, AcqRel);
        let engine = lock(&self.engine);
        self.visitors.fetch_sub(1, AcqRel);
        engine
    }

    /// The engine, for the thread that serves. Locks are not fair, so it waits for visitors.
    fn attend(&self) -> MutexGuard<'_, Engine> {
        while self.visitors.load(Acquire) > 0 {
            thread::yield_now();
        }
        lock(&self.engine)
    }

    /// Stop serving for good, until a reset, and say why.
    fn demand_reset(&self, reason: String) {
        self.wires.live.store(false, Release);
        *lock(&self.violation) = Some(reason);
        let notify = lock(&self.registers).demand_reset();
        if notify {
            self.notify_config();
        }
    }

    fn notify_config(&self) {
        self.wires.counters().config_interrupts += 1;
        // Our own eventfd cannot fail, and if it did the driver would still find the change.
        let _ = self.config_event.signal();
    }

    fn condemn(&self, violation: Violation) {
        self.wires.counters().bad_chains += 1;
        self.demand_reset(violation.to_string());
    }

    /// One pass over the queues; how many chains were taken.
    fn serve(&self, engine: &mut Engine, limit: usize) -> usize {
        if !self.wires.is_live() {
            return 0;
        }
        engine.serve(&self.wires, limit).unwrap_or_else(|violation| {
            self.condemn(violation);
            0
        })
    }

    /// Take note of kicks of queue `index`, which also end delays.
    fn hear_kick(&self, engine: &mut Engine, index: usize) {
        let count = self.wires.kicks.get(index).map_or(0, EventFd::drain);
        if count > 0 {
            self.wires.counters().kicks += count;
            if self.wires.is_live() {
                engine.release(index, &self.wires);
            }
        }
    }

    /// The thread: sleep until a kick, serve, stay awake while chains keep coming.
    fn run(&self, poller: &Poller) {
        while !self.is_closed() {
            let ready = match poller.wait(IDLE_WAIT) {
                Ok(ready) => ready,
                Err(error) => {
                    return self.demand_reset(format!("the device cannot wait for kicks: {error}"));
                }
            };
            for each in ready {
                match usize::try_from(each.token) {
                    Ok(index) if each.token != CONTROL => {
                        self.hear_kick(&mut self.attend(), index);
                    }
                    _ => drop(self.control.drain()),
                }
            }
            self.serve_until_idle();
        }
    }

    fn serve_until_idle(&self) {
        while self.wires.is_live() {
            let served = self.serve(&mut self.attend(), usize::MAX);
            if served == 0 && !self.linger() && !self.arm() {
                return;
            }
        }
    }

    /// Watch the rings for a moment; whether anything came.
    fn linger(&self) -> bool {
        let engine = self.attend();
        let started = Instant::now();
        while engine.may_linger() && self.wires.is_live() {
            for _ in 0..LOOKS {
                if engine.pending() {
                    return true;
                }
                std::hint::spin_loop();
            }
            if self.visitors.load(Acquire) > 0 || started.elapsed() > LINGER {
                return false;
            }
        }
        false
    }

    fn arm(&self) -> bool {
        let mut engine = self.attend();
        self.wires.is_live() && engine.arm()
    }
}

/// A virtio-blk device. Dropping it stops its thread.
pub struct Device {
    shared: Arc<Shared>,
    options: DeviceOptions,
    space: DmaSpace,
    /// Never dropped as it is: in a child of a fork the thread does not exist.
    thread: Mutex<Option<ManuallyDrop<JoinHandle<()>>>>,
    owner: fork::Owner,
}

impl Device {
    /// A device that reaches the memory of `space`, in its state after a reset.
    pub fn new(space: DmaSpace, options: DeviceOptions) -> Result<Self, DeviceError> {
        options.check()?;
        let owner = fork::Owner::here();
        let storage = options.open_storage()?;
        let offered = options.features | u64::from(options.read_only) << feature::RO;
        let capacity_sectors = storage.capacity_bytes() / SECTOR_BYTES;
        let model = options.model(offered, storage.as_ref());
        let disk = Disk::new(storage, options.rules(offered));
        let shared = Arc::new(Shared {
            wires: Wires::new(options.queue_count)?,
            engine: Mutex::new(Engine::new(space.clone(), disk, options.threaded)),
            visitors: AtomicUsize::new(0),
            registers: Mutex::new(Registers::new(model, capacity_sectors)),
            violation: Mutex::new(None),
            config_event: EventFd::new()?,
            control: EventFd::new()?,
            closed: AtomicBool::new(false),
        });
        let thread = if options.threaded { Some(start_thread(&shared)?) } else { None };
        let thread = Mutex::new(thread.map(ManuallyDrop::new));
        Ok(Self { shared, options, space, thread, owner })
    }

    /// Refuse calls on a device that is closed or belongs to another process.
    fn check(&self) -> Result<(), DeviceError> {
        if !self.owner.is_here() {
            return Err(DeviceError::Forked);
        }
        if self.shared.is_closed() {
            return Err(DeviceError::State("the software device is closed".into()));
        }
        Ok(())
    }

    /// The device status.
    pub fn read_status(&self) -> Result<u8, DeviceError> {
        self.check()?;
        Ok(lock(&self.shared.registers).status())
    }

    /// Write the device status; 0 resets. When this returns from a reset, no queue is touched any
    /// more.
    pub fn write_status(&self, value: u8) -> Result<(), DeviceError> {
        self.check()?;
        if value == 0 {
            self.reset();
            return Ok(());
        }
        let setting_features_ok = {
            use crate::registers::status::FEATURES_OK;
            let registers = lock(&self.shared.registers);
            if registers.is_stuck() {
                return Ok(());
            }
            value & !registers.status() & FEATURES_OK != 0
        };
        let refuse =
            setting_features_ok && self.shared.wires.faults.strike(Moment::FeaturesOk).is_some();
        let mut engine = self.shared.visit();
        let change = lock(&self.shared.registers).write_status(value, refuse);
        match change {
            StatusChange::Nothing => {}
            StatusChange::Stop => self.shared.wires.live.store(false, Release),
            StatusChange::GoLive => self.go_live(&mut engine),
        }
        Ok(())
    }

    fn reset(&self) {
        let shared = &self.shared;
        // The engine stops at the next chain; once we have it, nothing is touched any more.
        shared.wires.live.store(false, Release);
        let mut engine = shared.visit();
        if lock(&shared.registers).is_stuck() {
            return;
        }
        if shared.wires.faults.strike(Moment::Reset).is_some() {
            lock(&shared.registers).get_stuck();
        } else {
            self.finish_reset(&mut engine);
        }
    }

    fn finish_reset(&self, engine: &mut Engine) {
        engine.forget();
        for kick in &self.shared.wires.kicks {
            kick.drain();
        }
        lock(&self.shared.registers).reset();
    }

    fn go_live(&self, engine: &mut Engine) {
        let (queues, accepted) = {
            let registers = lock(&self.shared.registers);
            engine.disk.rules.features = registers.accepted();
            engine.disk.rules.write_through = registers.write_through();
            (registers.queues().to_vec(), registers.accepted())
        };
        let ring_features = RingFeatures {
            event_idx: accepted >> feature::EVENT_IDX & 1 != 0,
            indirect: accepted >> feature::INDIRECT_DESC & 1 != 0,
        };
        match engine.adopt(&queues, ring_features) {
            Ok(()) => {
                self.shared.wires.live.store(true, Release);
                // Chains may be there already. Our own eventfd cannot fail.
                let _ = self.shared.control.signal();
            }
            Err(violation) => self.shared.condemn(violation),
        }
    }

    /// Offered features.
    pub fn read_features(&self) -> Result<u64, DeviceError> {
        self.check()?;
        Ok(lock(&self.shared.registers).offered())
    }

    /// The features that the driver accepts, before it sets FEATURES_OK.
    pub fn write_features(&self, accepted: u64) -> Result<(), DeviceError> {
        self.check()?;
        lock(&self.shared.registers).accept(accepted);
        Ok(())
    }

    /// Bytes of the configuration space.
    pub fn read_config(&self, offset: usize, length: usize) -> Result<Vec<u8>, DeviceError> {
        self.check()?;
        let mut registers = lock(&self.shared.registers);
        let bytes = registers
            .read_config(offset, length)
            .ok_or_else(|| outside_config("reading", offset, length))?;
        if let Some(strike) = self.shared.wires.faults.strike(Moment::ConfigRead) {
            registers.flicker(strike.value);
        }
        Ok(bytes)
    }

    /// Write configuration. Like a real device, it ignores what is not for the driver to write.
    pub fn write_config(&self, offset: usize, data: &[u8]) -> Result<(), DeviceError> {
        self.check()?;
        if offset.checked_add(data.len()).is_none_or(|end| end > crate::CONFIG_BYTES) {
            return Err(outside_config("writing", offset, data.len()));
        }
        if self.shared.wires.faults.strike(Moment::ConfigWrite).is_some() {
            return Ok(());
        }
        let mut engine = self.shared.visit();
        let mut registers = lock(&self.shared.registers);
        if registers.write_config(offset, data) {
            engine.disk.rules.write_through = registers.write_through();
        }
        Ok(())
    }

    /// Changes whenever the configuration does.
    pub fn config_generation(&self) -> Result<u32, DeviceError> {
        self.check()?;
        Ok(lock(&self.shared.registers).generation())
    }

    /// Set up queue `index`, between FEATURES_OK and DRIVER_OK.
    pub fn enable_queue(&self, index: usize, setup: QueueSetup) -> Result<(), DeviceError> {
        use crate::registers::status::{DRIVER_OK, FEATURES_OK};
        self.check()?;
        let mut registers = lock(&self.shared.registers);
        if registers.status() & (DRIVER_OK | FEATURES_OK) != FEATURES_OK {
            return Err(DeviceError::State(format!(
                "queues are set up between FEATURES_OK and DRIVER_OK; the status is {:#x}",
                registers.status()
            )));
        }
        let several = registers.accepted() >> feature::MQ & 1 != 0;
        let queue_count = if several { self.options.queue_count } else { 1 };
        self.check_setup(&setup)?;
        match registers.queue(index) {
            Some(slot) if index < queue_count.into() => *slot = Some(setup),
            _ => {
                return Err(DeviceError::Invalid(format!(
                    "there is no queue {index}: the driver may use {queue_count} \
                     (the device has {}, MQ is {}negotiated)",
                    self.options.queue_count,
                    if several { "" } else { "not " }
                )));
            }
        }
        Ok(())
    }

    fn check_setup(&self, setup: &QueueSetup) -> Result<(), DeviceError> {
        let size_max = self.options.queue_size_max;
        if !setup.size.is_power_of_two() || setup.size > size_max {
            return Err(DeviceError::Invalid(format!(
                "the queue size is {}, not a power of two up to {size_max}",
                setup.size
            )));
        }
        let count = usize::from(setup.size);
        let parts = [
            ("descriptor table", setup.descriptors, 16, 16 * count),
            ("available ring", setup.available, 2, 6 + 2 * count),
            ("used ring", setup.used, 4, 6 + 8 * count),
        ];
        for (name, address, align, length) in parts {
            if !address.is_multiple_of(align) {
                return Err(DeviceError::Invalid(format!(
                    "the {name} is at {address:#x}, not a multiple of {align}"
                )));
            }
            if self.space.translate(address, length).is_none() {
                return Err(DeviceError::Invalid(format!(
                    "the {name}, {length} bytes at {address:#x}, is not in memory of this device"
                )));
            }
        }
        Ok(())
    }

    /// The eventfd that the driver signals for queue `index`.
    pub fn kick_fd(&self, index: usize) -> Result<RawFd, DeviceError> {
        self.check()?;
        event_of(&self.shared.wires.kicks, index)
    }

    /// The eventfd that the device signals for queue `index`.
    pub fn interrupt_fd(&self, index: usize) -> Result<RawFd, DeviceError> {
        self.check()?;
        event_of(&self.shared.wires.interrupts, index)
    }

    /// The eventfd that the device signals for a change of configuration.
    pub fn config_fd(&self) -> Result<RawFd, DeviceError> {
        self.check()?;
        Ok(self.shared.config_event.as_raw_fd())
    }

    /// Serve what waits, at most `limit` chains, on this thread; how many were taken.
    pub fn serve(&self, limit: usize) -> Result<usize, DeviceError> {
        self.check()?;
        if self.options.threaded {
            return Err(DeviceError::State(
                "the device serves itself; make it with threaded=False to call serve()".into(),
            ));
        }
        let shared = &self.shared;
        let mut engine = shared.visit();
        for index in 0..shared.wires.kicks.len() {
            shared.hear_kick(&mut engine, index);
        }
        let mut served = 0;
        while served < limit {
            let count = shared.serve(&mut engine, limit - served);
            served += count;
            if count == 0 && !(shared.wires.is_live() && engine.arm()) {
                return Ok(served);
            }
        }
        if shared.wires.is_live() {
            engine.arm();
        }
        Ok(served)
    }

    /// What the device saw. Allowed after `close`.
    pub fn counters(&self) -> Result<Counters, DeviceError> {
        if !self.owner.is_here() {
            return Err(DeviceError::Forked);
        }
        Ok(*self.shared.wires.counters())
    }

    /// Count from 0 again.
    pub fn reset_counters(&self) -> Result<(), DeviceError> {
        self.check()?;
        *self.shared.wires.counters() = Counters::default();
        Ok(())
    }

    /// Why DEVICE_NEEDS_RESET was last set, if it ever was. Allowed after `close`.
    pub fn violation(&self) -> Result<Option<String>, DeviceError> {
        if !self.owner.is_here() {
            return Err(DeviceError::Forked);
        }
        Ok(lock(&self.shared.violation).clone())
    }

    /// Do something wrong at the next `count` occasions, after letting `after` of them pass. See
    /// [`Fault`] for the occasions and for what `value` means.
    pub fn inject(
        &self,
        fault: Fault,
        count: u64,
        after: u64,
        value: u64,
    ) -> Result<(), DeviceError> {
        self.check()?;
        match fault {
            Fault::NeedsReset if count > 0 => {
                self.shared.wires.live.store(false, Release);
                // When this returns, no queue is touched any more.
                let _engine = self.shared.visit();
                self.shared.demand_reset("a fault was injected".into());
            }
            Fault::SpuriousInterrupt => {
                let index = usize::try_from(value).unwrap_or(usize::MAX);
                event_of(&self.shared.wires.interrupts, index)?;
                (0..count).for_each(|_| self.shared.wires.interrupt(index));
            }
            _ => self.shared.wires.faults.arm(fault, count, after, value),
        }
        Ok(())
    }

    /// Disarm all faults, complete what was delayed, and end a reset that did not.
    pub fn clear_faults(&self) -> Result<(), DeviceError> {
        self.check()?;
        self.shared.wires.faults.clear();
        let mut engine = self.shared.visit();
        if lock(&self.shared.registers).is_stuck() {
            self.finish_reset(&mut engine);
        } else if self.shared.wires.is_live() {
            engine.release_all(&self.shared.wires);
        }
        Ok(())
    }

    /// Lose what no flush made stable. Without a volatile cache, nothing is lost.
    pub fn power_loss(&self) -> Result<(), DeviceError> {
        self.check()?;
        self.shared.visit().disk.storage.power_loss();
        Ok(())
    }

    /// Give the disk another size and tell the driver. Growing a file extends it; shrinking one
    /// hides its end and cuts nothing off.
    pub fn resize(&self, capacity_sectors: u64) -> Result<(), DeviceError> {
        self.check()?;
        let bytes = capacity_sectors.checked_mul(SECTOR_BYTES).ok_or_else(|| {
            DeviceError::Invalid(format!("{capacity_sectors} sectors are more than 2^64 bytes"))
        })?;
        let mut engine = self.shared.visit();
        engine.disk.storage.resize(bytes)?;
        let driven = {
            let mut registers = lock(&self.shared.registers);
            registers.set_capacity(capacity_sectors);
            registers.is_driven()
        };
        if driven {
            self.shared.notify_config();
        }
        Ok(())
    }

    /// Stop serving, end the thread, write the cache back. Doing it again does nothing, and so
    /// does doing it in a child of the process that made the device.
    pub fn close(&self) -> Result<(), DeviceError> {
        if !self.owner.is_here() {
            return Ok(());
        }
        let first = !self.shared.closed.swap(true, AcqRel);
        self.shared.wires.live.store(false, Release);
        self.shared.control.signal()?;
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread {
            // The thread does not panic; if it did, there is nothing left to stop.
            let _ = ManuallyDrop::into_inner(thread).join();
        }
        if first {
            let mut engine = self.shared.visit();
            engine.forget();
            engine.disk.storage.flush()?;
        }
        Ok(())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // Whoever wants to know whether the cache could be written back calls close().
        let _ = self.close();
    }
}

fn start_thread(shared: &Arc<Shared>) -> Result<JoinHandle<()>, DeviceError> {
    let poller = Poller::new()?;
    poller.add(&shared.control, CONTROL, Watch::Readable)?;
    for (index, kick) in shared.wires.kicks.iter().enumerate() {
        poller.add(kick, index as u64, Watch::Readable)?;
    }
    let shared = Arc::clone(shared);
    let thread = thread::Builder::new().name("vioblk-device".into());
    Ok(thread.spawn(move || shared.run(&poller))?)
}

fn event_of(events: &[EventFd], index: usize) -> Result<RawFd, DeviceError> {
    events.get(index).map(AsRawFd::as_raw_fd).ok_or_else(|| {
        DeviceError::Invalid(format!("there is no queue {index}, but {} queues", events.len()))
    })
}

fn outside_config(doing: &str, offset: usize, length: usize) -> DeviceError {
    DeviceError::Invalid(format!(
        "{doing} {length} bytes at offset {offset}, but the configuration space has {} bytes",
        crate::CONFIG_BYTES
    ))
}
