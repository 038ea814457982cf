//! The device as its owner holds it: registers, wires, and a thread that serves the queues.

mod announced;
mod for_pci;
mod queues;

use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::AcqRel, Ordering::Release};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use shm::{DmaSpace, EventFd, fork};

use crate::block::{Disk, SECTOR_BYTES};
use crate::counters::Counters;
use crate::engine::{Engine, Wires};
use crate::error::DeviceError;
use crate::faults::{Fault, Moment};
use crate::options::{CAPACITY_SECTORS_MAX, DeviceOptions};
use crate::registers::status::FEATURES_OK;
use crate::registers::{Registers, ResetEnd, StatusChange, feature};
use crate::ring::RingFeatures;
use crate::service::{Service, lock, start_thread};
use crate::storage::{LastError, MemoryStorage};

/// Spurious interrupts of one call.
const SPURIOUS_MAX: u64 = 1 << 16;

/// A virtio-blk device. Dropping it stops its thread.
pub struct Device {
    service: Arc<Service>,
    options: DeviceOptions,
    space: DmaSpace,
    last_error: LastError,
    /// By queue.
    announced: Vec<announced::Announced>,
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
        let last_error = storage.last_error().unwrap_or_default();
        let offered = options.features | u64::from(options.read_only) << feature::RO;
        let capacity_sectors = storage.capacity_bytes() / SECTOR_BYTES;
        let model = options.model(offered, storage.as_ref());
        let disk = Disk::new(storage, options.rules(offered));
        let service = Arc::new(Service {
            wires: Wires::new(options.queue_count)?,
            engine: Mutex::new(Engine::new(space.clone(), disk, options.threaded)),
            visitors: AtomicUsize::new(0),
            registers: Mutex::new(Registers::new(model, capacity_sectors)),
            violation: Mutex::new(None),
            config_event: EventFd::new()?,
            control: EventFd::new()?,
            closed: AtomicBool::new(false),
        });
        let thread = if options.threaded { Some(start_thread(&service)?) } else { None };
        let thread = Mutex::new(thread.map(ManuallyDrop::new));
        let announced = (0..options.queue_count).map(|_| Default::default()).collect();
        Ok(Self { service, options, space, last_error, announced, thread, owner })
    }

    /// Refuse calls on a device that belongs to another process.
    pub(crate) fn check_owner(&self) -> Result<(), DeviceError> {
        if self.owner.is_here() { Ok(()) } else { Err(DeviceError::Forked) }
    }

    /// Refuse calls on a device that is closed or belongs to another process.
    pub(crate) fn check(&self) -> Result<(), DeviceError> {
        self.check_owner()?;
        if self.service.is_closed() {
            return Err(DeviceError::State("the software device is closed".into()));
        }
        Ok(())
    }

    /// The device status.
    pub fn read_status(&self) -> Result<u8, DeviceError> {
        self.check()?;
        let ends_reset = {
            let mut registers = lock(&self.service.registers);
            registers.ask_for_reset_end()
        };
        if ends_reset {
            self.finish_reset(&mut self.service.visit());
        }
        Ok(self.peek_status())
    }

    /// The same, seen from within: no read that counts.
    pub(crate) fn peek_status(&self) -> u8 {
        lock(&self.service.registers).status()
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
            let registers = lock(&self.service.registers);
            if registers.is_resetting() {
                return Ok(());
            }
            value & !registers.status() & FEATURES_OK != 0
        };
        let refuse =
            setting_features_ok && self.service.wires.faults.strike(Moment::FeaturesOk).is_some();
        let mut engine = self.service.visit();
        let change = lock(&self.service.registers).write_status(value, refuse);
        match change {
            StatusChange::Nothing => {}
            StatusChange::Stop => self.service.wires.live.store(false, Release),
            StatusChange::GoLive => self.go_live(&mut engine),
        }
        Ok(())
    }

    fn reset(&self) {
        let service = &self.service;
        // The engine stops at the next chain; once we have it, nothing is touched any more.
        service.wires.live.store(false, Release);
        let mut engine = service.visit();
        if lock(&service.registers).is_resetting() {
            return;
        }
        let end = service.wires.faults.strike(Moment::Reset).map(|strike| match strike.fault {
            Fault::SlowReset => ResetEnd::AfterReads(strike.value),
            _ => ResetEnd::Never,
        });
        match end {
            Some(end) => lock(&service.registers).begin_reset(end),
            None => self.finish_reset(&mut engine),
        }
    }

    fn finish_reset(&self, engine: &mut Engine) {
        engine.forget();
        self.announced.iter().for_each(announced::Announced::forget);
        for kick in &self.service.wires.kicks {
            kick.drain();
        }
        lock(&self.service.registers).reset();
    }

    fn go_live(&self, engine: &mut Engine) {
        let (queues, accepted) = {
            let registers = lock(&self.service.registers);
            engine.disk.rules.features = registers.accepted();
            engine.disk.rules.write_through = registers.write_through();
            (registers.enabled_queues(), registers.accepted())
        };
        match engine.adopt(&queues, RingFeatures::of(accepted)) {
            Ok(()) => {
                self.service.wires.live.store(true, Release);
                // Chains may be there already. Our own eventfd cannot fail.
                let _ = self.service.control.signal();
            }
            Err(violation) => self.service.condemn(violation),
        }
    }

    /// Offered features.
    pub fn read_features(&self) -> Result<u64, DeviceError> {
        self.check()?;
        Ok(lock(&self.service.registers).offered())
    }

    /// The features that the driver accepts, before it sets FEATURES_OK.
    pub fn write_features(&self, accepted: u64) -> Result<(), DeviceError> {
        self.check()?;
        lock(&self.service.registers).accept(accepted);
        Ok(())
    }

    /// Bytes of the configuration space.
    pub fn read_config(&self, offset: usize, length: usize) -> Result<Vec<u8>, DeviceError> {
        self.check()?;
        let mut registers = lock(&self.service.registers);
        let bytes = registers
            .read_config(offset, length)
            .ok_or_else(|| outside_config("reading", offset, length))?;
        if let Some(strike) = self.service.wires.faults.strike(Moment::ConfigRead) {
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
        if self.service.wires.faults.strike(Moment::ConfigWrite).is_some() {
            return Ok(());
        }
        let mut engine = self.service.visit();
        let mut registers = lock(&self.service.registers);
        if registers.write_config(offset, data) {
            engine.disk.rules.write_through = registers.write_through();
        }
        Ok(())
    }

    /// Changes whenever the configuration does.
    pub fn config_generation(&self) -> Result<u32, DeviceError> {
        self.check()?;
        Ok(lock(&self.service.registers).generation())
    }

    /// The eventfd that the driver signals for queue `index`.
    pub fn kick_fd(&self, index: usize) -> Result<RawFd, DeviceError> {
        self.check()?;
        event_of(&self.service.wires.kicks, index)
    }

    /// The eventfd that the device signals for queue `index`.
    pub fn interrupt_fd(&self, index: usize) -> Result<RawFd, DeviceError> {
        self.check()?;
        event_of(&self.service.wires.interrupts, index)
    }

    /// The eventfd that the device signals for a change of configuration.
    pub fn config_fd(&self) -> Result<RawFd, DeviceError> {
        self.check()?;
        Ok(self.service.config_event.as_raw_fd())
    }

    /// Refuse to serve on the caller's thread what has a thread of its own.
    pub(crate) fn check_unthreaded(&self) -> Result<(), DeviceError> {
        if self.options.threaded {
            return Err(DeviceError::State(
                "the device serves itself; make it with threaded=False to serve it on a thread of \
                 yours"
                    .into(),
            ));
        }
        Ok(())
    }

    /// Serve what waits, at most `limit` chains, on this thread; how many were taken.
    pub fn serve(&self, limit: usize) -> Result<usize, DeviceError> {
        self.check()?;
        self.check_unthreaded()?;
        let service = &self.service;
        let mut engine = service.visit();
        for index in 0..service.wires.kicks.len() {
            service.hear_kick(&mut engine, index);
        }
        let mut served = 0;
        while served < limit {
            let count = service.serve(&mut engine, limit - served);
            served += count;
            if count == 0 && !(service.wires.is_live() && engine.arm()) {
                return Ok(served);
            }
        }
        if service.wires.is_live() {
            engine.arm();
        }
        Ok(served)
    }

    /// What the device saw. Allowed after `close`.
    pub fn counters(&self) -> Result<Counters, DeviceError> {
        self.check_owner()?;
        Ok(*self.service.wires.counters())
    }

    /// Count from 0 again.
    pub fn reset_counters(&self) -> Result<(), DeviceError> {
        self.check()?;
        *self.service.wires.counters() = Counters::default();
        Ok(())
    }

    /// Why DEVICE_NEEDS_RESET was last set, if it ever was. Allowed after `close`.
    pub fn violation(&self) -> Result<Option<String>, DeviceError> {
        self.check_owner()?;
        Ok(lock(&self.service.violation).clone())
    }

    /// What the system last refused the file of the disk, which the driver saw as IOERR; None if
    /// it never did. Allowed after `close`.
    pub fn last_error(&self) -> Result<Option<String>, DeviceError> {
        self.check_owner()?;
        Ok(self.last_error.get())
    }

    /// Do something wrong at the next `count` occasions, after letting `after` of them pass. See
    /// [`Fault`] for the occasions and for what `value` means. What strikes at once strikes during
    /// the call, so spurious interrupts have a limit.
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
                self.service.wires.live.store(false, Release);
                // When this returns, no queue is touched any more.
                let _engine = self.service.visit();
                self.service.demand_reset("a fault was injected".into());
            }
            Fault::SpuriousInterrupt | Fault::SpuriousConfigInterrupt if count > SPURIOUS_MAX => {
                return Err(DeviceError::Invalid(format!(
                    "count is {count}, but spurious interrupts are sent at once, at most \
                     {SPURIOUS_MAX} a call"
                )));
            }
            Fault::SpuriousInterrupt => {
                let index = usize::try_from(value).unwrap_or(usize::MAX);
                event_of(&self.service.wires.interrupts, index)?;
                (0..count).for_each(|_| self.service.wires.interrupt(index));
            }
            Fault::SpuriousConfigInterrupt => {
                (0..count).for_each(|_| self.service.notify_config());
            }
            _ => self.service.wires.faults.arm(fault, count, after, value),
        }
        Ok(())
    }

    /// Disarm all faults, complete what was delayed, and end a reset that did not.
    pub fn clear_faults(&self) -> Result<(), DeviceError> {
        self.check()?;
        self.service.wires.faults.clear();
        let mut engine = self.service.visit();
        let resetting = {
            let mut registers = lock(&self.service.registers);
            registers.end_queue_resets();
            registers.is_resetting()
        };
        if resetting {
            self.finish_reset(&mut engine);
        } else if self.service.wires.is_live() {
            engine.release_all(&self.service.wires);
        }
        Ok(())
    }

    /// Lose what no flush made stable. Without a volatile cache, nothing is lost.
    pub fn power_loss(&self) -> Result<(), DeviceError> {
        self.check()?;
        self.service.visit().disk.storage.power_loss();
        Ok(())
    }

    /// Give the disk another size and tell the driver. Growing a file extends it; shrinking one
    /// hides its end and cuts nothing off.
    pub fn resize(&self, capacity_sectors: u64) -> Result<(), DeviceError> {
        self.check()?;
        if capacity_sectors > CAPACITY_SECTORS_MAX {
            let why = format!("capacity_sectors is {capacity_sectors}, more than 2^63 bytes");
            return Err(DeviceError::Invalid(why));
        }
        let bytes = capacity_sectors * SECTOR_BYTES;
        let mut engine = self.service.visit();
        engine.disk.storage.resize(bytes)?;
        let driven = {
            let mut registers = lock(&self.service.registers);
            registers.set_capacity(capacity_sectors);
            registers.is_driven()
        };
        if driven {
            self.service.notify_config();
        }
        Ok(())
    }

    /// Stop serving, end the thread, write the cache back, let go of the file. Doing it again does nothing, and so
    /// does doing it in a child of the process that made the device.
    pub fn close(&self) -> Result<(), DeviceError> {
        if !self.owner.is_here() {
            return Ok(());
        }
        let first = !self.service.closed.swap(true, AcqRel);
        self.service.wires.live.store(false, Release);
        self.service.control.signal()?;
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread {
            // The thread does not panic; if it did, there is nothing left to stop.
            let _ = ManuallyDrop::into_inner(thread).join();
        }
        if first {
            let mut engine = self.service.visit();
            engine.forget();
            self.announced.iter().for_each(announced::Announced::forget);
            let closed = engine.disk.storage.close();
            // Drops what was there, and with it the descriptor of a file.
            engine.disk.storage = Box::new(MemoryStorage::new(0));
            closed?;
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
