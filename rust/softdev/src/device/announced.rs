//! What a driver announces in its notifications (NOTIFICATION_DATA), judged without a turn at the
//! engine: a notification of one queue does not wait for the others to be served.

use std::sync::{Mutex, PoisonError};

use shm::{DmaSpace, PackedDescriptors, Words};

use crate::registers::QueueSetup;

/// Where the available index stands among the words of its ring.
const INDEX: usize = 1;
/// AVAIL of a packed descriptor: the driver's wrap counter when it made it available, and the
/// device's, which is the same one, when it used it.
const AVAIL: u16 = 1 << 7;

/// What a driver writes to a ring, seen from outside.
#[derive(Debug)]
enum Ring {
    Split(Words),
    Packed { descriptors: PackedDescriptors, size: u16 },
}

/// Of one queue; nothing while it is not enabled.
#[derive(Debug, Default)]
pub(super) struct Announced(Mutex<Option<Ring>>);

impl Announced {
    /// The queue lies there, as was checked.
    pub(super) fn watch(&self, space: &DmaSpace, setup: &QueueSetup, packed: bool) {
        let size = setup.size;
        let ring = if packed {
            let count = usize::from(size);
            let span = space.translate(setup.descriptors, 16 * count);
            let descriptors = span.and_then(|span| span.packed_descriptors(0, count).ok());
            descriptors.map(|descriptors| Ring::Packed { descriptors, size })
        } else {
            let span = space.translate(setup.available, 4);
            span.and_then(|span| span.words(0, 2).ok()).map(Ring::Split)
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = ring;
    }

    /// Let go of its memory.
    pub(super) fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether all that stands before the position `announced` was made available. If not, or if
    /// that is not known, the ring itself has to say.
    pub(super) fn was_made(&self, announced: u16) -> bool {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            None => false,
            Some(Ring::Split(words)) => {
                let ahead = announced.wrapping_sub(words.load(INDEX));
                ahead == 0 || ahead > u16::MAX / 2
            }
            Some(Ring::Packed { descriptors, size }) => {
                let (slot, wrapped) = (announced & 0x7fff, announced >> 15);
                let (before, counter) =
                    if slot == 0 { (size - 1, wrapped ^ 1) } else { (slot - 1, wrapped) };
                slot < *size
                    && u16::from(descriptors.load_flags(before.into()) & AVAIL != 0) == counter
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::device::Device;
    use crate::options::DeviceOptions;
    use crate::registers::status::{ACKNOWLEDGE, DRIVER, FEATURES_OK};
    use crate::service::lock;

    const BASE: u64 = 1 << 32;
    const SIZE: u16 = 5;

    fn word(number: u16) -> u16 {
        let counter = u16::from((number / SIZE).is_multiple_of(2));
        (counter << 15) | (number % SIZE)
    }

    #[test]
    fn on_a_packed_ring_exactly_the_positions_of_the_last_lap_were_made() -> Result<(), &'static str>
    {
        let space = DmaSpace::new();
        space.map(4096, BASE).map_err(|_| "no memory")?;
        let setup = QueueSetup { size: SIZE, descriptors: BASE, available: BASE, used: BASE };
        let span = space.translate(BASE, 4096).ok_or("no span")?;
        let ring = span.packed_descriptors(0, SIZE.into()).map_err(|_| "no ring")?;
        let announced = Announced::default();
        announced.watch(&space, &setup, true);
        for next in 2 * SIZE..6 * SIZE {
            for number in next - 2 * SIZE + 1..=next + SIZE / 2 {
                let made = (next - SIZE + 1..=next).contains(&number);
                // The first two laps have not been.
                if next >= 3 * SIZE {
                    assert_eq!(announced.was_made(word(number)), made, "{number} at {next}");
                }
            }
            assert!(!announced.was_made(SIZE));
            let flags = if (next / SIZE).is_multiple_of(2) { AVAIL } else { 1 << 15 };
            ring.store_flags(usize::from(next % SIZE), flags);
        }
        announced.forget();
        assert!(!announced.was_made(word(6 * SIZE)));
        Ok(())
    }

    #[test]
    fn a_notification_waits_for_no_queue_to_be_served() -> Result<(), crate::DeviceError> {
        let space = DmaSpace::new();
        let memory = space.map(4096, BASE);
        let options = DeviceOptions { capacity_sectors: 8, threaded: false, ..Default::default() };
        let device = Device::new(space, options)?;
        device.write_status(ACKNOWLEDGE | DRIVER)?;
        device.write_features(device.read_features()?)?;
        device.write_status(ACKNOWLEDGE | DRIVER | FEATURES_OK)?;
        let (available, used) = (BASE + 256, BASE + 512);
        device.enable_queue(0, QueueSetup { size: 8, descriptors: BASE, available, used })?;
        let (said, heard) = mpsc::channel();
        thread::scope(|scope| {
            // As whoever serves does.
            let engine = lock(&device.service.engine);
            scope.spawn(|| said.send(device.judge_announced(0, 0)));
            let judged = heard.recv_timeout(Duration::from_secs(20));
            drop(engine);
            assert_eq!(judged, Ok(Ok(())));
        });
        drop(memory);
        Ok(())
    }
}
