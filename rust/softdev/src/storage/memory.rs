//! A disk in memory that takes up only what was written to it.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;

use super::{Durability, Found, Sink, Source, Storage, units};

/// Large enough that the allocator maps a chunk of its own, so that pages of it which nobody
/// touches take up nothing.
const CHUNK_BYTES: u64 = 256 * 1024;

/// Chunk numbers are small and dense: one multiplication spreads them well enough.
#[derive(Debug, Default)]
struct ChunkHasher(u64);

impl Hasher for ChunkHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(self.0 ^ u64::from(byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(26);
    }
}

type Chunks = HashMap<u64, Box<[u8]>, BuildHasherDefault<ChunkHasher>>;

/// See the module.
#[derive(Debug)]
pub struct MemoryStorage {
    capacity_bytes: u64,
    /// By offset / CHUNK_BYTES. What is missing reads as zero.
    chunks: Chunks,
}

impl MemoryStorage {
    /// A disk of zeroes.
    pub fn new(capacity_bytes: u64) -> Self {
        Self { capacity_bytes, chunks: Chunks::default() }
    }

    /// Bytes of chunks in memory (the system may not have given all of them pages yet).
    pub fn allocated_bytes(&self) -> u64 {
        self.chunks.len() as u64 * CHUNK_BYTES
    }
}

impl Storage for MemoryStorage {
    fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes
    }

    fn read(&mut self, offset: u64, length: usize, sink: &mut Sink<'_>) -> io::Result<()> {
        for (chunk, start, count) in units(offset, length as u64, CHUNK_BYTES) {
            match self.chunks.get(&chunk).and_then(|bytes| bytes.get(start..start + count)) {
                Some(bytes) => sink(Found::Bytes(bytes))?,
                None => sink(Found::Zeroes(count))?,
            }
        }
        Ok(())
    }

    fn write(
        &mut self,
        offset: u64,
        length: usize,
        _: Durability,
        source: &mut Source<'_>,
    ) -> io::Result<()> {
        for (chunk, start, count) in units(offset, length as u64, CHUNK_BYTES) {
            let bytes = self
                .chunks
                .entry(chunk)
                .or_insert_with(|| vec![0; CHUNK_BYTES as usize].into_boxed_slice());
            if let Some(piece) = bytes.get_mut(start..start + count) {
                source(piece)?;
            }
        }
        Ok(())
    }

    fn zero(&mut self, offset: u64, length: u64, _: Durability) -> io::Result<()> {
        let end = offset.saturating_add(length);
        let whole = offset.div_ceil(CHUNK_BYTES)..end / CHUNK_BYTES;
        if whole.end.saturating_sub(whole.start) > self.chunks.len() as u64 {
            // Cheaper by what there is than by what there could be.
            self.chunks.retain(|chunk, _| !whole.contains(chunk));
        } else {
            whole.clone().for_each(|chunk| drop(self.chunks.remove(&chunk)));
        }
        for edge in [offset / CHUNK_BYTES, end / CHUNK_BYTES] {
            // Relative to the chunk: where the last one of all ends is no 64-bit number.
            let start = edge * CHUNK_BYTES;
            let from = offset.saturating_sub(start);
            let to = end.saturating_sub(start).min(CHUNK_BYTES);
            let bytes = self.chunks.get_mut(&edge);
            if let Some(piece) = bytes.and_then(|b| b.get_mut(from as usize..to as usize)) {
                piece.fill(0);
            }
        }
        Ok(())
    }

    fn discard(&mut self, offset: u64, length: u64, durability: Durability) -> io::Result<()> {
        self.zero(offset, length, durability)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn resize(&mut self, capacity_bytes: u64) -> io::Result<()> {
        if capacity_bytes < self.capacity_bytes {
            let gone = self.capacity_bytes - capacity_bytes;
            self.zero(capacity_bytes, gone, Durability::Cached)?;
        }
        self.capacity_bytes = capacity_bytes;
        Ok(())
    }

    fn can_deallocate(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::{read_into, write_from};
    use super::*;

    #[test]
    fn a_disk_of_64_gib_takes_up_what_was_written() -> io::Result<()> {
        let mut disk = MemoryStorage::new(64 << 30);
        assert_eq!(disk.allocated_bytes(), 0);
        write_from(&mut disk, 40 << 30, &[7; 512], Durability::Cached)?;
        assert_eq!(disk.allocated_bytes(), CHUNK_BYTES);
        let mut back = [1; 1024];
        read_into(&mut disk, (40 << 30) - 512, &mut back)?;
        assert_eq!((&back[..512], &back[512..]), (&[0; 512][..], &[7; 512][..]));
        Ok(())
    }

    #[test]
    fn zeroing_frees_whole_chunks_and_clears_the_edges() -> io::Result<()> {
        let mut disk = MemoryStorage::new(4 * CHUNK_BYTES);
        write_from(&mut disk, 0, &vec![9; 4 * CHUNK_BYTES as usize], Durability::Cached)?;
        disk.zero(CHUNK_BYTES - 512, 2 * CHUNK_BYTES, Durability::Cached)?;
        assert_eq!(disk.allocated_bytes(), 3 * CHUNK_BYTES);
        let mut back = vec![1; 4 * CHUNK_BYTES as usize];
        read_into(&mut disk, 0, &mut back)?;
        let (start, end) = (CHUNK_BYTES as usize - 512, 3 * CHUNK_BYTES as usize - 512);
        assert!(back[start..end].iter().all(|&byte| byte == 0));
        assert!(back[..start].iter().chain(&back[end..]).all(|&byte| byte == 9));
        Ok(())
    }

    #[test]
    fn the_end_of_the_largest_disk_can_be_zeroed() -> io::Result<()> {
        let end = u64::MAX / 512 * 512;
        let mut disk = MemoryStorage::new(end);
        write_from(&mut disk, end - 1024, &[3; 1024], Durability::Cached)?;
        disk.zero(end - 512, 512, Durability::Cached)?;
        let mut back = [1; 1024];
        read_into(&mut disk, end - 1024, &mut back)?;
        assert_eq!((&back[..512], &back[512..]), (&[3; 512][..], &[0; 512][..]));
        Ok(())
    }

    #[test]
    fn shrinking_and_growing_shows_zeroes() -> io::Result<()> {
        let mut disk = MemoryStorage::new(CHUNK_BYTES);
        write_from(&mut disk, 4096, &[5; 512], Durability::Cached)?;
        disk.resize(4096)?;
        disk.resize(CHUNK_BYTES)?;
        let mut back = [1; 512];
        read_into(&mut disk, 4096, &mut back)?;
        assert_eq!(back, [0; 512]);
        Ok(())
    }
}
