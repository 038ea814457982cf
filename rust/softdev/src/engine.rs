//! One pass over the queues: chains in, requests carried out, used elements and notifications out.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Acquire};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use shm::{DmaSpace, EventFd};

use crate::address_map::AddressMap;
use crate::block::{Disk, Twist};
use crate::counters::Counters;
use crate::faults::{Fault, Faults, Moment, Strike};
use crate::registers::QueueSetup;
use crate::ring::either::EitherRing;
use crate::ring::{Chain, Completion, RingFeatures, Violation};

/// Chains that are carried out before the used index is published: enough to make the publish and
/// the notification cheap, few enough that a driver can refill while the rest is carried out.
const PUBLISH_EVERY: u16 = 64;

/// A wrong status that no specification defines.
const GARBAGE_STATUS: u8 = 0xA5;

/// How a transport passes notifications on, where it is not by an eventfd for each kind. Called
/// with the engine locked, so that it must wait for nobody.
pub(crate) trait Notifier: Send + Sync + fmt::Debug {
    /// Queue `queue` has used buffers.
    fn used_buffers(&self, queue: usize);
    /// The configuration has changed, or DEVICE_NEEDS_RESET is set.
    fn config_changed(&self);
}

/// What the engine shares with the rest of the device without being locked.
#[derive(Debug)]
pub(crate) struct Wires {
    /// Whether queues may be touched. Cleared to stop the engine in the middle of a pass.
    pub(crate) live: AtomicBool,
    /// Whether memory can be reached at all: a PCI function is told so.
    pub(crate) bus_master: AtomicBool,
    /// Takes the place of the eventfds.
    pub(crate) notifier: OnceLock<Arc<dyn Notifier>>,
    pub(crate) faults: Faults,
    counters: Mutex<Counters>,
    /// By queue: what the driver signals.
    pub(crate) kicks: Vec<EventFd>,
    /// By queue: what the device signals.
    pub(crate) interrupts: Vec<EventFd>,
}

impl Wires {
    pub(crate) fn new(queue_count: u16) -> std::io::Result<Self> {
        let events = || (0..queue_count).map(|_| EventFd::new()).collect::<Result<Vec<_>, _>>();
        Ok(Self {
            live: AtomicBool::new(false),
            bus_master: AtomicBool::new(true),
            notifier: OnceLock::new(),
            faults: Faults::default(),
            counters: Mutex::default(),
            kicks: events()?,
            interrupts: events()?,
        })
    }

    pub(crate) fn is_live(&self) -> bool {
        self.live.load(Acquire) && self.bus_master.load(Acquire)
    }

    pub(crate) fn counters(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Signal the driver that queue `index` has used buffers, rightly or not.
    pub(crate) fn interrupt(&self, index: usize) {
        let Some(event) = self.interrupts.get(index) else { return };
        self.counters().interrupts += 1;
        match self.notifier.get() {
            Some(notifier) => notifier.used_buffers(index),
            // Our own eventfd cannot fail, and if it did the driver would time out.
            None => drop(event.signal()),
        }
    }
}

/// A queue that is being served.
struct Lane {
    ring: EitherRing,
    /// Whether a chain that is held back holds back all behind it (IN_ORDER).
    in_order: bool,
    /// What faults hold back, in the order in which it became available.
    held: Vec<Held>,
    /// A fault makes the lane look at no chain any more.
    deaf: bool,
    /// Whether a kick has come since the driver was asked for one.
    kicked: bool,
    /// Whether the chains found last were seen before the kick that announces them.
    kick_owed: bool,
    /// Kicks that announce what is delayed, and so do not end the delay.
    owed_kicks: u64,
}

/// A chain that was taken and, by a fault, has not been given back.
enum Held {
    /// Until the next kick.
    Delayed(Outcome),
    /// For good: its head.
    Kept(u16),
}

impl Held {
    fn head(&self) -> u16 {
        match self {
            Self::Delayed(outcome) => outcome.done.element.id as u16,
            Self::Kept(head) => *head,
        }
    }
}

/// A chain that is done, and the fault with which it is given back.
struct Outcome {
    done: Completion,
    strike: Option<Strike>,
}

/// The part of the device that touches the driver's memory.
pub(crate) struct Engine {
    map: AddressMap,
    pub(crate) disk: Disk,
    lanes: Vec<Option<Lane>>,
    /// Reused from chain to chain.
    chain: Chain,
    /// Whether available rings are looked at without being told to, so that kicks can be declined.
    polls: bool,
}

impl Engine {
    pub(crate) fn new(space: DmaSpace, disk: Disk, polls: bool) -> Self {
        let (map, chain) = (AddressMap::new(space), Chain::default());
        Self { map, disk, lanes: Vec::new(), chain, polls }
    }

    /// Take over queues that the driver has set up.
    pub(crate) fn adopt(
        &mut self,
        queues: &[Option<QueueSetup>],
        features: RingFeatures,
    ) -> Result<(), Violation> {
        let map = &mut self.map;
        let mut lane = |setup: &QueueSetup| {
            let ring = EitherRing::new(setup, features, map)?;
            Ok(Lane::new(ring, features.in_order))
        };
        let lanes = queues.iter().map(|setup| setup.as_ref().map(&mut lane).transpose());
        self.lanes = lanes.collect::<Result<_, Violation>>()?;
        Ok(())
    }

    /// Take over queue `index` alone, which was reset and set up again.
    pub(crate) fn adopt_one(
        &mut self,
        index: usize,
        setup: &QueueSetup,
        features: RingFeatures,
    ) -> Result<(), Violation> {
        let ring = EitherRing::new(setup, features, &mut self.map)?;
        if let Some(lane) = self.lanes.get_mut(index) {
            *lane = Some(Lane::new(ring, features.in_order));
        }
        Ok(())
    }

    /// Stop serving queue `index`.
    pub(crate) fn retire(&mut self, index: usize) {
        if let Some(lane) = self.lanes.get_mut(index) {
            *lane = None;
        }
    }

    /// Whether the driver may announce `announced` as its next available position of queue
    /// `index`. Else where it is now, as it stands in memory.
    pub(crate) fn judge_announced(&self, index: usize, announced: u16) -> Result<(), u16> {
        let lane = self.lanes.get(index).and_then(Option::as_ref);
        lane.map_or(Ok(()), |lane| lane.ring.judge_announced(announced))
    }

    /// Forget all queues and let go of the driver's memory.
    pub(crate) fn forget(&mut self) {
        self.lanes.clear();
        self.map.forget();
    }

    /// One pass over all queues, up to `limit` chains; how many were taken.
    pub(crate) fn serve(&mut self, wires: &Wires, limit: usize) -> Result<usize, Violation> {
        let mut served = 0;
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            let Some(lane) = lane else {
                continue;
            };
            let mut pass = Pass {
                map: &mut self.map,
                disk: &mut self.disk,
                chain: &mut self.chain,
                wires,
                tally: Counters::default(),
            };
            if self.polls {
                lane.note_work();
            }
            let outcome = lane.serve(&mut pass, limit - served);
            let mut tally = pass.tally;
            lane.finish(index, wires, &mut tally);
            served += outcome?;
        }
        Ok(served)
    }

    /// Whether a look at the rings may be worthwhile though no kick has come.
    pub(crate) fn may_linger(&self) -> bool {
        self.lanes.iter().flatten().all(|lane| !lane.awaits_kick())
    }

    /// Whether any available index has moved, or a chain was left waiting.
    pub(crate) fn pending(&self) -> bool {
        self.lanes.iter().flatten().any(Lane::has_work)
    }

    /// Ask for kicks of all queues; whether chains are there already.
    pub(crate) fn arm(&mut self) -> bool {
        let mut pending = false;
        for lane in self.lanes.iter_mut().flatten() {
            pending |= lane.arm();
        }
        pending
    }

    /// `count` kicks of queue `index` have come; a new one ends delays.
    pub(crate) fn hear_kicks(&mut self, index: usize, count: u64, wires: &Wires) {
        if let Some(Some(lane)) = self.lanes.get_mut(index) {
            lane.kicked = true;
            let news = count > lane.owed_kicks;
            lane.owed_kicks = lane.owed_kicks.saturating_sub(count);
            if news {
                lane.release(index, wires);
            }
        }
    }

    /// Complete what a fault held back on any queue.
    pub(crate) fn release_all(&mut self, wires: &Wires) {
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            if let Some(lane) = lane {
                lane.release(index, wires);
            }
        }
    }
}

/// What a lane needs for one pass.
struct Pass<'a> {
    map: &'a mut AddressMap,
    disk: &'a mut Disk,
    chain: &'a mut Chain,
    wires: &'a Wires,
    tally: Counters,
}

impl Lane {
    fn new(ring: EitherRing, in_order: bool) -> Self {
        Self {
            ring,
            in_order,
            held: Vec::new(),
            deaf: false,
            kicked: false,
            kick_owed: false,
            owed_kicks: 0,
        }
    }

    fn arm(&mut self) -> bool {
        self.kicked = false;
        self.ring.arm() && !self.deaf
    }

    #[inline]
    fn has_work(&self) -> bool {
        (self.ring.waiting() > 0 || self.ring.pending()) && !self.deaf
    }

    /// If there are chains, decline kicks for as long as they keep coming. Not while something is
    /// delayed, as it waits for a kick.
    fn note_work(&mut self) {
        if !self.has_work() {
            return;
        }
        self.kick_owed = self.ring.is_armed() && !self.kicked;
        if !self.awaits_kick() {
            self.ring.disarm();
        }
    }

    /// Whether anything is held back that the next kick brings.
    fn awaits_kick(&self) -> bool {
        let is_delayed = |held: &Held| matches!(held, Held::Delayed(_));
        if self.in_order {
            self.held.first().is_some_and(is_delayed)
        } else {
            self.held.iter().any(is_delayed)
        }
    }

    /// Give back what is delayed; in order, what stands before a chain that is kept.
    fn release(&mut self, index: usize, wires: &Wires) {
        let mut tally = Counters::default();
        let mut barred = false;
        for held in std::mem::take(&mut self.held) {
            match held {
                Held::Delayed(outcome) if !barred => self.give_back(outcome, &mut tally),
                _ => {
                    barred = self.in_order;
                    self.held.push(held);
                }
            }
        }
        self.finish(index, wires, &mut tally);
    }

    fn serve(&mut self, pass: &mut Pass<'_>, limit: usize) -> Result<usize, Violation> {
        if self.deaf {
            return Ok(0);
        }
        let fresh = self.ring.poll()?;
        if fresh > 0 {
            pass.tally.batches = 1;
            pass.tally.largest_batch = fresh.into();
            pass.tally.most_outstanding = self.ring.outstanding().into();
        }
        let count = limit.min(self.ring.waiting().min(PUBLISH_EVERY).into());
        for served in 0..count {
            let stopped = self.deaf || !pass.wires.is_live();
            if stopped || !self.ring.take(pass.map, pass.chain)? {
                return Ok(served);
            }
            pass.tally.chains += 1;
            pass.tally.segments += u64::from(pass.chain.descriptor_count);
            pass.tally.indirect_chains += u64::from(pass.chain.indirect);
            let longest = &mut pass.tally.largest_chain;
            *longest = (*longest).max(pass.chain.descriptor_count.into());
            match pass.wires.faults.strike(Moment::Completion) {
                None if self.held.is_empty() => {
                    let done = answer(pass, Twist::None)?;
                    self.ring.complete(done);
                    pass.tally.completions += 1;
                }
                strike => self.complete_badly(pass, strike)?,
            }
        }
        Ok(count)
    }

    /// Carry out a request that a fault strikes, or that comes behind one that a fault holds back.
    fn complete_badly(
        &mut self,
        pass: &mut Pass<'_>,
        strike: Option<Strike>,
    ) -> Result<(), Violation> {
        let twist = match strike {
            Some(Strike { fault: Fault::Silence, .. }) => {
                self.held.push(Held::Kept(pass.chain.head));
                return Ok(());
            }
            Some(Strike { fault: Fault::Status, value }) => Twist::Refuse(value as u8),
            Some(Strike { fault: Fault::GarbageStatus, value: 0 }) => {
                Twist::Disguise(GARBAGE_STATUS)
            }
            Some(Strike { fault: Fault::GarbageStatus, value }) => Twist::Disguise(value as u8),
            _ => Twist::None,
        };
        let done = answer(pass, twist)?;
        let outcome = Outcome { done, strike };
        if matches!(strike, Some(Strike { fault: Fault::Delay, .. })) {
            self.held.push(Held::Delayed(outcome));
            self.owed_kicks = self.kick_owed.into();
        } else if self.in_order && !self.held.is_empty() {
            self.held.push(Held::Delayed(outcome));
        } else {
            self.give_back(outcome, &mut pass.tally);
        }
        Ok(())
    }

    /// Give a chain back as it is, or with the fault that strikes.
    fn give_back(&mut self, outcome: Outcome, tally: &mut Counters) {
        let Outcome { done, strike } = outcome;
        tally.completions += 1;
        match strike {
            Some(strike) if strike.fault.alters_element() => self.give_back_badly(done, strike),
            _ => self.ring.complete(done),
        }
    }

    fn give_back_badly(&mut self, done: Completion, strike: Strike) {
        let Strike { fault, value } = strike;
        let Completion { mut element, slots, .. } = done;
        let size = u32::from(self.ring.size());
        let value_32 = u32::try_from(value).unwrap_or(u32::MAX);
        let mut again = fault == Fault::IdTwice;
        match fault {
            Fault::IdOutOfRange => element.id = size.saturating_add(value_32),
            Fault::IdNotOutstanding => {
                let held = self.held.iter().map(Held::head);
                let held: Vec<u16> = held.chain([element.id as u16]).collect();
                match self.ring.not_outstanding(&held) {
                    Some(id) => element.id = id.into(),
                    // Every descriptor is an outstanding head; once returned, this one is not.
                    None => again = true,
                }
            }
            Fault::HugeLength if value == 0 => element.len = u32::MAX,
            Fault::HugeLength | Fault::ShortLength => element.len = value_32,
            _ => {}
        }
        self.ring.put_used(element, slots);
        if again {
            self.ring.put_used_again(element);
        }
        if fault == Fault::IndexAhead {
            let ahead = if value == 0 { u64::from(size) } else { value };
            self.ring.skip_used(u16::try_from(ahead).unwrap_or(u16::MAX), element.id);
        }
    }

    /// Show the driver what was completed, and notify it if it wants that. The counters come
    /// first, so that whoever sees a completion finds it counted.
    fn finish(&mut self, index: usize, wires: &Wires, tally: &mut Counters) {
        tally.used_elements = self.ring.take_element_count().into();
        if *tally != Counters::default() {
            wires.counters().merge(tally);
        }
        if !self.ring.has_unpublished() {
            return;
        }
        self.ring.publish();
        if !self.ring.wants_interrupt() {
            wires.counters().interrupts_suppressed += 1;
        } else if wires.faults.strike(Moment::Interrupt).is_none() {
            wires.interrupt(index);
        }
    }
}

#[inline]
fn answer(pass: &mut Pass<'_>, twist: Twist) -> Result<Completion, Violation> {
    let written = pass.disk.answer(pass.chain, pass.map, twist, &mut pass.tally)?;
    Ok(Completion::new(pass.chain, written))
}
