//! Both halves of one ring in turns, without Python: push, publish, use and reap, by format, by
//! batch and by kind of chain. `versus` sets the formats beside each other.

#![forbid(unsafe_code)]

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use vioblk_benches::{Format, Outcome, Shape};

fn batches(criterion: &mut Criterion, format: Format) -> Outcome<()> {
    let cases = [
        ("1 descriptor", Shape::One),
        ("3 descriptors", Shape::Three),
        ("3 descriptors, indirect", Shape::ThreeIndirect),
    ];
    for (kind, shape) in cases {
        let mut group = criterion.benchmark_group(format!("{}, {kind}", format.name()));
        for batch in [1, 64] {
            let mut pair = format.pair(shape, false)?;
            pair.on_one_thread(batch, batch)?;
            group.throughput(Throughput::Elements(batch as u64));
            group.bench_function(format!("push, publish, use, reap: batch of {batch}"), |timer| {
                // Where it fails there is no time to tell, and criterion says so.
                timer.iter_custom(|count| {
                    pair.on_one_thread(batch * count as usize, batch).unwrap_or_default()
                });
            });
        }
        group.finish();
    }
    Ok(())
}

fn idle(criterion: &mut Criterion, format: Format) -> Outcome<()> {
    let mut pair = format.pair(Shape::Three, false)?;
    let mut group = criterion.benchmark_group(format!("{}, nothing to do", format.name()));
    group.bench_function("arm and disarm", |timer| {
        timer.iter(|| black_box(pair.driver().arm_and_disarm()).is_ok());
    });
    group.bench_function("reap of an empty ring", |timer| {
        timer.iter(|| black_box(pair.driver().reap()).is_ok());
    });
    group.finish();
    Ok(())
}

fn main() -> Outcome<()> {
    if cfg!(debug_assertions) {
        return Err("a debug build: its timings mean nothing; run it by `cargo bench`".into());
    }
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600))
        .sample_size(30)
        .configure_from_args();
    for format in Format::ALL {
        batches(&mut criterion, format)?;
        idle(&mut criterion, format)?;
    }
    criterion.final_summary();
    Ok(())
}
