//! The driver's half of a ring against a device that may write anything, anywhere, at any time.
//!
//! A program pushes, publishes, reaps and so on, and between these steps plays the device: rightly
//! (it uses a chain that is outstanding), nearly (a used index that is a little off, an id of a
//! chain that was not published) or not at all (any word anywhere in the ring's memory). Before
//! each call the model says what must come of it, from what stands in memory then; after it, not a
//! byte may have changed that the call had no business with.

#![allow(clippy::single_range_in_vec_init)] // lists of ranges, often of one

mod model;
mod packed;
mod split;

use std::fmt::Debug;
use std::ops::Range;

use shm::{DmaSpace, Pin, Region, Segment};
use vring::{Broken, LayoutError, PushError, Ring, RingOptions, Used};

use super::bytes::{Bytes, Watch};
use super::input::Input;
use model::{Chain, Model};
pub(super) use packed::Packed;
pub(super) use split::Split;

/// Where the device sees the mappings: one of ring and payload, and one that is larger than a chain
/// may be, of which nobody touches a byte.
const BASE: u64 = 1 << 32;
const VAST_BASE: u64 = 1 << 40;
const VAST_BYTES: usize = 1 << 32;
const PAGE: usize = 4096;
const PAYLOAD_BYTES: usize = PAGE;

/// The third byte of a program that starts with indices about to wrap. No value that a fuzzer is
/// fond of: it takes as long as thousands of steps.
const NEAR_THE_WRAP: u8 = b'w';

/// What stands where nobody may write.
const CANARY: u8 = 0xC5;
/// What stands in memory before a ring is made there.
const GARBAGE: u8 = 0xA5;

/// What is particular to a format: where things lie, and how the device writes them.
pub(super) trait Format: Sized {
    type Queue: Ring;

    /// Whether both sides count chains in 16 bits.
    const INDICES_WRAP: bool;

    /// A layout by one byte for the size, and one for everything else.
    fn layout(
        size: u8,
        tables: u16,
        legacy: bool,
    ) -> Result<<Self::Queue as Ring>::Layout, LayoutError>;

    /// Bytes of the ring, and its alignment.
    fn extent(layout: &<Self::Queue as Ring>::Layout) -> (usize, usize);

    /// The device's view of the ring.
    fn new(ring: Bytes, address: u64, layout: <Self::Queue as Ring>::Layout) -> Self;

    /// All that is zero in a fresh ring.
    fn areas(&self) -> Vec<Range<usize>>;

    /// `chain` stands in memory as it was pushed; where it may have been written.
    fn check_pushed(&self, model: &Model, chain: &mut Chain) -> Vec<Range<usize>>;

    /// Where the device will see `batch`, of which it sees all now; where that was written.
    fn check_published(&self, model: &Model, batch: &[Chain]) -> Vec<Range<usize>>;

    /// Whether the device asks to be told of the batch that the model has published last; unknown
    /// where it asks for something that cannot be.
    fn wants_kick(&self, model: &Model, batch: &[Chain]) -> Option<bool>;

    /// The words that `arm` or `disarm` writes are right; where they are.
    fn check_armed(&self, model: &Model, armed: bool) -> Vec<Range<usize>>;

    /// In order: how many numbers have been taken before that of the next head.
    fn next_number(&self, model: &Model) -> u64;

    fn next_available(&self, model: &Model) -> u16;

    fn has_used(&self, model: &Model) -> bool;

    /// What `reap(limit)` must return, and what to hand out. The model forgets what it hands out.
    fn reap(&self, model: &mut Model, limit: usize) -> (Vec<Used>, Result<usize, Broken>);

    /// As the device, use the chain that is `index`th among the outstanding ones; in order, that
    /// and all before it, by one element.
    fn complete(&mut self, model: &mut Model, index: usize, length: u32);

    /// As the device, write a word that the driver will look at, by four bits and what follows.
    fn store(&mut self, model: &Model, argument: u8, input: &mut Input<'_>);
}

/// A ring, its device, and the model between them.
struct Play<F: Format> {
    ring: F::Queue,
    device: F,
    model: Model,
    /// The ring's memory.
    memory: Bytes,
    watch: Watch,
    /// All of the mapping but the ring.
    others: Vec<Watch>,
    payload: Pin,
    vast: Pin,
}

/// Carry out a program against a ring that its first three bytes describe.
pub(super) fn run<F: Format>(data: &[u8]) {
    let mut input = Input::new(data);
    let Some(mut play) = Play::<F>::new(&mut input) else { return };
    while !input.is_over() {
        play.step(&mut input);
    }
    play.reclaim();
    for other in &mut play.others {
        other.check(&[], "the driver, outside its ring,");
    }
}

/// What cannot fail here, as the harness made it so.
fn made<T, E: Debug>(result: Result<T, E>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("the harness made a mistake: {error:?}"),
    }
}

impl<F: Format> Play<F> {
    fn new(input: &mut Input<'_>) -> Option<Self> {
        let (flags, size, tables) = (input.byte(), input.byte(), input.byte());
        let bit = |n: u8| flags >> n & 1 != 0;
        let far = tables == NEAR_THE_WRAP && F::INDICES_WRAP;
        let tables = if bit(1) { u16::from(tables % 9) } else { 0 };
        // More tables than descriptors: there is no such ring.
        let layout = F::layout(size, tables, bit(5)).ok()?;
        let (length, align) = F::extent(&layout);

        let space = DmaSpace::new();
        let pages = length.next_multiple_of(PAGE) + PAGE;
        made(space.map(pages + PAYLOAD_BYTES + PAGE, BASE));
        made(space.map(VAST_BYTES + PAGE, VAST_BASE));
        // Before it, between it and the payload, and behind that: canaries.
        let before = made(space.alloc(PAGE, PAGE));
        let region = made(space.alloc(length, align.max(64)));
        let payload = made(space.alloc(PAYLOAD_BYTES, 64));
        let vast = made(space.alloc(VAST_BYTES, PAGE));
        let whole = Bytes::new(space.translate(BASE, pages + PAYLOAD_BYTES + PAGE)?);
        whole.fill(0..whole.len(), CANARY);
        let start = (region.device_address() - BASE) as usize;
        let memory = Bytes::new(region.span().clone());
        let zeroed = bit(4);
        memory.fill(0..length, if zeroed { 0 } else { GARBAGE });
        let others = vec![
            made(space.translate(BASE, start).ok_or("before")),
            made(
                space
                    .translate(BASE + (start + length) as u64, whole.len() - start - length)
                    .ok_or("behind"),
            ),
        ];
        drop(before);

        let options = RingOptions { event_idx: bit(0), in_order: bit(2), strict: bit(3), zeroed };
        let ring = made(F::Queue::new(made(region.claim()), layout, options));
        let device = F::new(memory.clone(), region.device_address(), layout);
        let model = Model::new(ring.size(), tables, options);
        let watch = |span| {
            let mut watch = Watch::new(Bytes::new(span));
            watch.begin();
            watch
        };
        let others = others.into_iter().map(watch).collect();
        let watch = Watch::new(memory.clone());
        let pin = |region: &Region| made(region.pin());
        let (payload, vast) = (pin(&payload), pin(&vast));
        let mut play = Self { ring, device, model, memory, watch, others, payload, vast };
        play.check_fresh();
        if far {
            play.near_the_wrap();
        }
        Some(play)
    }

    /// The low four bits of a step say what it is, the high ones are its argument.
    fn step(&mut self, input: &mut Input<'_>) {
        let byte = input.byte();
        let argument = byte >> 4;
        match byte & 15 {
            0..=3 => self.push(argument, input),
            4 | 5 => self.publish(),
            6 | 7 => self.reap(if argument == 15 { usize::MAX } else { argument.into() }),
            8 => self.arm(),
            9 => self.disarm(),
            10 => self.withdraw(),
            11 | 12 => self.complete(argument, input),
            13 => self.device.store(&self.model, argument, input),
            14 => self.scribble(argument, input),
            _ if argument < 4 => self.reclaim(),
            _ => self.rounds(argument),
        }
        self.check_counts();
    }

    /// Segments by four bits for the shape and a byte for the lengths.
    fn segments(&self, shape: u8, length: u8) -> (Vec<Segment>, Vec<Segment>) {
        let payload = |n: usize| {
            let length = 1 + (usize::from(length) * (n + 1)) % 600;
            let offset = (n * 137) % (PAYLOAD_BYTES - length);
            made(self.payload.segment(offset as u64, length as u64))
        };
        let part = |first: usize, count: usize| (first..first + count).map(payload).collect();
        let vast = |length: u64| made(self.vast.segment(0, length));
        let size = usize::from(self.ring.size());
        let (readable, writable) = match shape {
            0 => (1, 0),
            1 => (0, 1),
            2 | 3 => (1, 1),
            4 => (2, 1),
            5 => (1, 2),
            6 => (3, 3),
            7 => (0, 8),
            8 => (0, 0),
            9 => (size, 0),
            10 => (0, size),
            11 => (size, 1),
            12 => (1, size.saturating_sub(1)),
            13 => return (vec![vast(u32::MAX.into())], vec![vast(1)]),
            14 => return (vec![vast(u32::MAX.into())], vec![vast(2)]),
            _ => return (vec![], vec![vast(1), vast(u32::MAX.into())]),
        };
        (part(0, readable), part(readable, writable))
    }

    fn push(&mut self, shape: u8, input: &mut Input<'_>) {
        let (readable, writable) = self.segments(shape, input.byte());
        let expected = self.model.judge_push(&readable, &writable);
        let next_head = self.ring.next_head();
        self.watch.begin();
        let mut allowed = Vec::new();
        match (self.ring.push(&readable, &writable), expected) {
            (Ok(head), Ok(slots)) => {
                assert_eq!(head, next_head, "the head that was announced");
                let mut chain = Chain::new(head, slots, &readable, &writable);
                self.model.check_head(head, self.device.next_number(&self.model));
                allowed = self.device.check_pushed(&self.model, &mut chain);
                self.model.push(chain);
            }
            (result, expected) => {
                assert_eq!(result.err(), expected.err(), "what a push is refused for");
            }
        }
        self.watch.check(&allowed, "push");
    }

    fn publish(&mut self) {
        self.watch.begin();
        let result = self.ring.publish();
        let mut allowed = Vec::new();
        if let Some(broken) = self.model.broken {
            assert_eq!(result, Err(broken));
        } else {
            let batch = self.model.publish();
            let wants_kick = self.device.wants_kick(&self.model, &batch);
            let kicks = made(result);
            assert!(!batch.is_empty() || !kicks, "a kick for nothing");
            if let Some(wanted) = wants_kick.filter(|_| !batch.is_empty()) {
                assert_eq!(kicks, wanted, "whether the device is notified");
            }
            allowed = self.device.check_published(&self.model, &batch);
            self.model.outstanding.extend(batch);
        }
        self.watch.check(&allowed, "publish");
    }

    fn reap(&mut self, limit: usize) {
        self.watch.begin();
        let (expected, outcome) = match self.model.broken {
            Some(broken) => (Vec::new(), Err(broken)),
            None => self.device.reap(&mut self.model, limit),
        };
        let mut handed_out = Vec::new();
        let result = self.ring.reap(limit, |used| handed_out.push(used));
        assert_eq!(handed_out, expected, "what reap({limit}) hands out");
        assert_eq!(result, outcome, "what reap({limit}) returns");
        assert_eq!(self.ring.broken(), self.model.broken);
        self.watch.check(&[], "reap");
    }

    fn arm(&mut self) {
        self.watch.begin();
        let result = self.ring.arm();
        let mut allowed = Vec::new();
        if let Some(broken) = self.model.broken {
            assert_eq!(result, Err(broken));
        } else {
            allowed = self.device.check_armed(&self.model, true);
            assert_eq!(result, Ok(self.device.has_used(&self.model)), "whether more is pending");
        }
        self.watch.check(&allowed, "arm");
    }

    fn disarm(&mut self) {
        self.watch.begin();
        self.ring.disarm();
        let allowed = self.device.check_armed(&self.model, false);
        self.watch.check(&allowed, "disarm");
    }

    fn withdraw(&mut self) {
        self.watch.begin();
        let mut heads = Vec::new();
        self.ring.withdraw(|head| heads.push(head));
        assert_eq!(heads, self.model.withdraw(), "what was withdrawn");
        self.watch.check(&[], "withdraw");
    }

    /// What only a confirmed reset allows: all comes back, and the ring is as new.
    fn reclaim(&mut self) {
        let mut heads = Vec::new();
        self.ring.reclaim(|head| heads.push(head));
        assert_eq!(heads, self.model.reclaim(), "what was reclaimed");
        self.check_fresh();
    }

    fn check_fresh(&self) {
        for area in self.device.areas() {
            let bytes = self.memory.copy(area.clone());
            assert!(bytes.iter().all(|&byte| byte == 0), "{area:?} of a fresh ring is not zero");
        }
        assert_eq!(self.ring.free_count(), self.ring.size());
        assert!(!self.ring.is_live() && self.ring.broken().is_none());
        self.check_counts();
    }

    fn check_counts(&self) {
        let (ring, model) = (&self.ring, &self.model);
        assert_eq!(ring.free_count(), model.free(), "free descriptors");
        assert_eq!(usize::from(ring.outstanding_count()), model.outstanding.len());
        assert_eq!(ring.clamped_count(), model.clamped, "completions that were clamped");
        assert_eq!(ring.is_live(), model.chains_published > 0);
        assert_eq!(ring.broken(), model.broken);
        assert_eq!(ring.next_available(), self.device.next_available(model));
        assert_eq!(ring.has_used(), self.device.has_used(model));
    }

    /// As an honest device that may lie about the length; as one that uses a chain twice, if no
    /// other is left and the argument insists.
    fn complete(&mut self, argument: u8, input: &mut Input<'_>) {
        let mut places = self.model.unanswered();
        if places.is_empty() && argument == 15 {
            places = (0..self.model.outstanding.len()).collect();
        }
        if places.is_empty() {
            return;
        }
        let place = places[usize::from(argument) % places.len()];
        let writable = u32::try_from(self.model.outstanding[place].writable).unwrap_or(u32::MAX);
        let length = match input.byte() {
            0..=127 => writable,
            128..=159 => 0,
            160..=191 => writable.wrapping_sub(1),
            192..=223 => writable.saturating_add(1),
            _ => u32::MAX,
        };
        self.device.complete(&mut self.model, place, length);
    }

    /// Any bytes anywhere in the ring.
    fn scribble(&mut self, count: u8, input: &mut Input<'_>) {
        let length = self.memory.len();
        let at = usize::from(input.word()) % length;
        let end = length.min(at + 1 + usize::from(count));
        (at..end).for_each(|at| self.memory.write(at, &[input.byte()]));
    }

    /// Push, publish, use and reap a few chains, as an honest pair would.
    fn rounds(&mut self, count: u8) {
        for n in 0..count {
            let lengths = [n];
            self.push(n % 6, &mut Input::new(&lengths));
            self.publish();
            self.complete(n, &mut Input::new(&[]));
            self.reap(usize::MAX);
        }
    }

    /// Honest rounds, seen from far away, until the 16-bit indices are about to wrap.
    fn near_the_wrap(&mut self) {
        let size = usize::from(self.ring.size());
        let part = [made(self.payload.segment(0, 1))];
        while usize::from(u16::MAX) - (self.model.chains_published as usize) > size {
            for _ in 0..size {
                let head = made(self.ring.push(&[], &part));
                self.model.push(Chain::unseen(head));
            }
            made(self.ring.publish());
            let batch = self.model.publish();
            self.model.outstanding.extend(batch);
            for index in 0..size {
                self.device.complete(&mut self.model, index, 1);
            }
            let (expected, outcome) = self.device.reap(&mut self.model, size);
            let mut handed_out = Vec::with_capacity(size);
            assert_eq!(self.ring.reap(size, |used| handed_out.push(used)), outcome);
            assert_eq!(handed_out, expected);
        }
    }
}

/// Why a chain cannot be pushed, with nothing in the ring.
fn judge_shape(readable: &[Segment], writable: &[Segment], size: u16) -> Option<PushError> {
    let bytes = readable.iter().chain(writable).map(|part| u64::from(part.len())).sum::<u64>();
    let count = readable.len() + writable.len();
    if bytes > 1 << 32 {
        Some(PushError::TooManyBytes(bytes))
    } else if count == 0 {
        Some(PushError::Empty)
    } else if count > usize::from(size) {
        Some(PushError::TooManySegments { count, size })
    } else {
        None
    }
}
