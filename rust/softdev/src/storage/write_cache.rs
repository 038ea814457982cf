//! A volatile write cache: what is written waits here until a flush, and a loss of power drops it.

use std::collections::BTreeMap;
use std::io;

use super::{Durability, Found, LastError, Sink, Source, Storage, read_into, units, write_from};

const PAGE_BYTES: u64 = 4096;

/// Pages that may wait (256 MiB). A cache may write back early, so when it is full it does.
const PAGES_MAX: usize = 65536;

/// A page that waits.
#[derive(Debug)]
enum Page {
    Bytes(Box<[u8; PAGE_BYTES as usize]>),
    Zeroes,
}

/// See the module. Lies on top of any other storage.
pub struct WriteCache {
    base: Box<dyn Storage>,
    /// By offset / PAGE_BYTES.
    waiting: BTreeMap<u64, Page>,
}

impl WriteCache {
    /// An empty cache on top of `base`.
    pub fn new(base: Box<dyn Storage>) -> Self {
        Self { base, waiting: BTreeMap::new() }
    }

    /// The bytes of a page, which waits from now on.
    fn page(&mut self, number: u64) -> io::Result<&mut [u8]> {
        let bytes = match self.waiting.get(&number) {
            Some(Page::Bytes(_)) => None,
            Some(Page::Zeroes) => Some(Box::new([0; PAGE_BYTES as usize])),
            None => Some(self.load(number)?),
        };
        if let Some(bytes) = bytes {
            self.waiting.insert(number, Page::Bytes(bytes));
        }
        match self.waiting.get_mut(&number) {
            Some(Page::Bytes(bytes)) => Ok(&mut bytes[..]),
            _ => Err(io::Error::other("a page of bytes is not there")),
        }
    }

    fn load(&mut self, number: u64) -> io::Result<Box<[u8; PAGE_BYTES as usize]>> {
        let mut bytes = Box::new([0; PAGE_BYTES as usize]);
        let start = number * PAGE_BYTES;
        let there = self.base.capacity_bytes().saturating_sub(start).min(PAGE_BYTES) as usize;
        if let Some(piece) = bytes.get_mut(..there) {
            read_into(self.base.as_mut(), start, piece)?;
        }
        Ok(bytes)
    }

    /// Write one page back. It stays if that fails.
    fn write_back(&mut self, number: u64, durability: Durability) -> io::Result<()> {
        let Some(page) = self.waiting.get(&number) else {
            return Ok(());
        };
        let start = number * PAGE_BYTES;
        // The last page of a disk can be cut short.
        let there = self.base.capacity_bytes().saturating_sub(start).min(PAGE_BYTES);
        match page {
            Page::Bytes(bytes) => {
                let piece = bytes.get(..there as usize).unwrap_or(&[]);
                write_from(self.base.as_mut(), start, piece, durability)?;
            }
            Page::Zeroes => self.base.zero(start, there, durability)?,
        }
        self.waiting.remove(&number);
        Ok(())
    }

    fn write_back_all(&mut self) -> io::Result<()> {
        while let Some((&number, _)) = self.waiting.first_key_value() {
            self.write_back(number, Durability::Cached)?;
        }
        Ok(())
    }

    /// What is to be stable must not be hidden by pages that wait, nor they by it.
    fn write_back_range(&mut self, offset: u64, length: u64) -> io::Result<()> {
        let end = offset.saturating_add(length).div_ceil(PAGE_BYTES);
        let numbers: Vec<u64> =
            self.waiting.range(offset / PAGE_BYTES..end).map(|(&number, _)| number).collect();
        numbers.into_iter().try_for_each(|number| self.write_back(number, Durability::Cached))
    }

    /// Whether a change goes to what is below at once: it has to, or it would fill the cache alone.
    fn bypasses(length: u64, durability: Durability) -> bool {
        durability == Durability::Stable || length / PAGE_BYTES > PAGES_MAX as u64 / 2
    }

    fn make_room(&mut self, length: u64) -> io::Result<()> {
        let more = (length / PAGE_BYTES) as usize + 2;
        if self.waiting.len().saturating_add(more) > PAGES_MAX {
            self.write_back_all()
        } else {
            Ok(())
        }
    }
}

impl Storage for WriteCache {
    fn capacity_bytes(&self) -> u64 {
        self.base.capacity_bytes()
    }

    fn read(&mut self, offset: u64, length: usize, sink: &mut Sink<'_>) -> io::Result<()> {
        if self.waiting.is_empty() {
            return self.base.read(offset, length, sink);
        }
        for (number, start, count) in units(offset, length as u64, PAGE_BYTES) {
            match self.waiting.get(&number) {
                Some(Page::Bytes(bytes)) => {
                    sink(Found::Bytes(bytes.get(start..start + count).unwrap_or(&[])))?;
                }
                Some(Page::Zeroes) => sink(Found::Zeroes(count))?,
                None => self.base.read(number * PAGE_BYTES + start as u64, count, sink)?,
            }
        }
        Ok(())
    }

    fn write(
        &mut self,
        offset: u64,
        length: usize,
        durability: Durability,
        source: &mut Source<'_>,
    ) -> io::Result<()> {
        if Self::bypasses(length as u64, durability) {
            self.write_back_range(offset, length as u64)?;
            return self.base.write(offset, length, durability, source);
        }
        self.make_room(length as u64)?;
        for (number, start, count) in units(offset, length as u64, PAGE_BYTES) {
            if let Some(piece) = self.page(number)?.get_mut(start..start + count) {
                source(piece)?;
            }
        }
        Ok(())
    }

    fn zero(&mut self, offset: u64, length: u64, durability: Durability) -> io::Result<()> {
        if Self::bypasses(length, durability) {
            self.write_back_range(offset, length)?;
            return self.base.zero(offset, length, durability);
        }
        self.make_room(length)?;
        for (number, start, count) in units(offset, length, PAGE_BYTES) {
            if count as u64 == PAGE_BYTES {
                self.waiting.insert(number, Page::Zeroes);
            } else if let Some(piece) = self.page(number)?.get_mut(start..start + count) {
                piece.fill(0);
            }
        }
        Ok(())
    }

    /// As zeroing: what is below comes back if the power is lost first.
    fn discard(&mut self, offset: u64, length: u64, durability: Durability) -> io::Result<()> {
        if self.base.can_deallocate() {
            return self.zero(offset, length, durability);
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_back_all()?;
        self.base.flush()
    }

    fn power_loss(&mut self) {
        self.waiting.clear();
        self.base.power_loss();
    }

    fn resize(&mut self, capacity_bytes: u64) -> io::Result<()> {
        if capacity_bytes < self.base.capacity_bytes() {
            let kept = capacity_bytes.div_ceil(PAGE_BYTES);
            drop(self.waiting.split_off(&kept));
            let last = capacity_bytes % PAGE_BYTES;
            if last != 0 && self.waiting.contains_key(&(kept - 1)) {
                let page = self.page(kept - 1)?;
                page.get_mut(last as usize..).unwrap_or(&mut []).fill(0);
            }
        }
        self.base.resize(capacity_bytes)
    }

    fn can_deallocate(&self) -> bool {
        self.base.can_deallocate()
    }

    fn last_error(&self) -> Option<LastError> {
        self.base.last_error()
    }

    fn close(&mut self) -> io::Result<()> {
        let written_back = self.write_back_all();
        let closed = self.base.close();
        written_back.and(closed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::MemoryStorage;
    use super::*;

    fn cache() -> WriteCache {
        WriteCache::new(Box::new(MemoryStorage::new(1 << 20)))
    }

    fn sector(cache: &mut WriteCache, number: u64) -> io::Result<[u8; 512]> {
        let mut back = [0xEE; 512];
        read_into(cache, number * 512, &mut back)?;
        Ok(back)
    }

    #[test]
    fn a_loss_of_power_takes_what_no_flush_saved() -> io::Result<()> {
        let mut cache = cache();
        write_from(&mut cache, 0, &[1; 512], Durability::Cached)?;
        cache.flush()?;
        write_from(&mut cache, 0, &[2; 512], Durability::Cached)?;
        write_from(&mut cache, 512, &[3; 512], Durability::Cached)?;
        assert_eq!(sector(&mut cache, 0)?, [2; 512]);
        cache.power_loss();
        assert_eq!(sector(&mut cache, 0)?, [1; 512]);
        assert_eq!(sector(&mut cache, 1)?, [0; 512]);
        Ok(())
    }

    #[test]
    fn a_stable_write_survives_and_leaves_its_neighbours_waiting() -> io::Result<()> {
        let mut cache = cache();
        write_from(&mut cache, 8192, &[4; 512], Durability::Cached)?;
        write_from(&mut cache, 0, &[5; 512], Durability::Stable)?;
        cache.power_loss();
        assert_eq!(sector(&mut cache, 0)?, [5; 512]);
        assert_eq!(sector(&mut cache, 16)?, [0; 512]);
        Ok(())
    }

    #[test]
    fn a_stable_write_is_seen_over_an_earlier_cached_one() -> io::Result<()> {
        let mut cache = cache();
        write_from(&mut cache, 0, &[1; 4096], Durability::Cached)?;
        write_from(&mut cache, 512, &[2; 512], Durability::Stable)?;
        assert_eq!(sector(&mut cache, 0)?, [1; 512]);
        assert_eq!(sector(&mut cache, 1)?, [2; 512]);
        Ok(())
    }

    #[test]
    fn zeroes_wait_like_writes() -> io::Result<()> {
        let mut cache = cache();
        write_from(&mut cache, 0, &[6; 16384], Durability::Stable)?;
        cache.zero(512, 12288, Durability::Cached)?;
        assert_eq!(sector(&mut cache, 0)?, [6; 512]);
        assert_eq!(sector(&mut cache, 1)?, [0; 512]);
        assert_eq!(sector(&mut cache, 24)?, [0; 512]);
        assert_eq!(sector(&mut cache, 25)?, [6; 512]);
        cache.power_loss();
        assert_eq!(sector(&mut cache, 1)?, [6; 512]);
        Ok(())
    }

    #[test]
    fn a_request_larger_than_the_cache_does_not_fill_it() -> io::Result<()> {
        let mut cache = WriteCache::new(Box::new(MemoryStorage::new(1 << 30)));
        let length = (PAGES_MAX + 1) * PAGE_BYTES as usize;
        write_from(&mut cache, 0, &[1; 512], Durability::Cached)?;
        cache.write(0, length, Durability::Cached, &mut |piece| {
            piece[..1].fill(9);
            Ok(())
        })?;
        assert!(cache.waiting.is_empty());
        assert_eq!(sector(&mut cache, 0)?[0], 9);
        Ok(())
    }

    #[test]
    fn a_full_cache_writes_back() -> io::Result<()> {
        let mut cache = WriteCache::new(Box::new(MemoryStorage::new(1 << 30)));
        for number in 0..PAGES_MAX as u64 {
            cache.zero(number * PAGE_BYTES, PAGE_BYTES, Durability::Cached)?;
        }
        assert!(cache.waiting.len() < PAGES_MAX);
        Ok(())
    }
}
