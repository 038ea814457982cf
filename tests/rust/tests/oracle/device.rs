//! The device's half, made of the crate's queue and the crate's guest memory.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use shm::DmaSpace;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{DescriptorChain, Queue, QueueT};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};
use vring::SplitLayout;

const DESCRIPTOR_BYTES: u64 = 16;
const USED_HEADER_BYTES: u64 = 4;
const USED_BYTES: u64 = 8;

/// What one descriptor says of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub address: u64,
    pub length: u32,
    pub writable: bool,
}

/// A chain as the crate walks it.
pub type Chain = DescriptorChain<Arc<GuestMemoryMmap>>;

/// A device that does what the test says.
pub struct Device {
    pub memory: Arc<GuestMemoryMmap>,
    queue: Queue,
}

impl Device {
    /// A device on the ring at `ring`, that has been told of nothing else.
    pub fn new(space: &DmaSpace, ring: u64, layout: &SplitLayout, event_idx: bool) -> Self {
        let mut queue = Queue::new(layout.size).unwrap();
        // These fail where the alignment is not the specification's.
        let part = |offset: usize| GuestAddress(ring + offset as u64);
        queue.try_set_desc_table_address(part(layout.descriptors)).unwrap();
        queue.try_set_avail_ring_address(part(layout.available)).unwrap();
        queue.try_set_used_ring_address(part(layout.used)).unwrap();
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        let memory = Arc::new(guest_memory(space));
        assert!(queue.is_valid(&*memory));
        Self { memory, queue }
    }

    /// The next chain that is available.
    pub fn take(&mut self) -> Option<Chain> {
        self.queue.pop_descriptor_chain(Arc::clone(&self.memory))
    }

    /// Whether the descriptor that the available ring named points to a table.
    pub fn is_indirect(&self, head: u16) -> bool {
        let address = self.queue.desc_table() + DESCRIPTOR_BYTES * u64::from(head);
        let first: Descriptor = self.memory.read_obj(GuestAddress(address)).unwrap();
        assert!(!(first.refers_to_indirect_table() && first.has_next()));
        first.refers_to_indirect_table()
    }

    /// The flags by which the driver says whether it wants interrupts.
    pub fn available_flags(&self) -> u16 {
        self.memory.load(GuestAddress(self.queue.avail_ring()), Relaxed).unwrap()
    }

    /// Return chains, of which the last is named by the one entry that stands for all of them
    /// (VIRTIO 1.4, 2.7.9 In-order use of descriptors).
    ///
    /// The crate has no such batches: it writes an entry for each, and then the first is made to
    /// be that of the last, and the others nonsense, before the driver looks.
    pub fn complete_batch(&mut self, entries: &[(u16, u32)]) {
        let first = self.queue.next_used();
        for &(head, length) in entries {
            self.complete(head, length);
        }
        let &[_, .., (last, length)] = entries else { return };
        let nonsense = entries.iter().skip(1).map(|_| (u32::MAX, u32::MAX));
        let written = std::iter::once((u32::from(last), length)).chain(nonsense);
        for (index, (id, length)) in written.enumerate() {
            let slot = first.wrapping_add(index as u16) % self.queue.size();
            let address = self.queue.used_ring() + USED_HEADER_BYTES + USED_BYTES * u64::from(slot);
            self.memory.write_obj([id.to_le(), length.to_le()], GuestAddress(address)).unwrap();
        }
    }

    pub fn complete(&mut self, head: u16, length: u32) {
        self.queue.add_used(&*self.memory, head, length).unwrap();
    }

    /// Ask to be notified of the next chain; whether one is available already.
    pub fn enable_notification(&mut self) -> bool {
        self.queue.enable_notification(&*self.memory).unwrap()
    }

    pub fn disable_notification(&mut self) {
        self.queue.disable_notification(&*self.memory).unwrap();
    }

    pub fn needs_notification(&mut self) -> bool {
        self.queue.needs_notification(&*self.memory).unwrap()
    }
}

/// The space's memory, mapped once more by the crate.
pub fn guest_memory(space: &DmaSpace) -> GuestMemoryMmap {
    let ranges = space.mappings().into_iter().map(|mapping| {
        let memory = mapping.memory();
        let file = File::from(memory.fd().try_clone_to_owned().unwrap());
        let place = FileOffset::new(file, memory.file_offset());
        (GuestAddress(mapping.device_address()), memory.len(), Some(place))
    });
    GuestMemoryMmap::from_ranges_with_files(ranges).unwrap()
}

/// The descriptors of a chain.
pub fn parts_of(chain: Chain) -> Vec<Part> {
    let part = |descriptor: Descriptor| Part {
        address: descriptor.addr().0,
        length: descriptor.len(),
        writable: descriptor.is_write_only(),
    };
    chain.map(part).collect()
}

/// Where each descriptor of a chain but the last links to.
pub fn links_of(chain: Chain) -> Vec<u16> {
    chain.filter(Descriptor::has_next).map(|descriptor| descriptor.next()).collect()
}

/// xorshift64*: reproducible, and cheap next to a chain.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        // Spread out, as neighbouring seeds start with similar numbers; never 0.
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// A number up to `last`, this included.
    pub fn up_to(&mut self, last: usize) -> usize {
        self.below(last + 1)
    }

    pub fn once_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}
