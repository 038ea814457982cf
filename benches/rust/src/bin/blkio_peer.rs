//! Random I/O through the crate `blkio`, libblkio's Rust core, for `benches.peers`.
//!
//! `blkio_peer SOCKET [NAME=VALUE]...` connects, prints `ready`, and answers one line for each line
//! that it reads, until its input ends:
//!
//! - `run REQUESTS`: does so many, with `depth` of them in flight as long as there are so many
//!   left; the answer is the seconds that it took.
//! - `verify REQUESTS`: so many reads, of which each 64-bit word must be its own offset on the
//!   disk; the answer is `verified`.
//!
//! Names are those of [`Settings`].

#![deny(unsafe_code)]

use std::fmt::Display;
use std::io::{BufRead, Write, stdin, stdout};
use std::mem::MaybeUninit;
use std::str::FromStr;
use std::time::Instant;

use blkio::{Blkio, Blkioq, Completion, MemoryRegion, ReqFlags};
use vioblk_benches::Outcome;

/// Of the region that holds all blocks.
const PAGE_BYTES: usize = 4096;

/// What one process measures.
#[derive(Clone, Copy)]
struct Settings {
    /// Bytes of each request.
    block: usize,
    /// Requests in flight.
    depth: usize,
    /// `poll`: looks at the ring without end; else sleeps until the device signals the completion
    /// descriptor, which `blkio` has signalled only while it sleeps.
    poll: bool,
    write: bool,
    /// Descriptors of the ring, each request taking three.
    queue_size: usize,
    /// Completions for which each call waits.
    min: usize,
    seed: u64,
}

impl Settings {
    fn parse(words: impl Iterator<Item = String>) -> Outcome<Self> {
        let mut settings = Self {
            block: 4096,
            depth: 32,
            poll: false,
            write: false,
            queue_size: 256,
            min: 1,
            seed: 7,
        };
        for word in words {
            let (name, value) = word.split_once('=').ok_or_else(|| bad("a setting", &word))?;
            match name {
                "block" => settings.block = parse(name, value)?,
                "depth" => settings.depth = parse(name, value)?,
                "poll" => settings.poll = parse(name, value)?,
                "write" => settings.write = parse(name, value)?,
                "queue_size" => settings.queue_size = parse(name, value)?,
                "min" => settings.min = parse(name, value)?,
                "seed" => settings.seed = parse(name, value)?,
                _ => return Err(bad("a setting", name)),
            }
        }
        if settings.depth == 0
            || settings.min > settings.depth
            || !settings.block.is_multiple_of(512)
        {
            return Err("depth, min and block do not go together".into());
        }
        if settings.depth * 3 > settings.queue_size {
            return Err("the ring does not hold depth requests of three descriptors".into());
        }
        Ok(settings)
    }
}

fn parse<T: FromStr<Err: Display>>(name: &str, value: &str) -> Outcome<T> {
    value.parse().map_err(|error| format!("{name}={value}: {error}").into())
}

fn bad(what: &str, word: &str) -> vioblk_benches::Failure {
    format!("{word:?} is not {what}").into()
}

/// A disk of `blkio` with one queue, and a block of memory for each request in flight.
struct Peer {
    queue: Blkioq,
    blocks: MemoryRegion,
    /// Of the request that is in flight for each block.
    offsets: Vec<u64>,
    completions: Vec<MaybeUninit<Completion>>,
    block_count: u64,
    chance: u64,
    settings: Settings,
    /// The connection, which must outlive the queue.
    _disk: Blkio,
}

impl Peer {
    fn connect(path: &str, settings: Settings) -> Outcome<Self> {
        let mut disk = Blkio::new("virtio-blk-vhost-user")?;
        disk.set_str("path", path)?;
        disk.connect()?;
        disk.set_i32("num-queues", i32::from(!settings.poll))?;
        disk.set_i32("num-poll-queues", i32::from(settings.poll))?;
        disk.set_i32("queue-size", i32::try_from(settings.queue_size)?)?;
        let block_count = disk.get_u64("capacity")? / settings.block as u64;
        let mut started = disk.start()?;
        let queues = if settings.poll { &mut started.poll_queues } else { &mut started.queues };
        let queue = queues.pop().ok_or("blkio made no queue")?;
        let length = (settings.depth * settings.block).next_multiple_of(PAGE_BYTES);
        let blocks = disk.alloc_mem_region(length)?;
        disk.map_mem_region(&blocks)?;
        if block_count == 0 {
            return Err("the disk is smaller than a block".into());
        }
        Ok(Self {
            queue,
            blocks,
            offsets: vec![0; settings.depth],
            completions: (0..settings.depth).map(|_| MaybeUninit::uninit()).collect(),
            block_count,
            chance: settings.seed | 1,
            settings,
            _disk: disk,
        })
    }

    /// The next block of the disk by chance (xorshift, scaled without a division).
    #[inline]
    fn next_offset(&mut self) -> u64 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        let block = (u128::from(self.chance) * u128::from(self.block_count)) >> 64;
        block as u64 * self.settings.block as u64
    }

    #[inline]
    fn submit(&mut self, slot: usize) {
        let offset = self.next_offset();
        self.offsets[slot] = offset;
        let Settings { block, write, .. } = self.settings;
        let memory = (self.blocks.addr + slot * block) as *mut u8;
        if write {
            self.queue.write(offset, memory, block, slot, ReqFlags::empty());
        } else {
            self.queue.read(offset, memory, block, slot, ReqFlags::empty());
        }
    }

    /// Do so many requests, and look at each block that came if `check`.
    #[inline]
    fn run(&mut self, total: usize, check: bool) -> Outcome<()> {
        let Settings { depth, min, .. } = self.settings;
        let mut submitted = depth.min(total);
        for slot in 0..submitted {
            self.submit(slot);
        }
        let mut completed = 0;
        while completed < total {
            let min = min.min(submitted - completed);
            let count = self.queue.do_io(&mut self.completions, min, None, None)?;
            for n in 0..count {
                let (slot, result) = completion(&self.completions[n]);
                if result != 0 {
                    return Err(format!("a request failed: {result}").into());
                }
                if check {
                    self.check(slot)?;
                }
                if submitted < total {
                    submitted += 1;
                    self.submit(slot);
                }
            }
            completed += count;
        }
        Ok(())
    }

    fn check(&self, slot: usize) -> Outcome<()> {
        let offset = self.offsets[slot];
        let block = block(&self.blocks, slot, self.settings.block);
        let expected = (offset..).step_by(8).map(u64::to_le_bytes);
        if block.chunks_exact(8).zip(expected).any(|(found, expected)| found != expected) {
            return Err(format!("the block at {offset} holds something else").into());
        }
        Ok(())
    }

    fn obey(&mut self, line: &str) -> Outcome<String> {
        match line.split_once(' ') {
            Some(("run", requests)) => {
                let start = Instant::now();
                self.run(parse("run", requests)?, false)?;
                Ok(format!("{:.9}", start.elapsed().as_secs_f64()))
            }
            Some(("verify", requests)) => {
                self.run(parse("verify", requests)?, true)?;
                Ok("verified".to_owned())
            }
            _ => Err(bad("a command", line)),
        }
    }
}

/// The request's slot, and 0 or an error's negative number.
#[allow(unsafe_code)]
#[inline]
fn completion(completion: &MaybeUninit<Completion>) -> (usize, i32) {
    // SAFETY: `do_io` has initialized as many as it said, and only those are looked at.
    let completion = unsafe { completion.assume_init_ref() };
    (completion.user_data, completion.ret)
}

/// The memory of a slot, which has been read into.
#[allow(unsafe_code)]
fn block(blocks: &MemoryRegion, slot: usize, length: usize) -> &[u8] {
    let start = (blocks.addr + slot * length) as *const u8;
    // SAFETY: the region is mapped as long as the disk lives, `slot` is below the depth it was made
    // for, and the request of this slot has completed and no other been submitted, so that nobody
    // writes to it. No shape of bytes is invalid.
    unsafe { std::slice::from_raw_parts(start, length) }
}

fn main() -> Outcome<()> {
    if cfg!(debug_assertions) {
        return Err("a debug build: its timings mean nothing; build it with --release".into());
    }
    let mut words = std::env::args().skip(1);
    let path = words.next().ok_or("usage: blkio_peer SOCKET [NAME=VALUE]...")?;
    let mut peer = Peer::connect(&path, Settings::parse(words)?)?;
    answer("ready")?;
    for line in stdin().lock().lines() {
        answer(&peer.obey(line?.trim())?)?;
    }
    Ok(())
}

fn answer(line: &str) -> Outcome<()> {
    let mut out = stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}
