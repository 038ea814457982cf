//! The device that serves every ring: it takes chains and gives them back, and does nothing else.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use shm::DmaSpace;
use softdev::AddressMap;
use softdev::ring::packed::PackedRing;
use softdev::ring::{Chain, DeviceRing, RingAddresses, RingFeatures, Violation};

use crate::Outcome;

/// Chains that are given back in one step, at most. The software device does the same.
const PUBLISH_EVERY: usize = 64;

/// Notifications that either side may want of the other. None are wanted, but with EVENT_IDX that is
/// said by an event that the index passes once in 65536.
pub const NOTIFICATIONS_MAX: usize = 2;

/// What both formats of the device's half can do.
pub trait Answers: Send {
    /// Take note of what has become available; how many chains.
    fn poll(&mut self) -> Result<u16, Violation>;
    /// Take the next chain.
    fn take(&mut self, map: &mut AddressMap, chain: &mut Chain) -> Result<bool, Violation>;
    /// Give it back, as written completely.
    fn give_back(&mut self, chain: &Chain);
    /// Show the driver all that was given back; whether it wants to be notified.
    fn publish(&mut self) -> bool;
    /// Ask for no notifications.
    fn disarm(&mut self);
}

macro_rules! answers {
    ($half:ty) => {
        impl Answers for $half {
            #[inline]
            fn poll(&mut self) -> Result<u16, Violation> {
                self.poll()
            }
            #[inline]
            fn take(&mut self, map: &mut AddressMap, chain: &mut Chain) -> Result<bool, Violation> {
                self.take(map, chain)
            }
            #[inline]
            fn give_back(&mut self, chain: &Chain) {
                self.give_back(chain, chain.writable_bytes as u32);
            }
            #[inline]
            fn publish(&mut self) -> bool {
                self.publish();
                self.wants_interrupt()
            }
            fn disarm(&mut self) {
                self.disarm();
            }
        }
    };
}

answers!(DeviceRing);
answers!(PackedRing);

/// The device, which never asks for a notification.
#[derive(Debug)]
pub struct Device<H> {
    half: H,
    map: AddressMap,
    chain: Chain,
    interrupts: usize,
}

impl Device<DeviceRing> {
    /// The device of a split ring.
    pub fn split(
        space: &DmaSpace,
        addresses: &RingAddresses,
        features: RingFeatures,
    ) -> Outcome<Self> {
        Self::new(space, |map| DeviceRing::new(addresses, features, map))
    }
}

impl Device<PackedRing> {
    /// The device of a packed ring.
    pub fn packed(
        space: &DmaSpace,
        addresses: &RingAddresses,
        features: RingFeatures,
    ) -> Outcome<Self> {
        Self::new(space, |map| PackedRing::new(addresses, features, map))
    }
}

impl<H: Answers> Device<H> {
    fn new(
        space: &DmaSpace,
        make: impl FnOnce(&mut AddressMap) -> Result<H, Violation>,
    ) -> Outcome<Self> {
        let mut map = AddressMap::new(space.clone());
        let mut half = make(&mut map).map_err(failed)?;
        half.disarm();
        Ok(Self { half, map, chain: Chain::default(), interrupts: 0 })
    }

    /// Serve all that is available; how many chains.
    #[inline]
    pub fn serve(&mut self) -> Outcome<usize> {
        if self.half.poll().map_err(failed)? == 0 {
            return Ok(0);
        }
        let mut total = 0;
        loop {
            let mut count = 0;
            while count < PUBLISH_EVERY
                && self.half.take(&mut self.map, &mut self.chain).map_err(failed)?
            {
                self.half.give_back(&self.chain);
                count += 1;
            }
            if count == 0 {
                return Ok(total);
            }
            total += count;
            self.interrupts += usize::from(self.half.publish());
            if self.interrupts > NOTIFICATIONS_MAX {
                return Err("the driver asked for notifications".into());
            }
        }
    }

    /// Serve, and look again, until told to stop.
    pub fn serve_until(&mut self, stop: &AtomicBool) -> Outcome<()> {
        loop {
            if self.serve()? == 0 {
                if stop.load(Relaxed) {
                    return Ok(());
                }
                std::hint::spin_loop();
            }
        }
    }
}

fn failed(violation: Violation) -> crate::Failure {
    violation.to_string().into()
}
