//! The software device against a driver that may write anything, anywhere, between any two chains.
//!
//! A program offers requests as a driver would, damages them, writes over rings, tables and
//! headers, asks for faults, and lets the device serve. The judge reads the same memory beforehand:
//! it says which chains the device may take, which bytes those let it write, what it has to tell
//! the driver, and where it must stop. After each pass not a byte may have changed beyond that.

#![allow(clippy::single_range_in_vec_init)] // lists of ranges, often of one

mod packed;
mod request;
mod split;

use std::fmt::Debug;
use std::ops::Range;

use shm::{DmaSpace, EventFd, Span};
use softdev::{Counters, Device, DeviceOptions, Fault, QueueSetup, feature, status};

use super::bytes::{Bytes, Watch};
use super::input::Input;
pub(super) use packed::Packed;
use request::Part;
pub(super) use split::Split;

/// Where the device sees memory: two mappings side by side, across whose border nothing may reach.
const BASE: u64 = 1 << 32;
const FIRST_BYTES: usize = 0x7000;
const SECOND_BYTES: usize = 0x1000;

/// Where things lie in it.
const DESCRIPTORS: usize = 0;
const DRIVER_AREA: usize = 0x800;
const DEVICE_AREA: usize = 0xA00;
const TABLES: usize = 0x1000;
const HEADERS: usize = 0x1800;
const STATUSES: usize = 0x1C00;
const DATA: usize = 0x2000;

/// Descriptors of a ring at most.
const SIZE_MAX: u16 = 64;
const CAPACITY_SECTORS: u64 = 8;

/// The first byte of a program says which of these are accepted beyond VERSION_1 and the format.
const CHOSEN: [u32; 8] = [
    feature::EVENT_IDX,
    feature::INDIRECT_DESC,
    feature::IN_ORDER,
    feature::FLUSH,
    feature::DISCARD,
    feature::WRITE_ZEROES,
    feature::SEG_MAX,
    feature::SIZE_MAX,
];
const SEG_MAX: u32 = 2;
const DATA_SIZE_MAX: u32 = 1024;

/// What the features that shape a ring come to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    size: u16,
    event_idx: bool,
    indirect: bool,
    in_order: bool,
}

/// A chain that the device may take, as the judge reads it.
#[derive(Clone, Debug, Default)]
pub(super) struct Taken {
    head: u16,
    /// Slots of a packed ring.
    slots: u64,
    /// Offsets in memory: what is read for it, tables and headers, and what may be written.
    reads: Vec<Range<usize>>,
    writes: Vec<Range<usize>>,
    readable: u64,
    writable: u64,
    descriptors: u16,
}

/// What stands behind the requests of a forecast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behind {
    Nothing,
    /// What is no chain.
    Breach,
    /// A chain that is no request.
    NoRequest,
}

/// How often a driver wants to be interrupted for what it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Never,
    /// Each time that it is shown something.
    Always,
    /// For one chain that is among them.
    Once,
}

/// The device must stop, and say that it needs a reset.
#[derive(Clone, Copy, Debug)]
pub(super) struct Breach;

/// A format: how the driver writes it, and what the judge expects of the device.
pub(super) trait Format: Clone + Debug {
    /// What is accepted on top of what was chosen.
    const FEATURES: u64;

    fn size(byte: u8) -> u16;

    /// A fresh ring.
    fn new(shape: Shape, memory: Memory) -> Self;

    /// Write a chain behind those before it, not yet visible; false if there is no room.
    fn offer(&mut self, parts: &[Part], indirect: bool) -> bool;

    /// Show the device what was offered.
    fn publish(&mut self);

    /// As the device, look how far the driver is, where that is a step of its own.
    fn poll(&mut self) -> Result<(), Breach>;

    /// As the device, take the next chain.
    fn take(&mut self) -> Result<Option<Taken>, Breach>;

    /// The device has given `chains` back and shown that. What it wrote is right; where that was,
    /// and what the driver wants to hear of it, unless it asks for what cannot be.
    fn check_used(&mut self, chains: &[Taken]) -> (Vec<Range<usize>>, Option<Wish>);

    /// The wish for kicks is right; where it stands.
    fn check_armed(&self) -> Vec<Range<usize>>;

    /// `chain` was taken by a device that lies, and may give it back at any time or never.
    fn forgive(&mut self, chain: &Taken);

    /// All that the device may write of the ring, if it is made to lie.
    fn device_words(&self) -> Vec<Range<usize>>;

    /// Write something to the ring that makes no sense, or nearly does.
    fn damage(&mut self, argument: u8, input: &mut Input<'_>);
}

/// The memory of the device, as plain bytes.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    first: Bytes,
    second: Bytes,
}

impl Memory {
    /// The offsets from `BASE` of `length` bytes at an address, if they are in one mapping.
    fn resolve(&self, address: u64, length: u64) -> Option<Range<usize>> {
        let start = address.checked_sub(BASE)?;
        let end = start.checked_add(length)?;
        let (border, limit) = (FIRST_BYTES as u64, (FIRST_BYTES + SECOND_BYTES) as u64);
        let inside = end <= border || start >= border && end <= limit;
        inside.then_some(start as usize..end as usize)
    }

    /// One of 16 bytes anywhere.
    fn sixteen(&self, offset: usize) -> [u8; 16] {
        let mut bytes = [0; 16];
        match offset.checked_sub(FIRST_BYTES) {
            Some(offset) => self.second.read_into(offset, &mut bytes),
            None => self.first.read_into(offset, &mut bytes),
        }
        bytes
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        match offset.checked_sub(FIRST_BYTES) {
            Some(offset) => self.second.write(offset, bytes),
            None => self.first.write(offset, bytes),
        }
    }
}

/// The low 16 bits from `at` on, and so on.
fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn double(bytes: &[u8], at: usize) -> u32 {
    u32::from(word(bytes, at)) | u32::from(word(bytes, at + 2)) << 16
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from(double(bytes, at)) | u64::from(double(bytes, at + 4)) << 32
}

impl Taken {
    /// Add what a descriptor describes, if a chain of a ring of this size may have it.
    fn append(
        &mut self,
        memory: &Memory,
        (address, length, device_writes): (u64, u32, bool),
        size: u16,
    ) -> Result<(), Breach> {
        self.descriptors += 1;
        let range = memory.resolve(address, length.into()).ok_or(Breach)?;
        if self.descriptors > size || length == 0 || !device_writes && !self.writes.is_empty() {
            return Err(Breach);
        }
        if device_writes {
            self.writable += u64::from(length);
            self.writes.push(range);
        } else {
            self.readable += u64::from(length);
            self.reads.push(range);
        }
        Ok(())
    }

    /// A request has a header and room for a status. No chain in so little memory is too long.
    fn is_request(&self) -> bool {
        self.writable > 0 && self.readable >= 16
    }
}

/// Whether a device that uses chains in order has shown all `count` of them: each of its elements
/// stands for all chains up to one, and where that of the first of them would be. `is_at(n, m)`:
/// one that stands for chain `m` is where that of chain `n` would be.
fn is_shown_in_order(count: usize, is_at: impl Fn(usize, usize) -> bool) -> bool {
    // The driver may have given many chains one number. So from the end: which chains can be the
    // first of a batch, with nothing but batches behind it.
    let mut begins = vec![false; count + 1];
    begins[count] = true;
    for first in (0..count).rev() {
        begins[first] = (first..count).any(|last| begins[last + 1] && is_at(first, last));
    }
    begins[0]
}

fn overlap(one: &Range<usize>, other: &Range<usize>) -> bool {
    one.start < other.end && other.start < one.end
}

/// What cannot fail here, as the harness made it so.
fn made<T, E: Debug>(result: Result<T, E>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("the harness made a mistake: {error:?}"),
    }
}

/// A device, its driver, and the judge between them.
struct Play<F: Format> {
    device: Device,
    memory: Memory,
    ring: F,
    shape: Shape,
    features: u64,
    watches: [Watch; 2],
    counters: Counters,
    /// Whether the device has been told to lie: then it may write any word of its own in the ring.
    lies: bool,
    /// Whether it has to have stopped.
    stopped: bool,
    /// Requests so far.
    requests: usize,
}

/// Carry out a program against a device that its first three bytes describe.
pub(super) fn run<F: Format>(data: &[u8]) {
    let mut input = Input::new(data);
    let mut play = Play::<F>::new(&mut input);
    while !input.is_over() {
        play.step(&mut input);
    }
    play.serve(usize::MAX);
    // Whatever was done to it, after a reset it works.
    play.restart();
    play.good_request();
}

impl<F: Format> Play<F> {
    fn new(input: &mut Input<'_>) -> Self {
        let (chosen, size, kind) = (input.byte(), input.byte(), input.byte());
        let accepted = |chosen: u8| {
            let bits = CHOSEN.iter().enumerate();
            bits.fold(0_u64, |all, (n, bit)| all | u64::from(chosen >> n & 1) << bit)
        };
        let size = F::size(size);
        let bit = |n: u8| kind >> n & 1 != 0;
        let features = accepted(chosen) | F::FEATURES | 1 << feature::VERSION_1;
        let space = DmaSpace::new();
        made(space.map(FIRST_BYTES, BASE));
        made(space.map(SECOND_BYTES, BASE + FIRST_BYTES as u64));
        let options = DeviceOptions {
            capacity_sectors: CAPACITY_SECTORS,
            features,
            queue_size_max: SIZE_MAX,
            serial: b"of the fuzz target".to_vec(),
            read_only: bit(0),
            volatile_cache: bit(1),
            size_max: DATA_SIZE_MAX,
            seg_max: SEG_MAX,
            max_discard_sectors: 4,
            max_write_zeroes_sectors: 4,
            threaded: false,
            ..DeviceOptions::default()
        };
        let device = made(Device::new(space.clone(), options));
        let part = |start: usize, length: usize| -> Span {
            made(space.translate(BASE + start as u64, length).ok_or("no mapping"))
        };
        let first = Bytes::new(part(0, FIRST_BYTES));
        let second = Bytes::new(part(FIRST_BYTES, SECOND_BYTES));
        let memory = Memory { first: first.clone(), second: second.clone() };
        let shape = Shape {
            size,
            event_idx: features >> feature::EVENT_IDX & 1 != 0,
            indirect: features >> feature::INDIRECT_DESC & 1 != 0,
            in_order: features >> feature::IN_ORDER & 1 != 0,
        };
        let ring = F::new(shape, memory.clone());
        let mut play = Self {
            device,
            ring,
            memory,
            shape,
            features,
            watches: [Watch::new(first), Watch::new(second)],
            counters: Counters::default(),
            lies: false,
            stopped: false,
            requests: 0,
        };
        play.restart();
        play
    }

    /// Reset the device, and bring it up with a fresh ring.
    fn restart(&mut self) {
        made(self.device.clear_faults());
        made(self.device.write_status(0));
        assert_eq!(made(self.device.read_status()), 0, "a reset");
        self.memory.first.fill(0..TABLES, 0);
        self.ring = F::new(self.shape, self.memory.clone());
        let driver = status::ACKNOWLEDGE | status::DRIVER;
        made(self.device.write_status(driver));
        made(self.device.write_features(self.features));
        made(self.device.write_status(driver | status::FEATURES_OK));
        let at = |offset: usize| BASE + offset as u64;
        let setup = QueueSetup {
            size: self.shape.size,
            descriptors: at(DESCRIPTORS),
            available: at(DRIVER_AREA),
            used: at(DEVICE_AREA),
        };
        made(self.device.enable_queue(0, setup));
        made(self.device.write_status(driver | status::FEATURES_OK | status::DRIVER_OK));
        (self.lies, self.stopped) = (false, false);
        self.counters = made(self.device.counters());
    }

    /// The low four bits of a step say what it is, the high ones are its argument.
    fn step(&mut self, input: &mut Input<'_>) {
        let byte = input.byte();
        let argument = byte >> 4;
        match byte & 15 {
            0..=3 => self.offer(argument, input),
            4 => self.ring.publish(),
            5 => {
                self.ring.publish();
                self.serve(usize::from(argument) + 1);
            }
            6 => self.serve(usize::MAX),
            7 | 8 => self.ring.damage(argument, input),
            9 => self.damage_table(argument, input),
            10 => self.damage_header(argument, input),
            11 => self.scribble(argument, input),
            12 => self.inject(argument, input),
            13 => self.kick(),
            14 if argument == 0 => self.restart(),
            14 => made(self.device.clear_faults()),
            _ => {
                self.offer(argument, input);
                self.ring.publish();
                self.serve(1);
            }
        }
    }

    fn offer(&mut self, kind: u8, input: &mut Input<'_>) {
        let parts = request::parts(&self.memory, self.requests, kind, input);
        let indirect = self.shape.indirect && input.byte() & 1 == 0;
        if self.ring.offer(&parts, indirect) {
            self.requests += 1;
        }
    }

    fn good_request(&mut self) {
        let header = [0; 16];
        self.memory.write(HEADERS, &header);
        self.memory.write(STATUSES, &[0xEE]);
        let parts = [(HEADERS, 16, false), (STATUSES, 1, true)].map(Part::from);
        if self.shape.size == 1 {
            return; // No chain is longer than the queue size.
        }
        assert!(self.ring.offer(&parts, self.shape.indirect), "room in a fresh ring");
        let before = self.counters.completions;
        self.ring.publish();
        self.serve(1);
        let status = self.memory.sixteen(STATUSES)[0];
        assert_eq!((self.counters.completions - before, status), (1, 0), "a read of nothing");
    }

    /// An address of anything, mostly of something.
    fn damage_table(&mut self, entry: u8, input: &mut Input<'_>) {
        let at = TABLES + 16 * (usize::from(entry) + 16 * usize::from(input.byte() % 8));
        self.memory.write(at, &some_descriptor(input));
    }

    fn damage_header(&mut self, argument: u8, input: &mut Input<'_>) {
        let number = self.requests.wrapping_sub(usize::from(argument)) % 64;
        self.memory.write(HEADERS + 16 * number, &request::header(input));
    }

    fn scribble(&mut self, count: u8, input: &mut Input<'_>) {
        let at = usize::from(input.word()) % (FIRST_BYTES + SECOND_BYTES - 16);
        for offset in at..=at + usize::from(count) {
            self.memory.write(offset, &[input.byte()]);
        }
    }

    fn inject(&mut self, argument: u8, input: &mut Input<'_>) {
        let fault = input.pick(Fault::ALL);
        let value = match input.byte() {
            255 => u64::MAX,
            byte => byte.into(),
        };
        let count = 1 + u64::from(argument & 3);
        // Of a queue that there is not: it is refused.
        let _ = self.device.inject(fault, count, (argument >> 2).into(), value);
        self.lies = true;
        self.stopped |= fault == Fault::NeedsReset;
    }

    fn kick(&mut self) {
        let fd = made(self.device.kick_fd(0));
        made(EventFd::from_fd(made(shm::duplicate_fd(fd))).signal());
    }

    /// Let the device serve at most `limit` chains. One at a time, unless what one of them lets it
    /// write may change what it reads for another.
    fn serve(&mut self, limit: usize) {
        let mut rest = limit.min(4 * usize::from(SIZE_MAX));
        while rest > 0 {
            let (chains, _) = self.forecast(&mut self.ring.clone(), rest.min(SIZE_MAX.into()));
            let alone = self.lies || is_entangled(&chains);
            let served = self.pass(if alone { 1 } else { chains.len().max(1) });
            if served == 0 {
                return;
            }
            rest -= served;
        }
    }

    /// The requests that the device will take, and what comes behind them.
    fn forecast(&self, ring: &mut F, limit: usize) -> (Vec<Taken>, Behind) {
        let mut chains = Vec::new();
        if self.stopped {
            return (chains, Behind::Nothing);
        }
        while chains.len() < limit {
            let seen = ring.poll();
            match ring.take() {
                // One that lies may be late to see what is wrong further on.
                _ if seen.is_err() && !self.lies => return (chains, Behind::Breach),
                Ok(Some(chain)) if chain.is_request() => chains.push(chain),
                Ok(Some(_)) => return (chains, Behind::NoRequest),
                Ok(None) => return (chains, Behind::Nothing),
                Err(Breach) => return (chains, Behind::Breach),
            }
        }
        (chains, Behind::Nothing)
    }

    /// One call of `serve`, for at most `limit` chains; how many were taken.
    fn pass(&mut self, limit: usize) -> usize {
        let mut ring = self.ring.clone();
        let (chains, behind) = self.forecast(&mut ring, limit);
        self.watches.iter_mut().for_each(Watch::begin);
        let served = made(self.device.serve(limit));
        assert!(served <= limit, "{served} chains were served, {limit} allowed");
        let before = std::mem::replace(&mut self.counters, made(self.device.counters()));
        let mut allowed: Vec<_> = chains.iter().flat_map(|chain| chain.writes.clone()).collect();
        let served = if self.lies {
            allowed.extend(self.ring.device_words());
            self.follow(&before, &chains, ring)
        } else {
            self.ring = ring;
            allowed.extend(self.check_pass(&before, &chains, behind));
            chains.len()
        };
        self.check_untouched(&allowed);
        served
    }

    /// A device that lies takes the chains that it should; when it gives them back is its own
    /// business. How many it took.
    fn follow(&mut self, before: &Counters, chains: &[Taken], ring: F) -> usize {
        self.stopped |= made(self.device.read_status()) & status::DEVICE_NEEDS_RESET != 0;
        if self.counters.chains == before.chains {
            return 0;
        }
        self.ring = ring;
        chains.iter().for_each(|chain| self.ring.forgive(chain));
        chains.len()
    }

    /// One that does not lie took and gave back these chains, and stopped if it had to; which words
    /// of the ring it may have written.
    fn check_pass(
        &mut self,
        before: &Counters,
        chains: &[Taken],
        behind: Behind,
    ) -> Vec<Range<usize>> {
        let count = chains.len() as u64;
        let taken = count + u64::from(behind == Behind::NoRequest);
        assert_eq!(self.counters.chains - before.chains, taken, "chains taken");
        assert_eq!(self.counters.completions - before.completions, count, "chains given back");
        self.stopped |= behind != Behind::Nothing;
        let needs_reset = made(self.device.read_status()) & status::DEVICE_NEEDS_RESET != 0;
        assert_eq!(needs_reset, self.stopped, "{:?}", self.device.violation());
        let (mut words, wanted) = self.ring.check_used(chains);
        let interrupts = self.counters.interrupts - before.interrupts;
        let suppressed = self.counters.interrupts_suppressed - before.interrupts_suppressed;
        let shows = interrupts + suppressed;
        assert!(shows <= count && (shows > 0 || count == 0), "{count} shown in {shows} steps");
        let expected = match wanted {
            Some(Wish::Never) => 0,
            Some(Wish::Always) => shows,
            Some(Wish::Once) => 1,
            None => interrupts,
        };
        assert_eq!(interrupts, expected, "interrupts in {shows} steps");
        if !self.stopped {
            words.extend(self.ring.check_armed());
        }
        words
    }

    /// Nothing was written but here.
    fn check_untouched(&mut self, allowed: &[Range<usize>]) {
        let [first, second] = &mut self.watches;
        let parts = |from: usize, to: usize| -> Vec<Range<usize>> {
            let inside = allowed.iter().filter(|range| range.start < to && range.end > from);
            inside.map(|range| range.start - from..range.end - from).collect()
        };
        first.check(&parts(0, FIRST_BYTES), "the device");
        let end = FIRST_BYTES + SECOND_BYTES;
        second.check(&parts(FIRST_BYTES, end), "the device, in the second mapping,");
    }
}

/// Whether what is written for one chain may be read for another.
fn is_entangled(chains: &[Taken]) -> bool {
    let ring = 0..TABLES;
    let writes = || chains.iter().flat_map(|chain| &chain.writes);
    let mut reads = chains.iter().flat_map(|chain| &chain.reads).chain([&ring]);
    reads.any(|read| writes().any(|write| overlap(read, write)))
}

/// 16 bytes that could be a descriptor of either format, mostly: flags stand in the split ring's
/// place with one bit of `input`, in the packed ring's with the other.
fn some_descriptor(input: &mut Input<'_>) -> [u8; 16] {
    let mut bytes = [0; 16];
    let address = some_address(input);
    let length = some_length(input);
    let kind = input.byte();
    let (low, high) = (u16::from(kind & 7), u16::from(input.byte()));
    // Either the flags come first and then the next one, or an id and then the flags.
    let tail = if kind & 8 == 0 { [low, high] } else { [high, low] };
    bytes[..8].copy_from_slice(&address.to_le_bytes());
    bytes[8..12].copy_from_slice(&length.to_le_bytes());
    bytes[12..14].copy_from_slice(&tail[0].to_le_bytes());
    bytes[14..].copy_from_slice(&tail[1].to_le_bytes());
    bytes
}

fn some_address(input: &mut Input<'_>) -> u64 {
    let place = input.byte();
    let nearby = u64::from(place & 15);
    let places = [DESCRIPTORS, DRIVER_AREA, DEVICE_AREA, TABLES, HEADERS, STATUSES, DATA];
    let at = |offset: usize| BASE + offset as u64;
    match place >> 4 {
        n @ 0..=6 => at(places[usize::from(n)]) + 16 * nearby,
        7 => at(TABLES) + nearby,
        8 => at(FIRST_BYTES) - nearby,
        9 => at(FIRST_BYTES + SECOND_BYTES) - nearby,
        10 => BASE - nearby,
        11 => u64::MAX - nearby,
        12 => nearby,
        _ => at(input.word().into()),
    }
}

fn some_length(input: &mut Input<'_>) -> u32 {
    match input.byte() {
        byte @ 0..=63 => byte.into(),
        byte @ 64..=127 => 16 * u32::from(byte & 63),
        byte @ 128..=191 => 512 * u32::from(byte & 63),
        192..=223 => input.word().into(),
        224..=254 => input.double(),
        255 => u32::MAX,
    }
}
