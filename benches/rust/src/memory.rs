//! Memory that the device sees where this process sees it, and the buffers of requests.

use shm::{DmaSpace, Region};

use crate::{Outcome, QUEUE_SIZE, Shape};

const MAPPING_BYTES: usize = 1 << 20;
const TRIES: usize = 16;

/// One request has this much of the buffers: header, data, status.
const REQUEST_BYTES: usize = 1024;
const PARTS: [(usize, usize); 3] = [(0, 16), (512, 512), (16, 1)];

/// A space with one mapping, whose device addresses are the addresses of this process: so that no
/// crate has to translate any.
///
/// Where a mapping comes to lie is known only afterwards. So one is made to see where, and a second
/// one in its place.
pub fn identity_space() -> Outcome<DmaSpace> {
    for _ in 0..TRIES {
        let probe = DmaSpace::new().map(MAPPING_BYTES, 0)?;
        let address = probe.memory().host_address();
        drop(probe);
        let space = DmaSpace::new();
        if space.map(MAPPING_BYTES, address as u64)?.memory().host_address() == address {
            return Ok(space);
        }
    }
    Err("no mapping came to lie where the one before it was".into())
}

/// The buffers of as many requests as can be in flight.
#[derive(Debug)]
pub struct Buffers(pub Region);

impl Buffers {
    /// Buffers in `space`.
    pub fn new(space: &DmaSpace) -> Outcome<Self> {
        Ok(Self(space.alloc(QUEUE_SIZE * REQUEST_BYTES, 4096)?))
    }

    /// Offset and length of the parts of request `index`, and whether the device writes them. A
    /// request of one descriptor is its data.
    pub fn parts(shape: Shape, index: usize) -> impl Iterator<Item = (usize, usize, bool)> {
        let range = match shape {
            Shape::One => 1..2,
            Shape::Three | Shape::ThreeIndirect => 0..3,
        };
        range.map(move |part| {
            let (offset, length) = PARTS[part];
            (index * REQUEST_BYTES + offset, length, part > 0)
        })
    }
}
