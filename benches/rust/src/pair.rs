//! A driver and its device, and the work that is timed.

use std::time::{Duration, Instant};

use crate::device::{Answers, Device, NOTIFICATIONS_MAX};
use crate::{Driver, Duo, Outcome, QUEUE_SIZE, Shape};

/// Nothing takes this long unless a request was lost.
const LOST: Duration = Duration::from_secs(20);
/// With a thread for each side, a batch is submitted in steps of so many, for the device to begin
/// while the rest is put together. The crates that make each chain available by itself do it anyhow.
const STEP: usize = 16;
/// Looks at the ring between two looks at the clock.
const LOOKS: u32 = 1 << 20;

/// Something to measure. Each call carries `total` requests out in batches of `batch`, which
/// divides it, and says how long it took.
pub trait Subject {
    /// The driver's half alone.
    fn driver(&mut self) -> &mut dyn Driver;

    /// Driver and device in turns: submit a batch, serve it, reap it.
    fn on_one_thread(&mut self, total: usize, batch: usize) -> Outcome<Duration>;

    /// The device on the other thread of `duo`; both look for work without pause. In batches of 1
    /// the driver waits for each request before the next; else it keeps the ring filled: it submits
    /// up to a batch, as far as it fits, then takes back what was used, and so on.
    fn on_two_threads(&mut self, duo: &Duo, total: usize, batch: usize) -> Outcome<Duration>;
}

/// In cache lines of its own (processors fetch them in pairs), or the two threads would fight for
/// what is none of the ring.
#[derive(Debug)]
#[repr(align(128))]
struct Apart<T>(T);

/// A driver and its device.
#[derive(Debug)]
pub struct Pair<D, H> {
    driver: Apart<D>,
    device: Apart<Device<H>>,
    shape: Shape,
    kicks: usize,
}

impl<D: Driver, H: Answers> Pair<D, H> {
    /// The two halves of one ring.
    pub fn new(driver: D, device: Device<H>, shape: Shape) -> Self {
        Self { driver: Apart(driver), device: Apart(device), shape, kicks: 0 }
    }
}

impl<D: Driver, H: Answers> Subject for Pair<D, H> {
    fn driver(&mut self) -> &mut dyn Driver {
        &mut self.driver.0
    }

    fn on_one_thread(&mut self, total: usize, batch: usize) -> Outcome<Duration> {
        let started = Instant::now();
        for _ in 0..total / batch {
            submit(&mut self.driver.0, batch, &mut self.kicks)?;
            let served = self.device.0.serve()?;
            let reaped = self.driver.0.reap()?;
            if (served, reaped) != (batch, batch) {
                return Err(format!("of {batch}, {served} were served, {reaped} reaped").into());
            }
        }
        Ok(started.elapsed())
    }

    fn on_two_threads(&mut self, duo: &Duo, total: usize, batch: usize) -> Outcome<Duration> {
        let Self { driver: Apart(driver), device: Apart(device), shape, kicks } = self;
        let in_flight_max = if batch == 1 { 1 } else { QUEUE_SIZE / shape.slots() };
        duo.run(
            |stop| device.serve_until(stop),
            || {
                // Both threads are to be at it, and their caches warm.
                exchange(driver, warm_up(total, batch), batch, in_flight_max, kicks)?;
                exchange(driver, total, batch, in_flight_max, kicks)
            },
        )
    }
}

/// An eighth of the work, which is not timed.
pub fn warm_up(total: usize, batch: usize) -> usize {
    total.div_ceil(8).next_multiple_of(batch)
}

fn submit(driver: &mut impl Driver, batch: usize, kicks: &mut usize) -> Outcome<()> {
    *kicks += usize::from(driver.submit(batch)?);
    if *kicks > NOTIFICATIONS_MAX {
        return Err("the device asked for notifications".into());
    }
    Ok(())
}

fn exchange(
    driver: &mut impl Driver,
    total: usize,
    batch: usize,
    in_flight_max: usize,
    kicks: &mut usize,
) -> Outcome<Duration> {
    let (mut submitted, mut completed, mut looks) = (0, 0, 0_u32);
    let started = Instant::now();
    while completed < total {
        let step = batch.min(STEP).min(total - submitted);
        let mut room = batch.min(in_flight_max - (submitted - completed)).min(total - submitted);
        while step > 0 && room >= step {
            submit(driver, step, kicks)?;
            submitted += step;
            room -= step;
        }
        let reaped = driver.reap()?;
        completed += reaped;
        if reaped == 0 {
            std::hint::spin_loop();
            looks = looks.wrapping_add(1);
            if looks.is_multiple_of(LOOKS) && started.elapsed() > LOST {
                return Err(format!("{completed} of {submitted} requests came back").into());
            }
        }
    }
    Ok(started.elapsed())
}
