//! The multi-word records of the rings, as values.

/// A descriptor (VIRTIO 1.4, 2.7.5 The Virtqueue Descriptor Table).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Device address of the buffer.
    pub addr: u64,
    /// Bytes.
    pub len: u32,
    /// NEXT, WRITE, INDIRECT.
    pub flags: u16,
    /// Index of the next descriptor of the chain, if NEXT.
    pub next: u16,
}

/// An entry of the available ring (VIRTIO 1.4, 2.7.6 The Virtqueue Available Ring).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AvailableElement(
    /// Index of the head of a chain.
    pub u16,
);

/// An entry of the used ring (VIRTIO 1.4, 2.7.8 The Virtqueue Used Ring).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsedElement {
    /// Index of the head of the used chain.
    pub id: u32,
    /// Bytes written to it.
    pub len: u32,
}

/// A descriptor of a packed ring (VIRTIO 1.4, 2.8 Packed Virtqueues): in memory, id and flags have
/// changed places against the split ring's flags and next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PackedDescriptor {
    /// Device address of the buffer.
    pub addr: u64,
    /// Bytes.
    pub len: u32,
    /// Buffer id.
    pub id: u16,
    /// NEXT, WRITE, INDIRECT; in the ring itself AVAIL and USED as well.
    pub flags: u16,
}

/// A descriptor of the packed ring without its flags, which are written at another time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PackedBody {
    /// Device address of the buffer.
    pub addr: u64,
    /// Bytes.
    pub len: u32,
    /// Buffer id.
    pub id: u16,
}

/// What a used descriptor of the packed ring says, besides its flags
/// (VIRTIO 1.4, 2.8.4 Element Address and Length).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PackedUsed {
    /// Buffer id.
    pub id: u16,
    /// Bytes written to it, if the flags have WRITE.
    pub len: u32,
}
