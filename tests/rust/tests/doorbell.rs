//! Registers and doorbells: which bytes reach a device, by which access.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use shm::{
    DmaSpace, Doorbell, DoorbellError, EventFd, MmioWindow, Notification, RegisterError,
    RegisterModel, SpaceError, Width,
};
use vioblk_tests::clause;
use vring::request::{Limits, Request, kind};
use vring::{BlockQueue, QueueError, Ring, RingOptions, SplitLayout, SplitQueue, Wires};

const PAGE: usize = 4096;
const WIDTHS: [Width; 3] = [Width::Bits8, Width::Bits16, Width::Bits32];
/// In every byte that nobody may touch.
const UNTOUCHED: u8 = 0xEE;

const QUEUE: u16 = 0x1234;
const PLAIN: Notification = Notification { value: QUEUE, carries_data: false };
const WITH_DATA: Notification = Notification { value: QUEUE, carries_data: true };

/// Offset, width and value of a store.
type Store = (usize, Width, u32);

/// Registers that note each store, and read as one value.
#[derive(Default)]
struct Recorder {
    stores: Mutex<Vec<Store>>,
    closed: AtomicBool,
}

impl Recorder {
    fn taken(&self) -> Vec<Store> {
        std::mem::take(&mut self.stores.lock().unwrap())
    }

    fn check(&self) -> Result<(), RegisterError> {
        match self.closed.load(Relaxed) {
            true => Err(RegisterError::Closed("the device is closed".into())),
            false => Ok(()),
        }
    }
}

impl RegisterModel for Recorder {
    fn length(&self) -> usize {
        PAGE
    }

    fn read(&self, _offset: usize, _width: Width) -> Result<u32, RegisterError> {
        self.check().map(|()| 0x8765_4321)
    }

    fn write(&self, offset: usize, width: Width, value: u32) -> Result<(), RegisterError> {
        self.check()?;
        self.stores.lock().unwrap().push((offset, width, value));
        Ok(())
    }
}

fn recorder() -> (Arc<Recorder>, MmioWindow) {
    let recorder = Arc::new(Recorder::default());
    (Arc::clone(&recorder), MmioWindow::model(recorder))
}

/// A file whose bytes are all `UNTOUCHED`.
fn file(length: usize) -> File {
    let mut file = tempfile();
    file.write_all(&vec![UNTOUCHED; length]).unwrap();
    file
}

fn tempfile() -> File {
    // A name of our own, and none as soon as it is open.
    let path = std::env::temp_dir().join(format!(
        "vioblk-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path);
    std::fs::remove_file(path).unwrap();
    file.unwrap()
}

fn descriptor(file: &File) -> OwnedFd {
    file.try_clone().unwrap().into()
}

/// The bytes that were touched, and where the first of them is.
fn touched(mut file: &File) -> (usize, Vec<u8>) {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    let is_touched = |&byte: &u8| byte != UNTOUCHED;
    let first = bytes.iter().position(is_touched).unwrap();
    let last = bytes.iter().rposition(is_touched).unwrap();
    (first, bytes[first..=last].to_vec())
}

#[test]
fn a_mapped_register_is_accessed_by_its_own_bytes_alone() {
    for (width, bytes) in
        WIDTHS.into_iter().zip([&[0x78][..], &[0x78, 0x56], &[0x78, 0x56, 0x34, 0x12]])
    {
        let file = file(2 * PAGE);
        let window = MmioWindow::map(descriptor(&file), 64, PAGE as u64).unwrap();
        let value = 0x1234_5678 & width.all_ones();
        window.write(8, width, value).unwrap();
        assert_eq!(touched(&file), (PAGE + 8, bytes.to_vec()));
        assert_eq!(window.read(8, width), Ok(value));
        assert_eq!(window.read(16, width), Ok(0xEEEE_EEEE & width.all_ones()));
    }
}

#[test]
fn a_modelled_register_is_asked_with_the_width_and_the_value_of_the_access() {
    let (model, window) = recorder();
    for width in WIDTHS {
        window.write(12, width, 0x5A).unwrap();
        assert_eq!(model.taken(), [(12, width, 0x5A)]);
        assert_eq!(window.read(12, width), Ok(0x8765_4321 & width.all_ones()));
    }
}

#[test]
fn accesses_that_are_outside_or_unaligned_or_too_large_reach_no_register() {
    let (model, modelled) = recorder();
    let file = file(PAGE);
    let mapped = MmioWindow::map(descriptor(&file), PAGE, 0).unwrap();
    for window in [&modelled, &mapped] {
        let beyond = [PAGE, PAGE + 4, usize::MAX, usize::MAX - 3];
        let beyond = beyond.into_iter().flat_map(|offset| WIDTHS.map(|width| (offset, width)));
        let straddling = [(PAGE - 1, Width::Bits16), (PAGE - 2, Width::Bits32)];
        let unaligned = [(1, Width::Bits16), (2, Width::Bits32), (5, Width::Bits32)];
        for (offset, width) in beyond.chain(straddling).chain(unaligned) {
            let refused = RegisterError::Misplaced { offset, width, length: PAGE };
            assert_eq!(window.read(offset, width), Err(refused.clone()));
            assert_eq!(window.write(offset, width, 0), Err(refused));
        }
        for (width, value) in [(Width::Bits8, 0x100), (Width::Bits16, 0x1_0000)] {
            let refused = RegisterError::TooLarge { value, width };
            assert_eq!(window.write(0, width, value), Err(refused));
        }
        for width in WIDTHS {
            assert!(window.read(PAGE - width.bytes(), width).is_ok());
        }
    }
    assert_eq!(model.taken(), []);
    mapped.write(0, Width::Bits8, 1).unwrap();
    assert_eq!(touched(&file), (0, vec![1]), "nothing else was");
}

#[test]
fn registers_that_a_file_does_not_have_are_not_mapped() {
    let file = file(2 * PAGE);
    for (length, offset) in
        [(0, 0), (2 * PAGE + 1, 0), (PAGE + 1, PAGE), (1, 2 * PAGE), (16, 64), (usize::MAX, PAGE)]
    {
        let mapped = MmioWindow::map(descriptor(&file), length, offset as u64);
        assert!(matches!(mapped, Err(SpaceError::Invalid(_))), "{length} at {offset}: {mapped:?}");
    }
    assert_eq!(MmioWindow::map(descriptor(&file), PAGE, PAGE as u64).unwrap().length(), PAGE);
}

#[test]
fn a_doorbell_without_data_is_a_store_of_two_bytes() {
    clause!("PCI-NOTIFY-01");
    let (model, window) = recorder();
    let bell = Doorbell::mmio(window, 6, PLAIN).unwrap();
    assert!(bell.ring(0xABCD).unwrap());
    assert_eq!(model.taken(), [(6, Width::Bits16, 0x1234)]);

    let mapped = file(PAGE);
    let window = MmioWindow::map(descriptor(&mapped), PAGE, 0).unwrap();
    assert!(Doorbell::mmio(window, 6, PLAIN).unwrap().ring(0xABCD).unwrap());
    assert_eq!(touched(&mapped), (6, vec![0x34, 0x12]));

    let written = file(PAGE);
    assert!(Doorbell::file(descriptor(&written), 6, PLAIN).unwrap().ring(0xABCD).unwrap());
    assert_eq!(touched(&written), (6, vec![0x34, 0x12]));
}

#[test]
fn a_doorbell_with_data_is_a_store_of_four_bytes_with_the_position_above() {
    clause!("PCI-NOTIFY-02");
    let (model, window) = recorder();
    let bell = Doorbell::mmio(window, 8, WITH_DATA).unwrap();
    assert!(bell.carries_data() && bell.ring(0xABCD).unwrap());
    assert_eq!(model.taken(), [(8, Width::Bits32, 0xABCD_1234)]);

    let mapped = file(PAGE);
    let window = MmioWindow::map(descriptor(&mapped), PAGE, 0).unwrap();
    assert!(Doorbell::mmio(window, 8, WITH_DATA).unwrap().ring(0xABCD).unwrap());
    assert_eq!(touched(&mapped), (8, vec![0x34, 0x12, 0xCD, 0xAB]));

    let written = file(PAGE);
    assert!(Doorbell::file(descriptor(&written), 8, WITH_DATA).unwrap().ring(0xABCD).unwrap());
    assert_eq!(touched(&written), (8, vec![0x34, 0x12, 0xCD, 0xAB]));
}

#[test]
fn a_doorbell_where_no_register_of_its_width_can_be_is_refused() {
    let (_, window) = recorder();
    let misplaced = [(PAGE, PLAIN), (1, PLAIN), (2, WITH_DATA), (PAGE - 2, WITH_DATA)];
    for (offset, notification) in misplaced {
        let width = notification.width();
        let refused = Doorbell::mmio(window.clone(), offset, notification).unwrap_err();
        assert_eq!(refused, RegisterError::Misplaced { offset, width, length: PAGE });
    }
    // Of two bytes that are not aligned the system makes two writes of one.
    let file = file(PAGE);
    for (offset, notification) in [(1, PLAIN), (2, WITH_DATA), (1 << 63, PLAIN)] {
        let refused = Doorbell::file(descriptor(&file), offset, notification);
        assert!(matches!(refused, Err(SpaceError::Invalid(_))), "{refused:?}");
    }
}

#[test]
fn a_doorbell_that_cannot_be_rung_says_so() {
    let (model, window) = recorder();
    let bell = Doorbell::mmio(window, 0, PLAIN).unwrap();
    model.closed.store(true, Relaxed);
    let failed = bell.ring(0).unwrap_err();
    assert!(matches!(failed, DoorbellError::Register(RegisterError::Closed(_))), "{failed}");

    let full = File::options().write(true).open("/dev/full").unwrap();
    let failed = Doorbell::file(full.into(), 0, PLAIN).unwrap().ring(0).unwrap_err();
    assert!(matches!(failed, DoorbellError::Io(_)), "{failed}");
    assert!(failed.to_string().contains("No space"), "{failed}");
}

/// A queue of 8 descriptors whose requests are flushes, of two descriptors each.
fn queue_with(doorbell: Doorbell) -> BlockQueue<SplitQueue> {
    let space = DmaSpace::new();
    space.map(1 << 16, 1 << 32).unwrap();
    let layout = SplitLayout::new(8, None, 0).unwrap();
    let ring = space.alloc(layout.length, 4096).unwrap().claim().unwrap();
    let slots = space.alloc(vring::slots_length(8), 4096).unwrap().claim().unwrap();
    let ring = SplitQueue::new(ring, layout, RingOptions::default()).unwrap();
    let limits = Limits { kinds: 1 << kind::FLUSH, ..Limits::default() };
    let wires = Wires { doorbell: Arc::new(doorbell), ..Wires::default() };
    BlockQueue::new(ring, space, slots, limits, false, wires).unwrap()
}

fn flushes(count: usize) -> Vec<Request> {
    vec![Request { kind: kind::FLUSH, ..Request::default() }; count]
}

#[test]
fn a_queue_tells_its_doorbell_how_far_it_has_made_chains_available() {
    let (model, window) = recorder();
    let queue = queue_with(Doorbell::mmio(window, 4, WITH_DATA).unwrap());
    for (count, available) in [(1, 1), (3, 4)] {
        assert_eq!(queue.submit_many(flushes(count)), Ok(count));
        assert_eq!(model.taken(), [(4, Width::Bits32, available << 16 | u32::from(QUEUE))]);
    }
    assert_eq!(queue.submit_many(flushes(1)), Ok(0), "the ring is full");
    assert_eq!(model.taken(), []);
    assert!(!queue.take_kick(), "nothing is left to the owner");
    queue.reclaim();
    assert_eq!(queue.submit_many(flushes(2)), Ok(2));
    assert_eq!(model.taken(), [(4, Width::Bits32, 2 << 16 | u32::from(QUEUE))], "from 0 again");
}

#[test]
fn a_queue_whose_doorbell_fails_is_given_up_with_the_reason() {
    let (model, window) = recorder();
    let queue = queue_with(Doorbell::mmio(window, 0, PLAIN).unwrap());
    model.closed.store(true, Relaxed);
    let execution = queue.begin(flushes(1)).unwrap();
    let why = "the device cannot be notified: the device is closed";
    let gone = Err(QueueError::Gone(why.into()));
    assert_eq!(queue.finish(&execution, None, || Ok(())), gone);
    queue.end(execution);
    assert_eq!(queue.broken().as_deref(), Some(why));
}

#[test]
fn an_eventfd_is_signalled_once_for_each_ring() {
    let event = EventFd::new().unwrap();
    let bell = Doorbell::EventFd(event.try_clone().unwrap());
    for position in 0..3 {
        assert!(bell.ring(position).unwrap());
    }
    assert!(!bell.carries_data());
    assert_eq!(event.drain(), 3);
}
