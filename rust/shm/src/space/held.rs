//! The regions that one queue holds: each with one pin, however many requests use it.

use std::sync::{Arc, Weak};

use super::{DmaSpace, Pin, Region, RegionInner};
use crate::error::SpaceError;
use crate::handles::slot_of;

/// The regions that requests of one queue use. A plain number counts the uses, so that a request
/// costs no atomic operation: the first use pins the region, the last one to end lets it go.
///
/// What was in use before is remembered, so that it is found again without the space's lock. Such
/// an entry cannot be wrong, only dead: no handle is ever given out twice, and whoever begins a
/// use of a region that was closed is told so by the region.
#[derive(Debug)]
pub struct HeldRegions {
    space: DmaSpace,
    /// What the space lays over its handles.
    mask: u32,
    /// By slot of the handle, of which an open region has one to itself; as many as were needed.
    places: Vec<Place>,
}

/// A use of a region, until it is given to [`HeldRegions::release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    slot: u32,
}

/// What is known of a slot's region.
#[derive(Debug, Default)]
struct Place {
    handle: u32,
    uses: usize,
    /// While there are uses.
    pin: Option<Pin>,
    region: Weak<RegionInner>,
}

impl HeldRegions {
    /// Nothing is held yet of `space`.
    pub fn new(space: DmaSpace) -> Self {
        // In a child of `fork()` no handle names anything.
        let mask = space.lock().map_or(0, |state| state.handles.mask());
        Self { space, mask, places: Vec::new() }
    }

    /// Begin a use of the region that `handle` names.
    #[inline]
    pub fn hold(&mut self, handle: u32) -> Result<(Held, &Pin), SpaceError> {
        let slot = slot_of(handle ^ self.mask);
        let is_held = |place: &Place| place.handle == handle && place.uses > 0;
        if !self.places.get(slot).is_some_and(is_held) {
            self.pin(slot, handle)?;
        }
        let place = &mut self.places[slot];
        let pin = place.pin.as_ref().ok_or(SpaceError::Closed)?;
        place.uses += 1;
        Ok((Held { slot: slot as u32 }, pin))
    }

    /// The first use of a region. Its slot is no other's: a region that is held is open.
    #[inline(never)]
    fn pin(&mut self, slot: usize, handle: u32) -> Result<(), SpaceError> {
        if let Some(place) = self.places.get_mut(slot)
            && place.handle == handle
            && let Some(region) = place.region.upgrade()
        {
            place.pin = Some(Region(region).into_pin()?);
            return Ok(());
        }
        let region = self.space.region(handle)?;
        if slot >= self.places.len() {
            self.places.resize_with(slot + 1, Place::default);
        }
        let weak = Arc::downgrade(&region.0);
        let pin = Some(region.into_pin()?);
        self.places[slot] = Place { handle, uses: 0, pin, region: weak };
        Ok(())
    }

    /// End a use that `hold` began.
    #[inline]
    pub fn release(&mut self, held: Held) {
        let Some(place) = self.places.get_mut(held.slot as usize) else { return };
        place.uses -= 1;
        if place.uses == 0 {
            place.pin = None;
        }
    }

    /// The device may go on with this use for ever: see [`Pin::abandon`].
    pub fn abandon(&self, held: Held) {
        let place = self.places.get(held.slot as usize);
        place.and_then(|place| place.pin.as_ref()).into_iter().for_each(Pin::abandon);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
    use std::thread;

    use super::*;

    type Outcome = Result<(), SpaceError>;

    fn space() -> Result<DmaSpace, SpaceError> {
        let space = DmaSpace::new();
        space.map(1 << 16, 0)?;
        Ok(space)
    }

    #[test]
    fn many_uses_are_one_pin_which_the_last_of_them_lets_go() -> Outcome {
        let space = space()?;
        let region = space.alloc(64, 64)?;
        let mut held = HeldRegions::new(space);
        let mut uses = Vec::new();
        for _ in 0..3 {
            let (hold, pin) = held.hold(region.handle())?;
            assert_eq!((pin.region().handle(), region.in_flight()), (region.handle(), 1));
            uses.push(hold);
        }
        for hold in uses {
            assert!(matches!(region.close(), Err(SpaceError::InUse { in_flight: 1, .. })));
            held.release(hold);
        }
        assert_eq!(region.in_flight(), 0);
        region.close()
    }

    #[test]
    fn regions_in_turn_are_counted_by_themselves() -> Outcome {
        let space = space()?;
        let regions = [space.alloc(64, 64)?, space.alloc(64, 64)?, space.alloc(64, 64)?];
        let [first, second, third] = &regions;
        let mut held = HeldRegions::new(space);
        let mut uses = Vec::new();
        for region in regions.iter().chain(&regions) {
            uses.push(held.hold(region.handle())?.0);
        }
        held.release(uses[1]);
        assert!(second.close().is_err());
        held.release(uses[4]);
        second.close()?;
        assert!(first.close().is_err() && third.close().is_err());
        drop(held);
        first.close()?;
        third.close()
    }

    #[test]
    fn what_was_abandoned_is_closed_and_its_bytes_are_never_given_out_again() -> Outcome {
        let space = space()?;
        let regions = [space.alloc(4096, 64)?, space.alloc(4096, 64)?];
        let free = space.free_bytes();
        let mut held = HeldRegions::new(space.clone());
        let (abandoned, _) = held.hold(regions[0].handle())?;
        held.hold(regions[1].handle())?;
        held.abandon(abandoned);
        drop(held);
        for region in &regions {
            region.close()?;
        }
        assert_eq!(space.free_bytes(), free + 4096);
        Ok(())
    }

    #[test]
    fn a_region_that_is_remembered_is_found_while_the_space_is_locked() -> Outcome {
        let space = space()?;
        let region = space.alloc(64, 64)?;
        let mut held = HeldRegions::new(space.clone());
        let (hold, _) = held.hold(region.handle())?;
        held.release(hold);
        let locked = space.lock()?;
        let found = held.hold(region.handle())?.1.region().handle();
        drop(locked);
        assert_eq!(found, region.handle());
        Ok(())
    }

    #[test]
    fn a_region_that_was_closed_is_not_found_though_it_is_remembered() -> Outcome {
        let space = space()?;
        let mut held = HeldRegions::new(space.clone());
        let region = space.alloc(64, 64)?;
        let handle = region.handle();
        let (hold, _) = held.hold(handle)?;
        held.release(hold);
        region.close()?;
        assert!(matches!(held.hold(handle), Err(SpaceError::Closed)));
        drop(region);
        assert!(matches!(held.hold(handle), Err(SpaceError::Closed)));
        Ok(())
    }

    #[test]
    fn regions_that_have_a_slot_one_after_the_other_are_told_apart() -> Outcome {
        let space = space()?;
        let mut held = HeldRegions::new(space.clone());
        let mut before: Option<u32> = None;
        for _ in 0..5 {
            let region = space.alloc(64, 64)?;
            let (hold, _) = held.hold(region.handle())?;
            if let Some(before) = before {
                assert_eq!(slot_of(before ^ region.handle()), 0, "the same slot");
                assert!(matches!(held.hold(before), Err(SpaceError::Closed)));
            }
            assert_eq!(region.in_flight(), 1);
            held.release(hold);
            region.close()?;
            before = Some(region.handle());
        }
        Ok(())
    }

    #[test]
    fn a_handle_of_another_space_is_refused_and_takes_no_room() -> Outcome {
        let (one, other) = (space()?, space()?);
        let region = other.alloc(64, 64)?;
        let mut held = HeldRegions::new(one);
        assert!(matches!(held.hold(region.handle()), Err(SpaceError::Closed)));
        assert!(held.places.is_empty());
        Ok(())
    }

    #[test]
    fn what_is_held_is_the_region_that_was_asked_for_and_stays_open_whoever_closes_it() -> Outcome {
        let space = space()?;
        let (current, done) =
            (AtomicU32::new(space.alloc(64, 64)?.handle()), AtomicBool::new(false));
        thread::scope(|scope| {
            let users: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        let mut held = HeldRegions::new(space.clone());
                        while !done.load(SeqCst) {
                            let handle = current.load(SeqCst);
                            let Ok((hold, pin)) = held.hold(handle) else { continue };
                            assert_eq!(pin.region().handle(), handle);
                            assert!(!pin.region().is_closed());
                            assert!(pin.region().close().is_err(), "it is in use");
                            held.release(hold);
                        }
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
