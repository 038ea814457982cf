//! Block requests: what `BlockQueue` lays out is what the device reads, and what the device answers
//! is what its caller gets.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::fd::AsFd;

use shm::{DmaSpace, EventFd, Region};
use vioblk_tests::clause;
use vring::request::{Completion, ID_BYTES, Limits, Request, UNMAP, kind};
use vring::{BlockQueue, Ring, RingOptions, STATUS_PENDING, SplitLayout, SplitQueue, Wires};

use crate::device::{Chain, Device, Part, Random, parts_of};

const BASE: u64 = 5 << 32;
const MEMORY_BYTES: usize = 4 << 20;
const SECTOR: usize = 512;
const CAPACITY_SECTORS: u64 = 1 << 40;
const HEADER_BYTES: u32 = 16;
const RANGE_BYTES: u32 = 16;
const STATUS_OK: u8 = 0;
const STATUSES: u8 = 3;

/// Data of one request; none shares it with another in flight.
const PLACE_BYTES: usize = 7168;
const PLACES: usize = 288;
/// Requests that are submitted at once.
const BATCH_MAX: usize = 24;
const REQUESTS: u64 = 1000;

const KINDS: [u32; 6] =
    [kind::IN, kind::OUT, kind::FLUSH, kind::GET_ID, kind::DISCARD, kind::WRITE_ZEROES];

/// A request in flight, the place of its data, and the chain of it that the device holds.
struct InFlight {
    request: Request,
    place: usize,
    chain: Option<Chain>,
}

struct Shape {
    size: usize,
    tables: usize,
    size_max: u32,
    seg_max: u32,
}

impl Shape {
    fn limits(&self) -> Limits {
        Limits {
            capacity_sectors: CAPACITY_SECTORS,
            kinds: KINDS.iter().fold(0, |kinds, kind| kinds | 1 << kind),
            size_max: self.size_max,
            seg_max: self.seg_max,
            ..Limits::default()
        }
    }

    /// Bytes of data in the longest request here.
    fn data_max(&self) -> usize {
        let segments = (self.seg_max as usize).min(self.size - 2);
        if self.size_max == 0 {
            PLACE_BYTES
        } else {
            (self.size_max as usize * segments).min(PLACE_BYTES)
        }
    }

    /// Lengths of the data's descriptors.
    fn pieces(&self, length: u32) -> Vec<u32> {
        let piece = if self.size_max == 0 { length } else { self.size_max };
        let mut pieces = vec![piece; (length / piece) as usize];
        pieces.extend((!length.is_multiple_of(piece)).then_some(length % piece));
        pieces
    }
}

struct Run {
    shape: Shape,
    queue: BlockQueue<SplitQueue>,
    device: Device,
    data: Region,
    event_idx: bool,
    in_order: bool,
    random: Random,
    /// Places that no request in flight uses.
    places: Vec<usize>,
    /// Descriptors of the ring that are free.
    free: usize,
    available: VecDeque<InFlight>,
    held: Vec<InFlight>,
    used: VecDeque<(InFlight, Completion)>,
    /// So many of them, the last ones, are still in the ring; the queue keeps the others ready.
    in_ring: usize,
    submitted_count: u64,
    /// Whether the next submission must notify the device, and the next completion the driver.
    kick_is_due: bool,
    interrupt_is_due: bool,
}

impl Run {
    fn new(shape: Shape, event_idx: bool, in_order: bool) -> Self {
        let space = DmaSpace::new();
        space.map(MEMORY_BYTES, BASE).unwrap();
        let layout = SplitLayout::new(shape.size, None, shape.tables).unwrap();
        let region = space.alloc(layout.length, 4096).unwrap();
        let slots = space.alloc(vring::slots_length(shape.size), 4096).unwrap();
        let data = space.alloc(PLACES * PLACE_BYTES, 4096).unwrap();
        let options = RingOptions { event_idx, in_order, ..RingOptions::default() };
        let ring = SplitQueue::new(region.claim().unwrap(), layout, options).unwrap();
        let device = Device::new(&space, region.device_address(), &layout, event_idx);
        let (slots, limits) = (slots.claim().unwrap(), shape.limits());
        // One that nobody signals: what counts is that there is one to ask for.
        let interrupt = EventFd::new().unwrap().as_fd().try_clone_to_owned().unwrap();
        let wires = Wires { interrupt: Some(interrupt), ..Wires::default() };
        let queue = BlockQueue::new(ring, space, slots, limits, false, wires).unwrap();
        Self {
            random: Random::new((shape.size * 64 + shape.tables) as u64),
            queue,
            device,
            data,
            event_idx,
            in_order,
            places: (0..PLACES).collect(),
            free: shape.size,
            shape,
            available: VecDeque::new(),
            held: Vec::new(),
            used: VecDeque::new(),
            in_ring: 0,
            submitted_count: 0,
            kick_is_due: true,
            interrupt_is_due: false,
        }
    }

    /// Any request that the limits allow.
    fn request(&mut self, token: u64, place: usize) -> Request {
        let kind = KINDS[self.random.below(KINDS.len())];
        let sectors = 1 + self.random.below(self.shape.data_max() / SECTOR);
        let mut request = Request { kind, token, ..Request::default() };
        request.length = match kind {
            kind::FLUSH => 0,
            kind::GET_ID => ID_BYTES,
            _ => (sectors * SECTOR) as u32,
        };
        if !matches!(kind, kind::FLUSH | kind::GET_ID) {
            request.sector = self.random.below(CAPACITY_SECTORS as usize - sectors) as u64;
        }
        if kind == kind::WRITE_ZEROES && self.random.once_in(2) {
            request.flags = UNMAP;
        }
        if request.has_data() {
            request.region = self.data.handle();
            request.offset = (place * PLACE_BYTES) as u64;
        }
        request
    }

    /// Submit a few; those fit that the free descriptors are enough for.
    fn submit(&mut self) {
        let count = self.random.up_to(BATCH_MAX.min(self.places.len()));
        let places = self.places.split_off(self.places.len() - count);
        let mut batch = Vec::new();
        for (token, place) in (self.submitted_count..).zip(places) {
            let request = self.request(token, place);
            if request.kind == kind::OUT {
                let bytes = pattern(token, request.length);
                self.data.span().write_bytes(place * PLACE_BYTES, &bytes).unwrap();
            }
            batch.push(InFlight { request, place, chain: None });
        }
        let requests: Vec<Request> = batch.iter().map(|one| one.request).collect();
        let accepted = self.queue.submit_many(requests.clone()).unwrap();
        self.places.extend(batch.drain(accepted..).map(|refused| refused.place));
        for one in batch {
            let needed = self.descriptors_of(&one.request);
            self.free = self.free.checked_sub(needed).expect("it did not fit");
            self.available.push_back(one);
        }
        if let Some(refused) = requests.get(accepted) {
            assert!(self.descriptors_of(refused) > self.free, "it would fit");
        }
        self.submitted_count += accepted as u64;
        assert_eq!(self.queue.take_kick(), self.kick_is_due && accepted > 0);
        if self.event_idx && accepted > 0 {
            self.kick_is_due = false;
        }
    }

    fn descriptors_of(&self, request: &Request) -> usize {
        let segments = self.expected_parts(request).len();
        if segments <= self.shape.tables { 1 } else { segments }
    }

    /// Lengths of the chain's descriptors, and which of them the device may write
    /// (VIRTIO 1.4, 5.2.6 Device Operation).
    fn expected_parts(&self, request: &Request) -> Vec<(u32, bool)> {
        let mut parts = vec![(HEADER_BYTES, false)];
        match request.kind {
            kind::FLUSH => {}
            kind::DISCARD | kind::WRITE_ZEROES => parts.push((RANGE_BYTES, false)),
            other => {
                let pieces = self.shape.pieces(request.length);
                parts.extend(pieces.into_iter().map(|piece| (piece, other != kind::OUT)));
            }
        }
        parts.push((1, true));
        parts
    }

    /// The device takes requests, and finds in them what was asked.
    fn take(&mut self, count: usize) {
        for _ in 0..count {
            let Some(mut one) = self.available.pop_front() else {
                assert!(self.device.take().is_none());
                return;
            };
            let chain = self.device.take().expect("a request was submitted");
            self.check(&one.request, &chain);
            one.chain = Some(chain);
            self.held.push(one);
        }
    }

    fn check(&self, request: &Request, chain: &Chain) {
        let parts = parts_of(chain.clone());
        let shape: Vec<_> = parts.iter().map(|part| (part.length, part.writable)).collect();
        assert_eq!(shape, self.expected_parts(request));
        if request.has_data() {
            let mut address = self.data.device_address() + request.offset;
            for Part { address: found, length, .. } in &parts[1..parts.len() - 1] {
                assert_eq!(*found, address);
                address += u64::from(*length);
            }
        }
        let mut reader = chain.clone().reader(&self.device.memory).unwrap();
        let mut readable = vec![0; reader.available_bytes()];
        reader.read_exact(&mut readable).unwrap();
        assert_eq!(readable, readable_of(request));
    }

    /// The device answers some that it holds, any of them (with IN_ORDER the oldest), each in one of the ways that there are.
    fn complete(&mut self, count: usize) {
        let count = count.min(self.held.len());
        for _ in 0..count {
            let index = if self.in_order { 0 } else { self.random.below(self.held.len()) };
            let one = self.held.remove(index);
            let status = self.random.below(STATUSES.into()) as u8;
            let data_bytes = if one.request.kind == kind::OUT || !one.request.has_data() {
                0
            } else {
                one.request.length
            };
            let chain = one.chain.clone().expect("it was taken");
            let head = chain.head_index();
            let mut writer = chain.writer(&self.device.memory).unwrap();
            assert_eq!(writer.available_bytes(), data_bytes as usize + 1);
            writer.write_all(&pattern(!one.request.token, data_bytes)).unwrap();
            writer.write_all(&[status]).unwrap();
            // Now and then it says that it did not get as far as the status byte.
            let short = self.random.once_in(8);
            let length =
                if short { self.random.up_to(data_bytes as usize) as u32 } else { data_bytes + 1 };
            self.device.complete(head, length);
            let not_reported = short && status == STATUS_OK;
            let completion = Completion {
                token: one.request.token,
                written: length.min(data_bytes),
                status: if not_reported { STATUS_PENDING } else { status },
            };
            self.used.push_back((one, completion));
            self.in_ring += 1;
        }
        let interrupt = self.device.needs_notification();
        if self.event_idx {
            assert_eq!(interrupt, self.interrupt_is_due && count > 0);
        }
        if count > 0 {
            self.interrupt_is_due = false;
        }
    }

    /// The caller takes completions: its own tokens, in the order in which the device answered.
    fn reap(&mut self, limit: usize) {
        let ready = self.used.len() - self.in_ring;
        if ready < limit {
            // The queue looks at the ring, and then takes all of it.
            let taken = self.used.iter().skip(ready);
            self.free += taken.map(|(one, _)| self.descriptors_of(&one.request)).sum::<usize>();
            self.in_ring = 0;
        }
        let mut reaped = Vec::new();
        let count = self.queue.reap_many(limit, |completion| reaped.push(completion)).unwrap();
        assert_eq!(count, reaped.len());
        assert_eq!(count, limit.min(self.used.len()));
        for found in reaped {
            let (one, expected) = self.used.pop_front().expect("counted");
            assert_eq!(found, expected);
            if matches!(one.request.kind, kind::IN | kind::GET_ID) {
                let mut bytes = vec![0; one.request.length as usize];
                self.data.span().read_bytes(one.place * PLACE_BYTES, &mut bytes).unwrap();
                assert_eq!(bytes, pattern(!found.token, one.request.length));
            }
            self.places.push(one.place);
        }
        if count > 0 {
            // Who reaps has the interrupts switched off.
            self.interrupt_is_due = false;
            self.assert_no_interrupt(true);
        }
    }

    /// The driver waits elsewhere: it asks for an interrupt, or learns that it need not.
    fn arm(&mut self) {
        let waiting = self.queue.arm().unwrap();
        assert_eq!(waiting, !self.used.is_empty());
        self.interrupt_is_due = self.in_ring == 0;
        self.assert_no_interrupt(false);
    }

    fn assert_no_interrupt(&self, off: bool) {
        assert_eq!(self.device.available_flags(), u16::from(off && !self.event_idx));
    }

    fn step(&mut self) {
        self.submit();
        // One more than there are: the device must find no other.
        let count = self.random.up_to(self.available.len() + 1);
        self.take(count);
        if self.available.is_empty() && self.random.once_in(2) {
            assert!(!self.device.enable_notification());
            self.kick_is_due = true;
        } else if !self.event_idx && self.random.once_in(2) {
            self.device.disable_notification();
            self.kick_is_due = false;
        }
        if self.random.once_in(2) {
            self.arm();
        }
        let count = self.random.up_to(self.held.len());
        self.complete(count);
        let limit = self.random.up_to(BATCH_MAX + 8);
        self.reap(limit);
    }

    fn run(mut self) {
        while self.submitted_count < REQUESTS {
            self.step();
        }
        self.take(self.available.len() + 1);
        self.complete(self.held.len());
        self.reap(usize::MAX);
        assert_eq!((self.queue.in_flight(), self.data.in_flight()), (0, 0));
        assert_eq!((self.free, self.places.len()), (self.shape.size, PLACES));
        assert_eq!((self.queue.broken(), self.queue.clamped_count()), (None, 0));
    }
}

/// What the device must read: the header, then the data or the range of sectors.
fn readable_of(request: &Request) -> Vec<u8> {
    let ranged = matches!(request.kind, kind::DISCARD | kind::WRITE_ZEROES);
    let mut bytes = request.kind.to_le_bytes().to_vec();
    bytes.extend(0_u32.to_le_bytes());
    bytes.extend(if ranged { 0 } else { request.sector }.to_le_bytes());
    if ranged {
        bytes.extend(request.sector.to_le_bytes());
        bytes.extend((request.length / SECTOR as u32).to_le_bytes());
        bytes.extend(request.flags.to_le_bytes());
    } else if request.kind == kind::OUT {
        bytes.extend(pattern(request.token, request.length));
    }
    bytes
}

/// Bytes that tell whose they are.
fn pattern(name: u64, length: u32) -> Vec<u8> {
    let mut bytes = vec![0; length as usize];
    let mut word = name;
    for piece in bytes.chunks_mut(8) {
        word = word.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1);
        piece.copy_from_slice(&word.to_le_bytes()[..piece.len()]);
    }
    bytes
}

/// Queues without tables, with tables for every request and with tables too short for some, and
/// data in one piece and in several.
const SHAPES: [Shape; 6] = [
    Shape { size: 4, tables: 0, size_max: 512, seg_max: 4 },
    Shape { size: 4, tables: 4, size_max: 0, seg_max: 0 },
    Shape { size: 16, tables: 0, size_max: 1024, seg_max: 8 },
    Shape { size: 64, tables: 5, size_max: 1536, seg_max: 6 },
    Shape { size: 256, tables: 16, size_max: 512, seg_max: 14 },
    Shape { size: 1024, tables: 3, size_max: 0, seg_max: 0 },
];

#[test]
fn the_device_reads_each_request_as_asked_and_its_answers_come_back_with_event_idx() {
    clause!("BLK-FLUSH-01", "BLK-FLUSH-02", "BLK-REQ-02", "SPLIT-USED-01");
    for shape in SHAPES {
        Run::new(shape, true, false).run();
    }
}

#[test]
fn the_device_reads_each_request_as_asked_and_its_answers_come_back_without_event_idx() {
    clause!("BLK-REQ-01", "BLK-REQ-03", "SPLIT-KICK-03", "SPLIT-KICK-04");
    for shape in SHAPES {
        Run::new(shape, false, false).run();
    }
}

#[test]
fn requests_and_answers_in_order_are_understood() {
    for shape in SHAPES {
        Run::new(shape, true, true).run();
    }
    for shape in SHAPES {
        Run::new(shape, false, true).run();
    }
}
