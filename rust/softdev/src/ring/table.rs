//! Indirect tables, whose entries are descriptors of their ring's format.

use shm::{Descriptor, PackedDescriptor, Record, Records};

use super::{DESCRIPTOR_BYTES, Violation};
use crate::address_map::{AddressMap, Segment};

/// What a table is made of.
pub(super) trait Entry: Record {
    /// As the bytes at one place say it.
    fn parse(raw: &[u8; DESCRIPTOR_BYTES]) -> Self;
}

impl Entry for Descriptor {
    fn parse(raw: &[u8; DESCRIPTOR_BYTES]) -> Self {
        let (addr, len, [flags, next]) = fields_of(raw);
        Self { addr, len, flags, next }
    }
}

impl Entry for PackedDescriptor {
    fn parse(raw: &[u8; DESCRIPTOR_BYTES]) -> Self {
        let (addr, len, [id, flags]) = fields_of(raw);
        Self { addr, len, id, flags }
    }
}

/// Both formats have the address first, then the length, then two words.
fn fields_of(raw: &[u8; DESCRIPTOR_BYTES]) -> (u64, u32, [u16; 2]) {
    let [a0, a1, a2, a3, a4, a5, a6, a7, l0, l1, l2, l3, w0, w1, x0, x1] = *raw;
    (
        u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
        u32::from_le_bytes([l0, l1, l2, l3]),
        [u16::from_le_bytes([w0, w1]), u16::from_le_bytes([x0, x1])],
    )
}

/// An indirect table: typed records where its alignment allows that, else bytes. The
/// specification asks for no alignment.
pub(super) enum Table<E: Entry> {
    Records(Records<E>),
    Bytes(Segment),
}

impl<E: Entry> Table<E> {
    pub(super) fn open(segment: Segment, count: usize, map: &AddressMap) -> Self {
        map.records(&segment, count).map_or(Self::Bytes(segment), Self::Records)
    }

    pub(super) fn load(&self, index: u16, map: &AddressMap) -> Result<E, Violation> {
        match self {
            Self::Records(records) => Ok(records.load(usize::from(index))),
            Self::Bytes(segment) => {
                let mut raw = [0; DESCRIPTOR_BYTES];
                map.read(segment, usize::from(index) * DESCRIPTOR_BYTES, &mut raw)?;
                Ok(E::parse(&raw))
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use shm::{DmaSpace, SpaceError};

    use super::*;

    const BASE: u64 = 1 << 32;
    const ENTRIES: usize = 3;

    /// What a table of these entries at `offset` says, and whether it is read as bytes.
    fn read_back<E: Entry>(offset: u64) -> Result<(Vec<E>, bool), SpaceError> {
        let space = DmaSpace::new();
        space.map(4096, BASE)?;
        let mut map = AddressMap::new(space.clone());
        let length = ENTRIES * DESCRIPTOR_BYTES;
        let bytes: Vec<u8> = (1..=length as u8).collect();
        if let Some(span) = space.translate(BASE + offset, length) {
            assert!(span.write_bytes(0, &bytes).is_ok());
        }
        let Some(segment) = map.resolve(BASE + offset, length) else { return Ok((vec![], false)) };
        let table = Table::<E>::open(segment, ENTRIES, &map);
        let entries = (0..ENTRIES as u16).filter_map(|index| table.load(index, &map).ok());
        Ok((entries.collect(), matches!(table, Table::Bytes(_))))
    }

    #[test]
    fn a_table_says_the_same_at_any_address() -> Result<(), SpaceError> {
        let (split, packed) =
            (read_back::<Descriptor>(16)?.0, read_back::<PackedDescriptor>(16)?.0);
        for offset in 0..=32 {
            let is_odd = offset % 8 != 0;
            assert_eq!(read_back(offset)?, (split.clone(), is_odd), "{offset}");
            assert_eq!(read_back(offset)?, (packed.clone(), is_odd), "{offset}");
        }
        let addr = u64::from_le_bytes([17, 18, 19, 20, 21, 22, 23, 24]);
        let (len, first, second) = (0x1c1b_1a19, 0x1e1d, 0x201f);
        assert_eq!(split[1], Descriptor { addr, len, flags: first, next: second });
        assert_eq!(packed[1], PackedDescriptor { addr, len, id: first, flags: second });
        Ok(())
    }
}
