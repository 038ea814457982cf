//! Rings of every format, and of other crates, beside each other: one line of JSON for each, with
//! the nanoseconds per request of every round. `python -m benches.versus` makes figures of them.
//!
//! A round measures all of them back to back, the next one in the opposite order.

#![forbid(unsafe_code)]

use std::time::Duration;

use vioblk_benches::{
    Duo, Format, Outcome, QUEUE_SIZE, Shape, Subject, virtio_driver_packed, virtio_driver_split,
    virtio_drivers_split, warm_up,
};

const ROUNDS: usize = 101;
const WARM_UP_ROUNDS: usize = 2;

/// What all subjects are measured at.
struct Case {
    threads: usize,
    shape: Shape,
    batch: usize,
    /// Whether notifications are suppressed by events; else by flags.
    event_idx: bool,
}

impl Case {
    /// Some tenths of a millisecond: long beside the clock, short beside a processor's time slice.
    fn requests(&self) -> usize {
        match (self.threads, self.batch) {
            (1, _) => 12_800,
            (_, 1) => 1_600,
            _ => 9_600,
        }
    }

    /// Nanoseconds per request of one subject, which is made for it: each round has other pages,
    /// so that none is favoured by where it lies.
    fn measure(&self, make: Make, duo: Option<&Duo>) -> Outcome<f64> {
        let mut subject = make(self.shape)?;
        let (total, batch) = (self.requests(), self.batch);
        let took: Duration = if let Some(duo) = duo {
            subject.on_two_threads(duo, total, batch)?
        } else {
            subject.on_one_thread(warm_up(total, batch), batch)?;
            subject.on_one_thread(total, batch)?
        };
        Ok(took.as_secs_f64() * 1e9 / total as f64)
    }

    fn run(&self, duo: Option<&Duo>, rounds: usize) -> Outcome<()> {
        let subjects = subjects(self.shape, self.event_idx);
        let mut samples = vec![Vec::with_capacity(rounds); subjects.len()];
        for round in 0..WARM_UP_ROUNDS + rounds {
            let mut order: Vec<usize> = (0..subjects.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for index in order {
                let ns = self.measure(subjects[index].1, duo)?;
                if round >= WARM_UP_ROUNDS {
                    samples[index].push(ns);
                }
            }
        }
        for ((name, _), samples) in subjects.iter().zip(samples) {
            println!("{}", self.line(name, &samples));
        }
        Ok(())
    }

    fn line(&self, name: &str, samples: &[f64]) -> String {
        let Self { threads, shape, batch, event_idx } = self;
        let samples: Vec<String> = samples.iter().map(|ns| format!("{ns:.3}")).collect();
        format!(
            r#"{{"subject":"{name}","threads":{threads},"descriptors":{},"indirect":{},"batch":{batch},"event_idx":{event_idx},"queue_size":{QUEUE_SIZE},"ns":[{}]}}"#,
            shape.descriptors(),
            shape.table_size() > 0,
            samples.join(",")
        )
    }
}

/// Makes a subject for requests of a shape.
type Make = fn(Shape) -> Outcome<Box<dyn Subject>>;

fn subjects(shape: Shape, event_idx: bool) -> Vec<(&'static str, Make)> {
    if event_idx {
        return vec![
            ("split", |shape| Format::Split.pair(shape, true)),
            ("virtio-driver", |shape| virtio_driver_split(shape, true)),
        ];
    }
    let mut all: Vec<(&'static str, Make)> = vec![
        ("split", |shape| Format::Split.pair(shape, false)),
        ("packed", |shape| Format::Packed.pair(shape, false)),
        ("split-in-order", |shape| Format::SplitInOrder.pair(shape, false)),
        ("packed-in-order", |shape| Format::PackedInOrder.pair(shape, false)),
    ];
    if shape != Shape::ThreeIndirect {
        all.insert(0, ("virtio-drivers", virtio_drivers_split));
        all.insert(2, ("virtio-driver", |shape| virtio_driver_split(shape, false)));
    }
    if shape == Shape::Three {
        // With one descriptor it leaves NEXT set.
        all.push(("virtio-driver-packed", virtio_driver_packed));
    }
    all
}

fn main() -> Outcome<()> {
    if cfg!(debug_assertions) {
        return Err("a debug build: its timings mean nothing; run it by `cargo bench`".into());
    }
    let rounds =
        std::env::var("VIOBLK_BENCH_ROUNDS").map_or(Ok(ROUNDS), |rounds| rounds.parse())?;
    for threads in [1, 2] {
        let duo = if threads == 1 { None } else { Some(Duo::new()?) };
        for shape in [Shape::One, Shape::Three, Shape::ThreeIndirect] {
            for batch in [1, 64] {
                Case { threads, shape, batch, event_idx: false }.run(duo.as_ref(), rounds)?;
                if shape != Shape::ThreeIndirect {
                    Case { threads, shape, batch, event_idx: true }.run(duo.as_ref(), rounds)?;
                }
            }
        }
    }
    Ok(())
}
