//! The driver's half of the split ring alone: push, publish and reap, by batch and by kind of
//! chain. The time of a batch includes that of the least possible device (`Echo`).

#![forbid(unsafe_code)]

use std::error::Error;
use std::hint::black_box;

use criterion::{Criterion, Throughput};
use vioblk_benches::Bench;
use vring::Ring;

const QUEUE_SIZE: usize = 256;
const DESCRIPTORS: usize = 3;

fn batches(criterion: &mut Criterion) -> Result<(), Box<dyn Error>> {
    for (kind, table_size) in [("direct", 0), ("indirect", DESCRIPTORS)] {
        let mut group = criterion.benchmark_group(format!("three-descriptor requests, {kind}"));
        for count in [1, 16, 64] {
            let mut bench = Bench::new(QUEUE_SIZE, table_size)?;
            if bench.run(count)? != count {
                return Err("the ring gave back another number of requests".into());
            }
            group.throughput(Throughput::Elements(count as u64));
            group.bench_function(format!("push, publish, use, reap: batch of {count}"), |timer| {
                timer.iter(|| black_box(bench.run(black_box(count))).is_ok());
            });
        }
        group.finish();
    }
    Ok(())
}

fn suppression(criterion: &mut Criterion) -> Result<(), Box<dyn Error>> {
    let mut bench = Bench::new(QUEUE_SIZE, 0)?;
    criterion.bench_function("arm and disarm", |timer| {
        timer.iter(|| {
            let more = black_box(bench.ring.arm());
            bench.ring.disarm();
            more.is_ok()
        });
    });
    criterion.bench_function("reap of an empty ring", |timer| {
        timer.iter(|| black_box(bench.ring.reap(usize::MAX, |_| ())).is_ok());
    });
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    if cfg!(debug_assertions) {
        return Err("a debug build: its timings mean nothing; run it by `cargo bench`".into());
    }
    let mut criterion = Criterion::default().configure_from_args();
    batches(&mut criterion)?;
    suppression(&mut criterion)?;
    criterion.final_summary();
    Ok(())
}
