//! Slot pools: requests whose chains are written once, for buffers that never change.
//!
//! A pool has slots, each with a buffer of its own in one region, and a frame of header and status
//! byte in another. All are for reads, or all for writes. What differs between two requests of one
//! slot is the sector, so a submit stores that, sets the status byte back, and makes the chain
//! available. How much of the chain is there already, the ring decides ([`PoolWay`]).
//!
//! Which slots are free, which chains are theirs and how long those are is our own copy. Of a chain
//! that was written nothing is read back, and of what the device writes the status byte alone is,
//! once. The regions stay pinned as long as the pool is there, and until the device has given the
//! last of its requests back.

use std::collections::VecDeque;

use shm::{Claim, FRAME_BYTES, Frames, OutOfBounds, Pin, Segment};

use crate::error::PushError;
use crate::layout::DESCRIPTOR_BYTES;
use crate::queue_error::QueueError;
use crate::request::{Limits, Request, RequestError, SECTOR_BYTES, kind};
use crate::ring::{FixedTable, Ring, Used};
use crate::slots::{STATUS_OK, STATUS_PENDING};

/// Where in a frame its fields lie.
const TYPE: usize = 0;
const SECTOR: usize = 8;
const HEADER_BYTES: u64 = 16;
const STATUS: usize = 32;

/// Header and status, beside the data.
const FRAME_SEGMENTS: usize = 2;

/// What a pool is to be.
#[derive(Clone, Copy, Debug)]
pub struct PoolShape {
    /// Slots.
    pub count: u32,
    /// Bytes of each slot's buffer.
    pub slot_bytes: u32,
    /// Whether the slots are for writes.
    pub write: bool,
}

impl PoolShape {
    /// The request that a slot makes, of the first sector.
    pub(crate) fn request(self) -> Request {
        let kind = if self.write { kind::OUT } else { kind::IN };
        Request { kind, length: self.slot_bytes, ..Request::default() }
    }

    /// Segments of a slot's chain.
    fn segments(self, limits: &Limits) -> usize {
        let data = match limits.size_max {
            0 => 1,
            size_max => self.slot_bytes.div_ceil(size_max) as usize,
        };
        FRAME_SEGMENTS + data
    }

    /// Bytes that the frames need, with a table for each behind them.
    pub(crate) fn frames_length(self, limits: &Limits) -> usize {
        let table = self.segments(limits).saturating_mul(DESCRIPTOR_BYTES);
        table.saturating_add(FRAME_BYTES).saturating_mul(self.count as usize)
    }

    /// What a slot's request asks of the disk, at an offset that it may not have.
    fn refuse_offset(self, offset: u64, limits: &Limits) -> RequestError {
        if !offset.is_multiple_of(SECTOR_BYTES) {
            return RequestError::UnalignedOffset(offset);
        }
        let (sector, capacity) = (offset / SECTOR_BYTES, limits.capacity_sectors);
        RequestError::BeyondEnd { sector, length: self.slot_bytes, capacity }
    }

    /// The first offset that is too large.
    fn offset_bound(self, limits: &Limits) -> u64 {
        let capacity = limits.capacity_sectors.saturating_mul(SECTOR_BYTES);
        capacity.checked_sub(self.slot_bytes.into()).map_or(0, |last| last + 1)
    }
}

/// How the requests of a pool reach the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolWay {
    /// Each slot has descriptors of the ring to itself.
    Direct,
    /// Each slot has a table, and one descriptor of the ring to itself, which points to it.
    Indirect,
    /// Each slot has a table; a request takes a descriptor of the ring, which points to it.
    Table,
    /// A request is a chain like any other.
    General,
}

impl PoolWay {
    /// What suits a pool of `count` chains of so many segments, that leaves so much room for others.
    fn of<R: Ring>(ring: &R, count: usize, segments: usize, room_to_leave: u16) -> Self {
        let room = ring.free_count().saturating_sub(room_to_leave).into();
        let tables = segments <= usize::from(ring.indirect_table_size());
        if ring.can_reserve() && count.saturating_mul(segments) <= room {
            Self::Direct
        } else if ring.can_reserve() && tables && count <= room {
            Self::Indirect
        } else if tables {
            Self::Table
        } else {
            Self::General
        }
    }
}

/// The same, with what it takes.
#[derive(Debug)]
enum Chains {
    Reserved { way: PoolWay, descriptors: u16 },
    Table(Box<[FixedTable]>),
    General(Box<[Segment]>),
}

/// What a pool keeps from being given out again.
#[derive(Debug)]
pub(crate) struct PoolMemory {
    pub(crate) buffer: Pin,
    /// Behind the frames are the tables.
    pub(crate) frames: Claim,
}

impl PoolMemory {
    /// The chain of a slot: what the device reads, and from `readable` segments on writes.
    fn chain(
        &self,
        slot: u32,
        shape: PoolShape,
        limits: &Limits,
        out: &mut Vec<Segment>,
    ) -> Result<(), OutOfBounds> {
        let (frame, length) = (u64::from(slot) * FRAME_BYTES as u64, shape.slot_bytes);
        out.push(self.frames.pin().segment(frame, HEADER_BYTES)?);
        let start = u64::from(slot) * u64::from(length);
        let whole = self.buffer.segment(start, length.into())?;
        let piece = if limits.size_max == 0 { length } else { limits.size_max };
        let mut done = 0;
        while done < length {
            out.push(whole.slice(done, piece.min(length - done))?);
            done += piece.min(length - done);
        }
        out.push(self.frames.pin().segment(frame + STATUS as u64, 1)?);
        Ok(())
    }
}

/// What becomes of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SlotState {
    /// It may be submitted.
    Free,
    /// Named by the present call, which finds no room for it.
    Checked,
    /// From the submit until its completion is taken.
    Busy,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    state: SlotState,
    /// Of its reserved chain.
    head: u16,
}

/// A completion: slot and status.
pub(crate) type SlotStatus = (u32, u8);

/// One pool. [`crate::pools`] has all of a queue, and knows to which slot a chain belongs.
#[derive(Debug)]
pub(crate) struct Pool {
    shape: PoolShape,
    frames: Frames,
    /// None once the device has let go for good.
    memory: Option<PoolMemory>,
    chains: Chains,
    /// Segments of a chain, and how many of them the device reads.
    segments: usize,
    readable: usize,
    slots: Box<[Slot]>,
    /// Bytes that the device may write, the status byte included.
    writable: u32,
    size_max: u32,
    lengths_are_reliable: bool,
    /// Requests that the device owns.
    owned: usize,
    /// What came back and nobody has taken; it has room for all slots.
    parked: VecDeque<SlotStatus>,
    /// What a reset lost, until somebody is told why.
    lost: usize,
    /// Nobody will take what comes back.
    pub(crate) forgotten: bool,
    /// Nobody can name it any more: it goes when the device has given the last request back.
    pub(crate) dropped: bool,
    /// Why it is of no more use.
    pub(crate) dead: Option<QueueError>,
}

impl Pool {
    /// A pool of a shape that `limits` permit; room for a chain of `room_to_leave` descriptors stays
    /// in the ring.
    pub(crate) fn new<R: Ring>(
        ring: &mut R,
        shape: PoolShape,
        memory: PoolMemory,
        limits: &Limits,
        room_to_leave: u16,
        lengths_are_reliable: bool,
    ) -> Result<Self, QueueError> {
        let (count, segments) = (shape.count as usize, shape.segments(limits));
        let frames = memory.frames.pin().region().span().frames(0, count).map_err(outside)?;
        let way = PoolWay::of(ring, count, segments, room_to_leave);
        let mut pool = Self {
            shape,
            frames,
            memory: None,
            chains: Chains::General(Box::default()),
            segments,
            readable: if shape.write { segments - 1 } else { 1 },
            slots: vec![Slot { state: SlotState::Free, head: 0 }; count].into(),
            writable: if shape.write { 1 } else { shape.slot_bytes.saturating_add(1) },
            size_max: limits.size_max,
            lengths_are_reliable,
            owned: 0,
            parked: VecDeque::with_capacity(count),
            lost: 0,
            forgotten: false,
            dropped: false,
            dead: None,
        };
        pool.write_chains(ring, &memory, limits, way)?;
        pool.memory = Some(memory);
        Ok(pool)
    }

    /// Write all that stays as it is.
    fn write_chains<R: Ring>(
        &mut self,
        ring: &mut R,
        memory: &PoolMemory,
        limits: &Limits,
        way: PoolWay,
    ) -> Result<(), QueueError> {
        let kind = self.shape.request().kind;
        let mut segments = Vec::new();
        for slot in 0..self.shape.count {
            memory.chain(slot, self.shape, limits, &mut segments).map_err(outside)?;
            self.frames.write_long::<TYPE>(slot as usize, kind.into());
        }
        if way == PoolWay::General {
            self.chains = Chains::General(segments.into());
            return Ok(());
        }
        let mut tables = Vec::new();
        if way != PoolWay::Direct {
            let start = self.slots.len() * FRAME_BYTES;
            for (index, chain) in segments.chunks(self.segments).enumerate() {
                let offset = start + index * self.segments * DESCRIPTOR_BYTES;
                let (readable, writable) = chain.split_at(self.readable);
                let pin = memory.frames.pin();
                tables
                    .push(R::write_fixed_table(pin, offset, readable, writable).map_err(outside)?);
            }
        }
        if way == PoolWay::Table {
            self.chains = Chains::Table(tables.into());
            return Ok(());
        }
        let descriptors = if way == PoolWay::Direct { self.segments as u16 } else { 1 };
        self.chains = Chains::Reserved { way, descriptors };
        for index in 0..self.slots.len() {
            let reserved = match tables.get(index) {
                Some(table) => ring.reserve_table(table),
                None => {
                    let chain = &segments[index * self.segments..][..self.segments];
                    let (readable, writable) = chain.split_at(self.readable);
                    ring.reserve(readable, writable)
                }
            };
            match reserved {
                Ok(head) => self.slots[index].head = head,
                Err(error) => {
                    // Only of a broken ring: there was room.
                    release(ring, &self.slots[..index], descriptors, |_| ());
                    return Err(crate::queue_state::of_push(error));
                }
            }
        }
        Ok(())
    }

    pub(crate) fn way(&self) -> PoolWay {
        match self.chains {
            Chains::Reserved { way, .. } => way,
            Chains::Table(_) => PoolWay::Table,
            Chains::General(_) => PoolWay::General,
        }
    }

    /// Whether its chains have descriptors of the ring to themselves.
    #[inline]
    pub(crate) fn is_reserved(&self) -> bool {
        matches!(self.chains, Chains::Reserved { .. })
    }

    /// By slot, the heads of its reserved chains.
    pub(crate) fn reserved_heads(&self) -> impl Iterator<Item = (u32, u16)> {
        let count = if self.is_reserved() { self.slots.len() } else { 0 };
        (0..).zip(self.slots[..count].iter().map(|slot| slot.head))
    }

    /// Requests that the device owns.
    pub(crate) fn owned_count(&self) -> usize {
        self.owned
    }

    /// Completions that nobody has taken.
    pub(crate) fn parked_count(&self) -> usize {
        self.parked.len()
    }

    /// Requests that a reset lost, and of which nobody has been told.
    pub(crate) fn lost_count(&self) -> usize {
        self.lost
    }

    /// An error if it is of no more use; then its user knows of what was lost.
    pub(crate) fn refuse_if_dead(&mut self) -> Result<(), QueueError> {
        let Some(why) = &self.dead else { return Ok(()) };
        self.lost = 0;
        Err(why.clone())
    }

    /// Whether the limits still permit what the chains are.
    pub(crate) fn check(&self, limits: &Limits) -> Result<(), QueueError> {
        let kind = self.shape.request().kind;
        if limits.kinds >> kind & 1 == 0 {
            return Err(QueueError::Shape(RequestError::Unsupported(kind)));
        }
        if self.shape.write && limits.read_only {
            return Err(QueueError::Shape(RequestError::ReadOnly));
        }
        if limits.size_max != self.size_max {
            let why = "the device takes segments of another size since; make the slot pool anew";
            return Err(QueueError::State(why.into()));
        }
        Ok(())
    }

    /// Push what `requests` say (slot, and byte on the disk), of which each is asked for once. All
    /// are checked; how many were pushed, from the front, as there is room for. None that need any
    /// while others wait for it (`held_up`). `note` learns the heads of chains that are not reserved.
    ///
    /// After an error, what was pushed is to be withdrawn, each head by `take_back`, and then
    /// `refuse` says what is wrong.
    #[inline]
    pub(crate) fn push_all<R: Ring>(
        &mut self,
        ring: &mut R,
        limits: &Limits,
        held_up: bool,
        requests: impl Iterator<Item = (u32, u64)>,
        mut note: impl FnMut(u16, u32),
    ) -> Result<usize, (usize, u32, Option<RequestError>)> {
        let bound = self.shape.offset_bound(limits);
        let Self { frames, chains, slots, shape, .. } = self;
        let check = |slots: &mut [Slot], slot: u32, offset: u64, state| {
            let Some(place) = slots.get_mut(slot as usize) else {
                return Err(Some(RequestError::NoSlot { slot, count: shape.count }));
            };
            if place.state != SlotState::Free {
                return Err(None);
            }
            if offset >= bound || !offset.is_multiple_of(SECTOR_BYTES) {
                return Err(Some(shape.refuse_offset(offset, limits)));
            }
            place.state = state;
            Ok(place.head)
        };
        let frame = |slot: u32, offset: u64| {
            frames.write_long::<SECTOR>(slot as usize, offset / SECTOR_BYTES);
            frames.write_byte::<STATUS>(slot as usize, STATUS_PENDING);
        };
        let mut count = 0;
        if let Chains::Reserved { .. } = chains {
            for (slot, offset) in requests {
                match check(slots, slot, offset, SlotState::Busy) {
                    Ok(head) => {
                        frame(slot, offset);
                        ring.push_reserved(head, self.writable);
                        count += 1;
                    }
                    Err(error) => return Err((count, slot, error)),
                }
            }
            return Ok(count);
        }
        let mut room = !held_up;
        for (index, (slot, offset)) in requests.enumerate() {
            if let Err(error) = check(slots, slot, offset, SlotState::Checked) {
                return Err((index, slot, error));
            }
            if !room {
                continue;
            }
            frame(slot, offset);
            let at = slot as usize;
            let pushed = match chains {
                Chains::Table(tables) => ring.push_table(&tables[at]),
                Chains::General(segments) => {
                    let chain = &segments[at * self.segments..][..self.segments];
                    let (readable, writable) = chain.split_at(self.readable);
                    ring.push(readable, writable)
                }
                // Returned above.
                Chains::Reserved { .. } => Err(PushError::Empty),
            };
            match pushed {
                Ok(head) => {
                    slots[at].state = SlotState::Busy;
                    note(head, slot);
                    count += 1;
                }
                // Full; of a broken ring, `publish` tells.
                Err(_) => room = false,
            }
        }
        if !room {
            self.forget_checked();
        }
        Ok(count)
    }

    fn forget_checked(&mut self) {
        for slot in self.slots.iter_mut().filter(|slot| slot.state == SlotState::Checked) {
            slot.state = SlotState::Free;
        }
    }

    /// The chain of this slot was withdrawn.
    pub(crate) fn take_back(&mut self, slot: u32) {
        self.slots[slot as usize].state = SlotState::Free;
    }

    /// What was wrong with the request for `slot`, now that all is as before.
    pub(crate) fn refuse(&mut self, slot: u32, error: Option<RequestError>) -> RequestError {
        self.forget_checked();
        error.unwrap_or_else(|| match self.slots[slot as usize].state {
            SlotState::Free => RequestError::SlotTwice(slot),
            _ => RequestError::SlotInFlight(slot),
        })
    }

    /// What was pushed is the device's.
    #[inline]
    pub(crate) fn note_published(&mut self, count: usize) {
        self.owned += count;
    }

    /// The device has given a slot's request back; its status, unless nobody wants it. It stays
    /// busy until `hand_out`.
    #[inline]
    pub(crate) fn complete(&mut self, slot: u32, used: Used) -> u8 {
        self.owned -= 1;
        let status = self.frames.read_byte::<STATUS>(slot as usize);
        // As for any request: success that lies past the used length was not reported.
        let unwritten = used.written_given && used.written < self.writable;
        if status == STATUS_OK && unwritten && self.lengths_are_reliable {
            return STATUS_PENDING;
        }
        status
    }

    /// A completion was taken: the slot may be submitted again.
    #[inline]
    pub(crate) fn hand_out(&mut self, slot: u32) {
        self.slots[slot as usize].state = SlotState::Free;
    }

    /// Keep a completion until somebody takes it.
    pub(crate) fn park(&mut self, completion: SlotStatus) {
        self.parked.push_back(completion);
    }

    /// Hand at most `limit` parked completions to `out`, the oldest first; with `good_only` those
    /// that did not succeed stay. How many there were.
    pub(crate) fn take_parked(
        &mut self,
        limit: usize,
        good_only: bool,
        mut out: impl FnMut(usize, SlotStatus),
    ) -> usize {
        let mut count = 0;
        for _ in 0..self.parked.len() {
            let Some((slot, status)) = self.parked.pop_front() else { break };
            if count == limit || good_only && status != STATUS_OK {
                self.parked.push_back((slot, status));
                continue;
            }
            self.hand_out(slot);
            out(count, (slot, status));
            count += 1;
        }
        count
    }

    /// The oldest parked completion.
    pub(crate) fn take_failed(&mut self) -> Option<SlotStatus> {
        let (slot, status) = self.parked.pop_front()?;
        self.hand_out(slot);
        Some((slot, status))
    }

    /// Nobody takes completions any more. How many were there.
    pub(crate) fn forget(&mut self) -> usize {
        self.forgotten = true;
        let count = self.parked.len();
        for (slot, _) in std::mem::take(&mut self.parked) {
            self.hand_out(slot);
        }
        count
    }

    /// The device owns nothing: give back what it has of the ring, and its memory. `note` learns the
    /// heads.
    pub(crate) fn release<R: Ring>(&mut self, ring: &mut R, note: impl FnMut(u16)) {
        if self.memory.take().is_some()
            && let Chains::Reserved { descriptors, .. } = self.chains
        {
            release(ring, &self.slots, descriptors, note);
        }
    }

    /// After a confirmed reset: the ring has forgotten its chains, and the device its memory.
    pub(crate) fn end(&mut self, why: QueueError) {
        self.dead.get_or_insert(why);
        self.lost += self.owned;
        self.owned = 0;
        self.memory = None;
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if self.owned == 0 {
            return;
        }
        // Without a confirmed reset the device may go on using what it was given.
        if let Some(PoolMemory { buffer, frames }) = &self.memory {
            buffer.abandon();
            frames.pin().abandon();
        }
    }
}

/// The last one first, so that the ring's descriptors are in the order in which they were taken.
fn release<R: Ring>(ring: &mut R, slots: &[Slot], descriptors: u16, mut note: impl FnMut(u16)) {
    for slot in slots.iter().rev() {
        ring.release(slot.head, descriptors);
        note(slot.head);
    }
}

fn outside(error: OutOfBounds) -> QueueError {
    QueueError::Shape(RequestError::OutsideRegion {
        offset: error.offset as u64,
        length: u32::try_from(error.length).unwrap_or(u32::MAX),
        available: error.available,
    })
}
