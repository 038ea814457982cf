//! Block requests as records of any content: what reaches the device is what was asked for, and
//! only what may be asked; each request comes back once, with its own outcome.
//!
//! The device is an honest one: it takes every chain at once, holds it against the record, and
//! answers when the program says so, with any status and any used length.

use std::collections::VecDeque;
use std::fmt::Debug;

use shm::{DmaSpace, Region, Span};
use softdev::AddressMap;
use softdev::ring::packed::PackedRing;
use softdev::ring::{Chain, DeviceRing, RingAddresses, RingFeatures};
use vring::request::{Completion, ID_BYTES, Limits, Request, SECTOR_BYTES, UNMAP, kind};
use vring::{
    BlockQueue, Execution, PackedLayout, PackedQueue, QueueError, Ring, RingOptions,
    STATUS_PENDING, SplitLayout, SplitQueue, Wires,
};

use super::bytes::{Bytes, Watch};
use super::input::Input;

const BASE: u64 = 1 << 32;
const VAST_BASE: u64 = 1 << 40;
const VAST_BYTES: usize = 1 << 32;
const MAPPED_BYTES: usize = 1 << 17;
const PAYLOAD_BYTES: usize = 1 << 14;
/// More than the payload has, so that most records that could be right are.
const CAPACITIES: [u64; 4] = [64, 1, 1 << 23, u64::MAX];

/// What cannot fail here, as the harness made it so.
fn made<T, E: Debug>(result: Result<T, E>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("the harness made a mistake: {error:?}"),
    }
}

/// The device's half of a ring.
trait Half: Sized {
    fn new(addresses: &RingAddresses, features: RingFeatures, map: &mut AddressMap) -> Self;
    fn take(&mut self, map: &mut AddressMap, chain: &mut Chain) -> bool;
    fn answer(&mut self, chain: &Chain, written: u32);
}

macro_rules! half {
    ($ring:ty) => {
        impl Half for $ring {
            fn new(at: &RingAddresses, features: RingFeatures, map: &mut AddressMap) -> Self {
                made(<$ring>::new(at, features, map))
            }

            fn take(&mut self, map: &mut AddressMap, chain: &mut Chain) -> bool {
                made(self.poll());
                made(<$ring>::take(self, map, chain))
            }

            fn answer(&mut self, chain: &Chain, written: u32) {
                self.give_back(chain, written);
                self.publish();
            }
        }
    };
}

half!(DeviceRing);
half!(PackedRing);

/// Whose request it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Token(u64),
    Batch { number: u64, index: usize },
}

/// A request that the device holds.
struct Held {
    request: Request,
    owner: Owner,
    chain: Chain,
}

/// A batch that was begun.
struct Begun {
    number: u64,
    execution: Execution,
    statuses: Vec<Option<u8>>,
}

struct Play<R: Ring, H: Half> {
    queue: BlockQueue<R>,
    half: H,
    addresses: RingAddresses,
    features: RingFeatures,
    legacy: bool,
    map: AddressMap,
    /// By handle: of which the first's bytes are looked at.
    regions: Vec<Region>,
    payload: Bytes,
    watch: Watch,
    limits: Limits,
    /// Accepted, and not seen by the device.
    sent: VecDeque<(Request, Owner)>,
    held: Vec<Held>,
    /// Given back, and not reaped.
    answered: VecDeque<(Owner, Completion)>,
    finished: VecDeque<Completion>,
    begun: Vec<Begun>,
    next_token: u64,
}

/// Carry out a program against a queue that its first bytes describe.
pub(super) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let flags = input.byte();
    let bit = |n: u8| flags >> n & 1 != 0;
    let size = input.byte();
    let space = DmaSpace::new();
    made(space.map(MAPPED_BYTES, BASE));
    made(space.map(VAST_BYTES, VAST_BASE));
    let options = RingOptions { event_idx: bit(0), in_order: bit(2), ..RingOptions::default() };
    if bit(3) {
        let size = 3 + usize::from(size % 30);
        let layout = made(PackedLayout::new(size, if bit(1) { size.min(8) } else { 0 }));
        let region = made(space.alloc(layout.length, 4096));
        let ring = made(PackedQueue::new(made(region.claim()), layout, options));
        let at = [layout.descriptors, layout.driver_event, layout.device_event];
        play::<_, PackedRing>(&mut input, &space, ring, &region, at, options, bit(4));
    } else {
        let size = 4_usize << (size % 4);
        let layout = made(SplitLayout::new(size, None, if bit(1) { size.min(8) } else { 0 }));
        let region = made(space.alloc(layout.length, 4096));
        let ring = made(SplitQueue::new(made(region.claim()), layout, options));
        let at = [layout.descriptors, layout.available, layout.used];
        play::<_, DeviceRing>(&mut input, &space, ring, &region, at, options, bit(4));
    }
}

fn play<R: Ring, H: Half>(
    input: &mut Input<'_>,
    space: &DmaSpace,
    ring: R,
    region: &Region,
    at: [usize; 3],
    options: RingOptions,
    legacy: bool,
) {
    let [descriptors, available, used] = at.map(|at| region.device_address() + at as u64);
    let addresses = RingAddresses { size: ring.size(), descriptors, available, used };
    let features = RingFeatures {
        event_idx: options.event_idx,
        in_order: options.in_order,
        indirect: ring.indirect_table_size() > 0,
        ..RingFeatures::default()
    };
    let mut map = AddressMap::new(space.clone());
    let half = H::new(&addresses, features, &mut map);
    let slots = made(space.alloc(vring::slots_length(ring.size().into()), 4096));
    let lengths = [PAYLOAD_BYTES, SECTOR_BYTES as usize, VAST_BYTES];
    let regions: Vec<Region> =
        lengths.iter().map(|&length| made(space.alloc(length, 64))).collect();
    let payload = Bytes::new(Span::clone(regions[0].span()));
    (0..PAYLOAD_BYTES / 2).for_each(|n| payload.set_word(2 * n, n as u16));
    let limits = some_limits(input);
    let (space, slots) = (space.clone(), made(slots.claim()));
    let queue = BlockQueue::new(ring, space, slots, limits, legacy, Wires::default());
    let mut play = Play {
        queue: made(queue),
        half,
        addresses,
        features,
        legacy,
        map,
        regions,
        watch: Watch::new(payload.clone()),
        payload,
        limits,
        sent: VecDeque::new(),
        held: Vec::new(),
        answered: VecDeque::new(),
        finished: VecDeque::new(),
        begun: Vec::new(),
        next_token: 0,
    };
    while !input.is_over() {
        play.step(input);
    }
    play.finish();
}

fn some_limits(input: &mut Input<'_>) -> Limits {
    let kinds = input.byte();
    let all = [kind::IN, kind::OUT, kind::FLUSH, kind::GET_ID, kind::DISCARD, kind::WRITE_ZEROES];
    let chosen = all.iter().enumerate().filter(|(n, _)| kinds >> n & 1 != 0);
    Limits {
        capacity_sectors: input.pick(&CAPACITIES),
        // Bit 6: a type that there is not.
        kinds: chosen.fold(u64::from(kinds >> 6 & 1) << 2, |all, (_, kind)| all | 1 << kind),
        read_only: kinds >> 7 != 0,
        size_max: input.pick(&[0, 0, 512, 1000, 1, u32::MAX]),
        seg_max: input.pick(&[0, 1, 2, 126, u32::MAX]),
        max_discard_sectors: input.pick(&[0, 8, u32::MAX]),
        max_write_zeroes_sectors: input.pick(&[0, 8, u32::MAX]),
    }
}

impl<R: Ring, H: Half> Play<R, H> {
    /// The low four bits of a step say what it is, the high ones are its argument.
    fn step(&mut self, input: &mut Input<'_>) {
        let byte = input.byte();
        let argument = byte >> 4;
        match byte & 15 {
            0..=4 => self.submit(argument, input),
            5 | 6 => self.begin(argument, input),
            7..=9 => self.answer(argument, input),
            10 => self.reap(argument.into()),
            11 => self.reap(usize::MAX),
            12 => self.advance(argument),
            13 => self.end(argument),
            // Batches that wait would be checked anew.
            14 if argument > 0 && self.sent.is_empty() => {
                self.limits = some_limits(input);
                self.queue.set_limits(self.limits);
            }
            14 => drop(self.queue.arm()),
            _ if argument == 0 => self.reclaim(),
            _ => drop(self.queue.take_kick()),
        }
        self.look();
    }

    fn records(&mut self, argument: u8, input: &mut Input<'_>) -> Vec<Request> {
        (0..=argument % 4).map(|_| self.record(input)).collect()
    }

    /// A record of which most fields are right, or 32 bytes of anything.
    fn record(&mut self, input: &mut Input<'_>) -> Request {
        self.next_token += 1;
        let token = self.next_token;
        let kinds = [kind::IN, kind::OUT, kind::FLUSH, kind::GET_ID, kind::DISCARD];
        let byte = input.byte();
        let kind = match byte & 7 {
            n @ 0..=4 => kinds[usize::from(n)],
            5 => kind::WRITE_ZEROES,
            6 => input.byte().into(),
            _ => {
                let mut raw = [0; Request::BYTES];
                raw[..32].iter_mut().for_each(|at| *at = input.byte());
                return Request { token, ..Request::decode(&raw) };
            }
        };
        let has_data = matches!(kind, kind::IN | kind::OUT | kind::GET_ID);
        let lengths = [0, 1, 2, 4, 8, 20, 1 << 22, (1 << 23) - 1];
        let mut request = Request { kind, token, ..Request::default() };
        if kind != kind::FLUSH {
            request.length = lengths[usize::from(byte >> 3 & 7)] * SECTOR_BYTES as u32;
            request.sector = u64::from(input.byte() % 70);
        }
        if kind == kind::GET_ID {
            (request.length, request.sector) = (ID_BYTES, 0);
        }
        if has_data {
            let place = input.byte();
            request.region = self.regions[usize::from(place & 3) % 3].handle();
            request.offset = u64::from(place >> 2) * 256;
        }
        // Seldom, something in the wrong place.
        if byte >> 6 == 3 {
            match input.byte() {
                0..=31 => request.flags = UNMAP,
                32..=63 => request.flags = input.double(),
                64..=95 => request.length = input.double(),
                96..=127 => request.sector = u64::MAX - u64::from(input.byte()),
                128..=159 => request.offset = u64::MAX - u64::from(input.byte()),
                160..=191 => request.region = input.double(),
                192..=223 => request.offset = VAST_BYTES as u64 - u64::from(input.byte()),
                _ => {}
            }
        }
        request
    }

    /// Whether a request may reach the device, by the specification and the limits.
    fn may_be_sent(&self, request: &Request) -> bool {
        let Limits { capacity_sectors, kinds, read_only, size_max, seg_max, .. } = self.limits;
        let Request { kind, flags, sector, offset, length, region, .. } = *request;
        let bytes = u64::from(length);
        let pieces = u64::from(seg_max.max(1)).min(u64::from(self.addresses.size) - 2);
        let data_limit = if size_max == 0 { u64::MAX } else { u64::from(size_max) * pieces };
        let end = u128::from(sector) + u128::from(bytes / SECTOR_BYTES);
        let whole = bytes > 0 && bytes.is_multiple_of(SECTOR_BYTES);
        let in_range = whole && end <= u128::from(capacity_sectors);
        let at = self.regions.iter().find(|other| other.handle() == region);
        let end = u128::from(offset) + u128::from(length);
        let in_region = at.is_some_and(|at| end <= at.len() as u128);
        let limit = |sectors: u32| if sectors == 0 { u64::MAX } else { u64::from(sectors) };
        let range_only = (region, offset) == (0, 0) && in_range && !read_only;
        let fits = match kind {
            kind::IN | kind::OUT => {
                let allowed = kind == kind::IN || !read_only;
                allowed && in_range && in_region && bytes <= data_limit && flags == 0
            }
            kind::FLUSH => (flags, sector, offset, length, region) == (0, 0, 0, 0, 0),
            kind::GET_ID => {
                let right = (flags, sector, length) == (0, 0, ID_BYTES);
                right && in_region && bytes <= data_limit
            }
            kind::DISCARD => {
                let limit = limit(self.limits.max_discard_sectors);
                range_only && flags == 0 && bytes / SECTOR_BYTES <= limit
            }
            kind::WRITE_ZEROES => {
                let limit = limit(self.limits.max_write_zeroes_sectors);
                range_only && flags & !UNMAP == 0 && bytes / SECTOR_BYTES <= limit
            }
            _ => false,
        };
        fits && kinds >> kind & 1 == 1
    }

    /// The first record that may not be sent, if any: then none of them is.
    fn check_refusal<T>(&self, records: &[Request], result: &Result<T, QueueError>) -> bool {
        let bad = records.iter().position(|record| !self.may_be_sent(record));
        match (bad, result) {
            (None, Ok(_)) => false,
            (Some(bad), Err(QueueError::Request { index, .. })) if bad == *index => true,
            (bad, result) => panic!("{bad:?} is wrong of {records:?}: {:?}", result.as_ref().err()),
        }
    }

    fn submit(&mut self, argument: u8, input: &mut Input<'_>) {
        let records = self.records(argument, input);
        let waiting = !self.sent.is_empty();
        let result = self.queue.submit_many(records.clone());
        if self.check_refusal(&records, &result) {
            return;
        }
        let count = made(result);
        assert!(count <= records.len() && (count == 0 || !waiting), "{count} overtook others");
        let owned = records.iter().map(|&record| (record, Owner::Token(record.token)));
        self.sent.extend(owned.take(count));
        self.look();
        assert!(waiting || self.sent.is_empty(), "what was accepted has reached the device");
    }

    fn begin(&mut self, argument: u8, input: &mut Input<'_>) {
        let records = self.records(argument, input);
        let result = self.queue.begin(records.clone());
        if self.check_refusal(&records, &result) {
            return;
        }
        self.next_token += 1;
        let (number, execution) = (self.next_token, made(result));
        let owned = records.iter().enumerate();
        self.sent.extend(owned.map(|(index, &record)| (record, Owner::Batch { number, index })));
        self.begun.push(Begun { number, execution, statuses: vec![None; records.len()] });
    }

    /// As the device, take all that is there, which is what was sent, in order.
    fn look(&mut self) {
        loop {
            let mut chain = Chain::default();
            if !self.half.take(&mut self.map, &mut chain) {
                break;
            }
            let Some((request, owner)) = self.sent.pop_front() else {
                panic!("nobody sent {chain:?}");
            };
            self.check_chain(&request, &chain);
            self.held.push(Held { request, owner, chain });
        }
        let in_flight = self.held.len() + self.answered.len() + self.finished.len();
        assert_eq!(self.queue.in_flight(), in_flight, "requests in flight");
        assert_eq!(self.queue.broken(), None);
    }

    fn check_chain(&self, request: &Request, chain: &Chain) {
        let Request { kind, flags, sector, offset, length, region, .. } = *request;
        let mut readable = vec![0; chain.readable_bytes.min(PAYLOAD_BYTES as u64) as usize + 1];
        let mut done = 0;
        for segment in &chain.readable {
            let count = segment.length.min(readable.len() - done);
            made(self.map.read(segment, 0, &mut readable[done..done + count]));
            done += count;
        }
        let ranges = matches!(kind, kind::DISCARD | kind::WRITE_ZEROES);
        let mut expected = [kind.to_le_bytes(), [0; 4]].concat();
        expected.extend(if ranges { 0 } else { sector }.to_le_bytes());
        let (mut to_write, mut data) = (0, u64::from(length));
        if ranges {
            expected.extend(sector.to_le_bytes());
            expected.extend((length / SECTOR_BYTES as u32).to_le_bytes());
            expected.extend(flags.to_le_bytes());
            data = 0;
        } else if kind == kind::OUT {
            if region == self.regions[0].handle() {
                let start = offset as usize;
                expected.extend(self.payload.copy(start..start + length as usize));
            }
        } else {
            (to_write, data) = (data, 0);
        }
        assert_eq!(readable[..expected.len()], expected, "what {request:?} came to");
        let framing = if ranges { 32 } else { 16 };
        assert_eq!((chain.readable_bytes, chain.writable_bytes), (framing + data, to_write + 1));
        let pieces = if kind == kind::OUT { &chain.readable[1..] } else { &chain.writable[..] };
        let longest = pieces.iter().map(|piece| piece.length as u64).max().unwrap_or(0);
        let Limits { size_max, .. } = self.limits;
        assert!(ranges || size_max == 0 || longest <= size_max.into(), "{longest} in one segment");
    }

    /// As the device, finish a request, in order the oldest one.
    fn answer(&mut self, argument: u8, input: &mut Input<'_>) {
        if self.held.is_empty() {
            return;
        }
        let oldest = self.features.in_order;
        let index = if oldest { 0 } else { usize::from(argument) % self.held.len() };
        let Held { request, owner, chain } = self.held.remove(index);
        let said = input.byte();
        let status = if said < 0xF0 { said % 3 } else { said };
        let writable = chain.writable_bytes.min(u32::MAX.into()) as u32;
        let length = match input.byte() {
            0..=127 => writable,
            128..=159 => 0,
            160..=191 => writable - 1,
            192..=223 => writable.saturating_add(1),
            _ => input.double(),
        };
        self.watch.begin();
        let mut touched = Vec::new();
        let in_payload = request.region == self.regions[0].handle() && request.has_data();
        if in_payload && request.kind != kind::OUT {
            for segment in &chain.writable {
                made(self.map.write(segment, 0, &vec![said; segment.length]));
            }
            let start = request.offset as usize;
            touched.push(start..start + request.length as usize);
            let read = self.payload.copy(touched[0].clone());
            assert!(read.iter().all(|&byte| byte == said), "where {request:?} was answered");
        }
        if let Some(last) = chain.writable.last() {
            made(self.map.write(last, last.length - 1, &[status]));
        }
        self.watch.check(&touched, "an answer");
        self.half.answer(&chain, length);
        let data_writable = writable - 1;
        let written = length.min(writable);
        // The status is the last byte: a length that does not reach it says that nobody wrote it.
        let unsaid = status == 0 && written <= data_writable && !self.legacy;
        let status = if unsaid { STATUS_PENDING } else { status };
        let written = written.min(data_writable);
        let completion = Completion { token: request.token, written, status };
        self.answered.push_back((owner, completion));
    }

    /// What a look at the ring brings.
    fn reap_all(&mut self) {
        for (owner, completion) in self.answered.drain(..) {
            match owner {
                Owner::Token(_) => self.finished.push_back(completion),
                Owner::Batch { number, index } => {
                    let batch = self.begun.iter_mut().find(|begun| begun.number == number);
                    if let Some(batch) = batch {
                        batch.statuses[index] = Some(completion.status);
                    }
                }
            }
        }
    }

    fn reap(&mut self, limit: usize) {
        let mut handed_out = Vec::new();
        let count = made(self.queue.reap_many(limit, |done| handed_out.push(done)));
        if self.finished.len() < limit {
            self.reap_all();
        }
        let expected: Vec<_> = self.finished.drain(..limit.min(self.finished.len())).collect();
        assert_eq!(handed_out, expected, "what reap_many({limit}) hands out");
        assert_eq!(count, expected.len());
    }

    fn advance(&mut self, argument: u8) {
        if self.begun.is_empty() {
            return;
        }
        let place = usize::from(argument) % self.begun.len();
        let result = made(self.queue.advance(&self.begun[place].execution));
        self.reap_all();
        let statuses: Option<Vec<u8>> = self.begun[place].statuses.iter().copied().collect();
        assert_eq!(result, statuses, "the statuses of a batch");
        if statuses.is_some() {
            self.begun.remove(place);
        }
    }

    fn end(&mut self, argument: u8) {
        if self.begun.is_empty() {
            return;
        }
        let place = usize::from(argument) % self.begun.len();
        let Begun { number, execution, statuses } = self.begun.remove(place);
        let told = self.queue.end(execution);
        assert_eq!(told.len(), statuses.len());
        let pairs = told.iter().zip(&statuses);
        assert!(pairs.into_iter().all(|(told, known)| known.is_none_or(|known| known == *told)));
        // What had not reached the device never will.
        let its = |owner: &Owner| matches!(owner, Owner::Batch { number: n, .. } if *n == number);
        self.sent.retain(|(_, owner)| !its(owner));
    }

    /// After a reset: what the device held is lost, and told to its owners.
    fn reclaim(&mut self) {
        let mut lost = self.queue.reclaim();
        lost.sort_unstable();
        let held = self.held.drain(..).map(|held| held.owner);
        let owners = held.chain(self.answered.drain(..).map(|(owner, _)| owner));
        let token = |owner| if let Owner::Token(token) = owner { Some(token) } else { None };
        let mut expected: Vec<u64> = owners.filter_map(token).collect();
        expected.sort_unstable();
        assert_eq!(lost, expected, "what was lost");
        self.sent.clear();
        for Begun { execution, statuses, .. } in self.begun.drain(..) {
            let statuses: Option<Vec<u8>> = statuses.into_iter().collect();
            let expected = if statuses.is_some() { Ok(statuses) } else { Err(QueueError::Reset) };
            let advanced = self.queue.advance(&execution);
            assert_eq!(advanced, expected, "what becomes of a batch");
            if advanced.is_err() {
                self.queue.end(execution);
            }
        }
        self.half = H::new(&self.addresses, self.features, &mut self.map);
    }

    /// Everything that is left comes back, and the memory of the data can be closed.
    fn finish(&mut self) {
        loop {
            self.reap(usize::MAX);
            self.look();
            if self.held.is_empty() {
                break;
            }
            self.answer(0, &mut Input::new(&[]));
        }
        while !self.begun.is_empty() {
            let before = self.begun.len();
            self.advance(0);
            assert!(self.begun.len() < before, "a batch of which all is answered");
        }
        self.reclaim();
        for region in &self.regions {
            assert_eq!(region.in_flight(), 0, "pins of requests that came back");
        }
    }
}
