//! The multi-word records of a split ring, as values.

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
