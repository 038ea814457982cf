//! A doorbell for a device without a thread: whoever rings it serves the device himself.

use std::sync::Arc;

use shm::{RegisterError, RegisterModel, Width};

use crate::device::Device;
use crate::error::DeviceError;

/// One register of two bytes. A store of a queue's index notifies the device of that queue, and
/// serves all that waits before it returns, on the thread that stores: driver and device take
/// turns on one thread, so that what they do is the same in each run.
pub struct ServingBell {
    device: Arc<Device>,
}

impl ServingBell {
    /// The doorbell of a device that was made without a thread; an error for any other.
    pub fn new(device: Arc<Device>) -> Result<Self, DeviceError> {
        device.check_unthreaded()?;
        Ok(Self { device })
    }
}

impl RegisterModel for ServingBell {
    fn length(&self) -> usize {
        Width::Bits16.bytes()
    }

    /// There is nothing to read.
    fn read(&self, _offset: usize, _width: Width) -> Result<u32, RegisterError> {
        Ok(0)
    }

    fn write(&self, _offset: usize, _width: Width, value: u32) -> Result<(), RegisterError> {
        // Before anything of it is touched: in a child of a fork it is the parent's.
        self.device.check()?;
        self.device.kick(value as usize);
        self.device.serve(usize::MAX)?;
        Ok(())
    }
}
