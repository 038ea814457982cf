//! Looking regions up without the lock of their space.

use std::sync::{Arc, Weak};

use super::{DmaSpace, Pin, Region, RegionInner};
use crate::error::SpaceError;

/// Regions that are remembered; a handle's slots, counted from 0, have places of their own.
const PLACES: usize = 256;

/// A handle, and what it names.
type Remembered = (u32, Weak<RegionInner>);

/// What one user of a space has looked up of late. Each queue has one of its own, so that those
/// which several threads use at once share no lock.
///
/// An entry cannot be wrong, only dead: no handle is ever given out twice, and whoever begins a use
/// of a region that was closed is told so by the region.
#[derive(Debug)]
pub struct RegionCache {
    space: DmaSpace,
    places: Box<[Option<Remembered>]>,
}

impl RegionCache {
    /// Nothing is remembered yet of `space`.
    pub fn new(space: DmaSpace) -> Self {
        Self { space, places: (0..PLACES).map(|_| None).collect() }
    }

    /// As [`DmaSpace::pin`]; without its lock, for a region that is remembered.
    pub fn pin(&mut self, handle: u32) -> Result<Pin, SpaceError> {
        let place = &mut self.places[handle as usize % PLACES];
        if let Some((known, region)) = place
            && *known == handle
            && let Some(region) = region.upgrade()
        {
            return Region(region).into_pin();
        }
        let region = self.space.region(handle)?;
        *place = Some((handle, Arc::downgrade(&region.0)));
        region.into_pin()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
    use std::thread;

    use super::*;

    fn space() -> Result<DmaSpace, SpaceError> {
        let space = DmaSpace::new();
        space.map(1 << 16, 0)?;
        Ok(space)
    }

    #[test]
    fn a_region_that_is_remembered_is_found_while_the_space_is_locked() -> Result<(), SpaceError> {
        let space = space()?;
        let region = space.alloc(64, 64)?;
        let mut cache = RegionCache::new(space.clone());
        drop(cache.pin(region.handle())?);
        let held = space.lock()?;
        let pin = cache.pin(region.handle())?;
        drop(held);
        assert_eq!(pin.region().handle(), region.handle());
        Ok(())
    }

    #[test]
    fn a_region_that_was_closed_is_not_found_though_it_is_remembered() -> Result<(), SpaceError> {
        let space = space()?;
        let mut cache = RegionCache::new(space.clone());
        let region = space.alloc(64, 64)?;
        drop(cache.pin(region.handle())?);
        region.close()?;
        assert!(matches!(cache.pin(region.handle()), Err(SpaceError::Closed)));
        let handle = region.handle();
        drop(region);
        assert!(matches!(cache.pin(handle), Err(SpaceError::Closed)));
        Ok(())
    }

    #[test]
    fn handles_that_share_a_place_are_told_apart() -> Result<(), SpaceError> {
        let space = space()?;
        let mut cache = RegionCache::new(space.clone());
        let regions: Result<Vec<Region>, _> = (0..=PLACES).map(|_| space.alloc(64, 64)).collect();
        let regions = regions?;
        for region in regions.iter().chain(regions.iter().rev()) {
            assert_eq!(cache.pin(region.handle())?.region().handle(), region.handle());
        }
        Ok(())
    }

    #[test]
    fn a_pin_is_of_the_region_that_was_asked_for_and_keeps_it_open_whoever_closes_it()
    -> Result<(), SpaceError> {
        let space = space()?;
        let (current, done) =
            (AtomicU32::new(space.alloc(64, 64)?.handle()), AtomicBool::new(false));
        thread::scope(|scope| {
            let users: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        let mut cache = RegionCache::new(space.clone());
                        let mut pinned = 0_u32;
                        while !done.load(SeqCst) {
                            let handle = current.load(SeqCst);
                            let Ok(pin) = cache.pin(handle) else { continue };
                            assert_eq!(pin.region().handle(), handle);
                            assert!(!pin.region().is_closed());
                            assert!(pin.region().close().is_err(), "it is in use");
                            pinned += 1;
                        }
                        pinned
                    })
                })
                .collect();
            // The same bytes again and again, under ever new handles.
            for _ in 0..5_000 {
                let Ok(region) = space.alloc(64, 64) else { continue };
                current.store(region.handle(), SeqCst);
                while region.close().is_err() {
                    std::hint::spin_loop();
                }
            }
            done.store(true, SeqCst);
            for user in users {
                assert!(user.join().is_ok());
            }
        });
        Ok(())
    }
}
