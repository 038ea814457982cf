//! What the two formats of a ring have in common. Request queues are written for any of them.

use std::fmt::Debug;

use shm::{Claim, OutOfBounds, Pin, Segment};

use crate::error::{Broken, LayoutError, PushError};

/// The longest chain, in bytes (VIRTIO 1.4, 2.7.5 The Virtqueue Descriptor Table).
const CHAIN_BYTES_MAX: u64 = 1 << 32;

/// How a ring is to behave, as negotiated.
#[derive(Clone, Copy, Debug, Default)]
pub struct RingOptions {
    /// EVENT_IDX was negotiated.
    pub event_idx: bool,
    /// IN_ORDER was negotiated: the device uses chains in the order in which they were published.
    pub in_order: bool,
    /// A used length beyond the writable part breaks the ring instead of being clamped.
    pub strict: bool,
    /// The memory is zeroed already, and the device may know of it and be live: what is the
    /// device's to write is left alone.
    pub zeroed: bool,
}

/// A chain that the device has used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// What `push` returned for it.
    pub head: u16,
    /// Bytes that the device says it wrote, at most the chain's writable ones: all of them (of
    /// 2^32, one less) for a chain that the device skipped, as it may with IN_ORDER.
    pub written: u32,
    /// Whether the device said how many: on a packed ring only if it set WRITE (VIRTIO 1.4, 2.8.4
    /// Element Address and Length), which QEMU's do not. Without it `written` is 0.
    pub written_given: bool,
}

/// An indirect table that was written once, in memory of its owner's: each chain that is pushed with
/// it is one descriptor of the ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FixedTable {
    pub(crate) address: u64,
    pub(crate) length: u32,
    /// Bytes that the device may write.
    pub(crate) writable: u64,
}

/// The driver's half of a virtqueue.
///
/// `push` writes chains, `publish` shows them to the device in one step, `reap` takes back what the
/// device has used. What the driver relies on (free lists, lengths, which chains are outstanding)
/// is its own copy, which the device cannot reach. A ring is not synchronised: its owner calls it
/// from one thread at a time.
///
/// A chain is known by its *head*, a number below the queue size: on a split ring the index of its
/// first descriptor, on a packed ring its buffer id.
///
/// With IN_ORDER (VIRTIO 1.4, 2.7.9 and 2.8.8 In-order use of descriptors) one used element gives
/// back a batch: the chain that it names, and all outstanding ones before it. Those count as used
/// completely. An element is checked as a whole before anything of its batch is handed out, and not
/// looked at again. Where `limit` ends a `reap` in the middle of the batch, `has_used` knows of the
/// rest, and the next `reap` begins with it (unless a split ring's used index has left what can be,
/// which breaks the ring there as anywhere); until then the position that `arm` names is that of the
/// first chain that was not handed out.
pub trait Ring: Debug + Sized {
    /// Where the parts lie in memory.
    type Layout: Copy + Debug + Send + Sync;

    /// Lay a ring out in the claimed region and zero it (but see [`RingOptions::zeroed`]).
    /// Notifications start enabled.
    fn new(claim: Claim, layout: Self::Layout, options: RingOptions) -> Result<Self, LayoutError>;

    /// Where the parts lie.
    fn layout(&self) -> &Self::Layout;

    /// Descriptors in the ring (the queue size).
    fn size(&self) -> u16;

    /// Descriptors in the indirect table of each head; 0 without indirect descriptors.
    fn indirect_table_size(&self) -> u16;

    /// Descriptors that are free.
    fn free_count(&self) -> u16;

    /// Chains published and not yet reaped.
    fn outstanding_count(&self) -> u16;

    /// Completions whose length was larger than the chain's writable part.
    fn clamped_count(&self) -> u64;

    /// How the device broke the rules, if it did.
    fn broken(&self) -> Option<Broken>;

    /// Where the next chain is made available, as a notification with data says it
    /// (VIRTIO 1.4, 2.9 Driver Notifications): on a split ring the available index, on a packed
    /// ring the offset in bits 0 to 14 and the wrap counter in bit 15.
    fn next_available(&self) -> u16;

    /// Whether the device may look at the ring: something was published since it was made, or
    /// since the last `reclaim`.
    fn is_live(&self) -> bool;

    /// The head that the next `push` will return, if it succeeds.
    fn next_head(&self) -> u16;

    /// Write a chain: what the device reads, then what it writes. Returns its head.
    fn push(&mut self, readable: &[Segment], writable: &[Segment]) -> Result<u16, PushError>;

    /// Whether chains can have descriptors of their own for as long as they like. Not where the
    /// place of a descriptor says when it is used: on a packed ring, or in order.
    fn can_reserve(&self) -> bool {
        false
    }

    /// Descriptors that are reserved.
    fn reserved_count(&self) -> u16 {
        0
    }

    /// Take descriptors out of the ring for a chain that `push_reserved` pushes again and again, and
    /// write it once. Returns its head. Only if `can_reserve`; else, as if the ring were full.
    fn reserve(&mut self, readable: &[Segment], writable: &[Segment]) -> Result<u16, PushError> {
        let _ = (readable, writable);
        Err(PushError::Full { needed: 1, free: 0 })
    }

    /// The same of one descriptor that points to a table.
    fn reserve_table(&mut self, table: &FixedTable) -> Result<u16, PushError> {
        let _ = table;
        Err(PushError::Full { needed: 1, free: 0 })
    }

    /// Give the `count` descriptors of a reserved chain back. It is not pushed.
    fn release(&mut self, head: u16, count: u16) {
        let _ = (head, count);
    }

    /// Push a reserved chain that is not pushed already, with as many writable bytes as it has.
    /// Unlike `push` it does not look whether the ring is broken: `publish` does.
    #[inline]
    fn push_reserved(&mut self, head: u16, writable: u32) {
        let _ = (head, writable);
    }

    /// Write a chain as an indirect table into memory of the caller's, `offset` bytes into the
    /// region, where it stays as long as chains are pushed with it.
    fn write_fixed_table(
        memory: &Pin,
        offset: usize,
        readable: &[Segment],
        writable: &[Segment],
    ) -> Result<FixedTable, OutOfBounds>;

    /// Push a chain of one descriptor, which points to a table. Returns its head.
    fn push_table(&mut self, table: &FixedTable) -> Result<u16, PushError>;

    /// Take back what was pushed since the last publish; calls `each` with the heads, newest
    /// first. It was never available, so the device must not look at it.
    fn withdraw(&mut self, each: impl FnMut(u16));

    /// Make what was pushed visible in one step; whether the device must be notified.
    fn publish(&mut self) -> Result<bool, Broken>;

    /// Whether the device has used a chain that was not reaped; a look at one word, no more.
    fn has_used(&self) -> bool;

    /// Hand at most `limit` used chains to `each`; how many there were. What the device returned
    /// correctly before it broke a rule is handed out, and the next call tells of the breach.
    fn reap(&mut self, limit: usize, each: impl FnMut(Used)) -> Result<usize, Broken>;

    /// Whether the device has used `count` chains that were not reaped, or more. A ring that cannot
    /// tell without looking at each says so of one already; of 0 it is the same as of 1.
    fn has_used_many(&self, count: u16) -> bool;

    /// Ask for a notification of the next used chain; whether one is waiting already.
    fn arm(&mut self) -> Result<bool, Broken> {
        self.arm_ahead(1)
    }

    /// Ask for a notification once `count` chains are used that were not reaped, at most as many as
    /// are outstanding; whether they are already ([`Ring::has_used_many`]). It can come earlier: it
    /// is that of the next used chain without EVENT_IDX, and where it is not known which place the
    /// device will come to (VIRTIO 1.4, 2.7.7 and 2.8.10).
    fn arm_ahead(&mut self, count: u16) -> Result<bool, Broken>;

    /// Hint that no notifications are wanted.
    fn disarm(&mut self);

    /// After a confirmed reset only: forget all chains (reserved ones, too) and zero the ring; calls `each` with the
    /// heads that the device never gave back (pushed ones included), ascending.
    fn reclaim(&mut self, each: impl FnMut(u16));

    /// Whether the chain could be pushed into an empty ring; its segments and writable bytes.
    #[inline(always)]
    fn validate(
        &self,
        readable: &[Segment],
        writable: &[Segment],
    ) -> Result<(u16, u64), PushError> {
        let total = |part: &[Segment]| part.iter().map(|segment| u64::from(segment.len())).sum();
        let (read_bytes, write_bytes): (u64, u64) = (total(readable), total(writable));
        if read_bytes + write_bytes > CHAIN_BYTES_MAX {
            return Err(PushError::TooManyBytes(read_bytes + write_bytes));
        }
        match readable.len() + writable.len() {
            0 => Err(PushError::Empty),
            count if count > usize::from(self.size()) => {
                Err(PushError::TooManySegments { count, size: self.size() })
            }
            count => Ok((count as u16, write_bytes)),
        }
    }

    /// Descriptors of the ring that a chain of `segments` takes: one if it goes into its head's
    /// indirect table, which one segment alone would gain nothing from.
    #[inline(always)]
    fn descriptors_needed(&self, segments: u16) -> u16 {
        if (2..=self.indirect_table_size()).contains(&segments) { 1 } else { segments }
    }
}
