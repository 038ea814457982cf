//! Block requests as a driver would lay them out (VIRTIO 1.4, 5.2.6 Device Operation), and a
//! little differently.

use super::{BASE, DATA, HEADERS, Memory, STATUSES};
use crate::fuzz::input::Input;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;
const KINDS: [u32; 8] = [IN, OUT, IN, FLUSH, GET_ID, DISCARD, WRITE_ZEROES, 99];

/// Bytes of data that one request has at most.
const DATA_BYTES: usize = 0x800;

/// What one descriptor of a chain describes.
#[derive(Clone, Copy, Debug)]
pub(in crate::fuzz) struct Part {
    pub(in crate::fuzz) address: u64,
    pub(in crate::fuzz) length: u32,
    pub(in crate::fuzz) device_writes: bool,
}

impl From<(usize, usize, bool)> for Part {
    fn from((offset, length, device_writes): (usize, usize, bool)) -> Self {
        Self { address: BASE + offset as u64, length: length as u32, device_writes }
    }
}

/// A header of any type, mostly one that there is.
pub(super) fn header(input: &mut Input<'_>) -> [u8; 16] {
    let (kind, sector) = (input.byte(), input.byte());
    let kind = KINDS.get(usize::from(kind)).copied().unwrap_or(kind.into());
    let sector = if sector > 250 { u64::MAX >> (sector - 251) } else { sector.into() };
    header_of(kind, sector)
}

fn header_of(kind: u32, sector: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&kind.to_le_bytes());
    bytes[8..].copy_from_slice(&sector.to_le_bytes());
    bytes
}

/// The parts of a request, whose header this writes. The low three bits of `kind` say which; the
/// fourth, whether it is cut as the specification allows and drivers do not.
pub(super) fn parts(memory: &Memory, number: usize, kind: u8, input: &mut Input<'_>) -> Vec<Part> {
    let odd_cut = kind & 8 != 0;
    let kind = KINDS[usize::from(kind & 7)];
    let (header, status) = (HEADERS + 16 * (number % 64), STATUSES + 2 * (number % 256));
    let data = DATA + DATA_BYTES * (number % 8);
    let (sector, length) = (u64::from(input.byte() % 10), input.byte());
    let length = match kind {
        FLUSH => 0,
        GET_ID => 20,
        DISCARD | WRITE_ZEROES => 16 * (1 + usize::from(length) % 3),
        _ => 512 * (usize::from(length) % 5),
    };
    if matches!(kind, DISCARD | WRITE_ZEROES) {
        for at in (data..data + length).step_by(16) {
            let mut segment = header_of(u32::from(input.byte() % 10), 0);
            segment[8..12].copy_from_slice(&u32::from(input.byte() % 6).to_le_bytes());
            segment[12] = input.byte() & 3 & input.byte();
            memory.write(at, &segment);
        }
    }
    memory.write(header, &header_of(kind, sector));
    memory.write(status, &[0xEE, 0xEE]);
    let device_writes = matches!(kind, IN | GET_ID);
    let mut cuts = vec![(header, 16, false)];
    if odd_cut {
        cuts = vec![(header, 7, false), (header + 7, 9, false)];
    }
    let piece = if odd_cut { usize::from(input.byte()).max(length / 4).max(1) } else { 1024 };
    let mut done = 0;
    while done < length {
        let part = piece.min(length - done);
        cuts.push((data + done, part, device_writes));
        done += part;
    }
    cuts.push((status, if odd_cut && device_writes { 2 } else { 1 }, true));
    cuts.into_iter().map(Part::from).collect()
}
