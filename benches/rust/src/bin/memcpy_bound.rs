//! How fast one processor copies blocks that lie at random in memory: the physical bound of a disk
//! in memory, for `benches.peers`.
//!
//! `memcpy_bound BLOCK DISK_BYTES DEPTH` allocates so much memory and a block for each of `DEPTH`
//! requests, prints `ready`, and answers each line `run BLOCKS` with the seconds that it took to
//! copy so many, until its input ends.

#![forbid(unsafe_code)]

use std::hint::black_box;
use std::io::{BufRead, Write, stdin, stdout};
use std::time::Instant;

use vioblk_benches::Outcome;

/// How many offsets are drawn beforehand.
const OFFSETS: usize = 1 << 16;

fn main() -> Outcome<()> {
    if cfg!(debug_assertions) {
        return Err("a debug build: its timings mean nothing; build it with --release".into());
    }
    let words: Vec<usize> =
        std::env::args().skip(1).map(|word| word.parse()).collect::<Result<_, _>>()?;
    let [block, disk_bytes, depth] = words[..] else {
        return Err("usage: memcpy_bound BLOCK DISK_BYTES DEPTH".into());
    };
    // Not zeroes: those could all be one page of the system's.
    let disk: Vec<u8> = (0..disk_bytes).map(|n| (n / 8) as u8).collect();
    let mut blocks = vec![1u8; block * depth];
    let offsets = offsets(disk_bytes / block, block);
    answer("ready")?;
    for line in stdin().lock().lines() {
        let line = line?;
        let total: usize = line.strip_prefix("run ").ok_or("not a command")?.trim().parse()?;
        let start = Instant::now();
        copy(&disk, &mut blocks, block, offsets.iter().cycle().take(total));
        answer(&format!("{:.9}", start.elapsed().as_secs_f64()))?;
    }
    Ok(())
}

/// Blocks of the disk by chance (xorshift).
fn offsets(block_count: usize, block: usize) -> Vec<usize> {
    let mut chance = 7u64;
    let mut next = || {
        chance ^= chance << 13;
        chance ^= chance >> 7;
        chance ^= chance << 17;
        (chance % block_count as u64) as usize * block
    };
    (0..OFFSETS).map(|_| next()).collect()
}

fn copy<'a>(
    disk: &[u8],
    blocks: &mut [u8],
    block: usize,
    mut offsets: impl Iterator<Item = &'a usize>,
) {
    loop {
        for target in blocks.chunks_exact_mut(block) {
            let Some(offset) = offsets.next() else {
                return;
            };
            target.copy_from_slice(&disk[*offset..*offset + block]);
            black_box(&mut *target);
        }
    }
}

fn answer(line: &str) -> Outcome<()> {
    let mut out = stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}
