//! Faults on demand: how the device is made to lie.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// When a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// A request is about to be carried out and completed.
    Completion,
    /// A used buffer notification is about to be sent.
    Interrupt,
    /// The driver sets FEATURES_OK.
    FeaturesOk,
    /// The driver writes 0 to the status.
    Reset,
    /// The driver resets one queue.
    QueueReset,
    /// The driver maps an event to an MSI-X vector.
    Vector,
    /// The driver has read configuration.
    ConfigRead,
    /// The driver writes configuration.
    ConfigWrite,
    /// At once, not waiting for anything.
    Now,
}

macro_rules! faults {
    ($($(#[$doc:meta])* $name:literal $fault:ident at $moment:ident,)*) => {
        /// What the device can be told to do wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Fault {
            $($(#[$doc])* $fault,)*
        }

        impl Fault {
            /// All of them.
            pub const ALL: &[Fault] = &[$(Fault::$fault),*];

            /// The fault with this name.
            pub fn named(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$fault),)*
                    _ => None,
                }
            }

            /// Its name.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$fault => $name,)*
                }
            }

            pub(crate) fn moment(self) -> Moment {
                match self {
                    $(Self::$fault => Moment::$moment,)*
                }
            }
        }
    };
}

faults! {
    /// The used id is the queue size plus the value.
    "id_out_of_range" IdOutOfRange at Completion,
    /// The used id names a descriptor that is no outstanding head.
    "id_not_outstanding" IdNotOutstanding at Completion,
    /// The same used element is written twice.
    "id_twice" IdTwice at Completion,
    /// The used index runs ahead by the value (0: the queue size).
    "index_ahead" IndexAhead at Completion,
    /// The used index, or the place in a packed ring, does not move on past the element, so that
    /// the next one is written over it, and in order names more chains than the index moved by.
    "index_behind" IndexBehind at Completion,
    /// The used id is that of the chain that was given back before this one.
    "id_before" IdBefore at Completion,
    /// The used id is that of the last chain that waits, if one does: in order that gives back all
    /// up to it. They are not carried out, and no other chain of the queue is.
    "id_ahead" IdAhead at Completion,
    /// The used length is the value (0: 2^32 - 1).
    "huge_length" HugeLength at Completion,
    /// The used length is the value.
    "short_length" ShortLength at Completion,
    /// The request is carried out, but its status byte is the low byte of the value (0: 0xA5).
    "garbage_status" GarbageStatus at Completion,
    /// The request is not carried out, and answered with the value as its status.
    "status" Status at Completion,
    /// The request is neither carried out nor completed.
    "silence" Silence at Completion,
    /// The request is carried out, and completed at the next kick or when faults are cleared.
    "delay" Delay at Completion,
    /// FEATURES_OK does not stick.
    "refuse_features" RefuseFeatures at FeaturesOk,
    /// The status keeps its bits after a write of 0, until faults are cleared.
    "reset_never_ends" ResetNeverEnds at Reset,
    /// The status keeps its bits after a write of 0 for as many reads as the value says.
    "slow_reset" SlowReset at Reset,
    /// The reset of a queue does not end, until faults are cleared.
    "queue_reset_never_ends" QueueResetNeverEnds at QueueReset,
    /// Vectors from the value on (0: all) are refused: NO_VECTOR is read back.
    "refuse_vector" RefuseVector at Vector,
    /// DEVICE_NEEDS_RESET is set.
    "needs_reset" NeedsReset at Now,
    /// After the read, the generation changes and so does the capacity shown: down by the value
    /// (0: one sector), then up again, and so on.
    "config_flicker" ConfigFlicker at ConfigRead,
    /// Used buffers are not signalled.
    "no_interrupt" NoInterrupt at Interrupt,
    /// The interrupt of the queue that the value names is sent with nothing used.
    "spurious_interrupt" SpuriousInterrupt at Now,
    /// The configuration change notification is sent with nothing changed.
    "spurious_config_interrupt" SpuriousConfigInterrupt at Now,
    /// A configuration write is ignored.
    "drop_config_write" DropConfigWrite at ConfigWrite,
}

impl Fault {
    /// Whether the used element itself is wrong, which then stands for its own chain alone.
    pub(crate) fn alters_element(self) -> bool {
        matches!(
            self,
            Self::IdOutOfRange
                | Self::IdNotOutstanding
                | Self::IdTwice
                | Self::IndexAhead
                | Self::IndexBehind
                | Self::IdBefore
                | Self::IdAhead
                | Self::HugeLength
                | Self::ShortLength
        )
    }
}

/// A fault that strikes, with the value that it was armed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Strike {
    pub(crate) fault: Fault,
    pub(crate) value: u64,
}

#[derive(Debug)]
struct Armed {
    strike: Strike,
    /// Moments to let pass first.
    after: u64,
    /// Moments to strike at, then.
    count: u64,
}

/// The faults that are armed.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Whether there are any: spares the lock where every request passes. Changed under the lock
    /// only, else one change could hide another.
    any: AtomicBool,
    armed: Mutex<Vec<Armed>>,
}

impl Faults {
    fn lock(&self) -> MutexGuard<'_, Vec<Armed>> {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Let `fault` strike at the next `count` of its moments, after `after` of them have passed.
    pub(crate) fn arm(&self, fault: Fault, count: u64, after: u64, value: u64) {
        if count > 0 {
            let mut armed = self.lock();
            armed.push(Armed { strike: Strike { fault, value }, after, count });
            self.any.store(true, Relaxed);
        }
    }

    /// What strikes now, if anything. Of several, the one that was armed first; the others wait.
    #[inline]
    pub(crate) fn strike(&self, moment: Moment) -> Option<Strike> {
        if !self.any.load(Relaxed) {
            return None;
        }
        let mut armed = self.lock();
        let mut striking = None;
        for each in armed.iter_mut().filter(|each| each.strike.fault.moment() == moment) {
            if each.after > 0 {
                each.after -= 1;
            } else if striking.is_none() {
                each.count -= 1;
                striking = Some(each.strike);
            }
        }
        armed.retain(|each| each.count > 0);
        self.any.store(!armed.is_empty(), Relaxed);
        striking
    }

    /// Disarm all.
    pub(crate) fn clear(&self) {
        let mut armed = self.lock();
        armed.clear();
        self.any.store(false, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use super::{Fault, Faults, Moment};

    #[test]
    fn every_name_finds_its_fault() {
        for &fault in Fault::ALL {
            assert_eq!(Fault::named(fault.name()), Some(fault));
        }
        assert_eq!(Fault::named("nonsense"), None);
    }

    #[test]
    fn a_fault_waits_then_strikes_count_times() {
        let faults = Faults::default();
        faults.arm(Fault::Silence, 2, 1, 9);
        let strikes: Vec<bool> =
            (0..4).map(|_| faults.strike(Moment::Completion).is_some()).collect();
        assert_eq!(strikes, [false, true, true, false]);
    }

    #[test]
    fn other_moments_do_not_count() {
        let faults = Faults::default();
        faults.arm(Fault::NoInterrupt, 1, 0, 0);
        assert_eq!(faults.strike(Moment::Completion), None);
        assert_eq!(faults.strike(Moment::Interrupt).map(|s| s.fault), Some(Fault::NoInterrupt));
    }

    #[test]
    fn of_two_faults_the_first_strikes_and_the_second_waits() {
        let faults = Faults::default();
        faults.arm(Fault::IdTwice, 1, 0, 0);
        faults.arm(Fault::Silence, 1, 0, 0);
        let struck: Vec<_> =
            (0..3).map(|_| faults.strike(Moment::Completion).map(|s| s.fault)).collect();
        assert_eq!(struck, [Some(Fault::IdTwice), Some(Fault::Silence), None]);
    }

    #[test]
    fn whoever_holds_the_lock_finds_faults_if_and_only_if_they_are_looked_for() {
        let (faults, ended) = (Faults::default(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..200_000 {
                    faults.arm(Fault::Silence, 1, 0, 0);
                    faults.clear();
                }
                ended.store(true, Relaxed);
            });
            let mut wrong = 0;
            while !ended.load(Relaxed) {
                let armed = faults.lock();
                wrong += usize::from(faults.any.load(Relaxed) == armed.is_empty());
            }
            assert_eq!(wrong, 0);
        });
    }
}
