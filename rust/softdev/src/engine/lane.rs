//! One queue at work: chains in, requests carried out, used elements and notifications out; with
//! the faults that strike at completions.

use std::collections::VecDeque;

use crate::address_map::AddressMap;
use crate::block::{Disk, Twist};
use crate::counters::Counters;
use crate::faults::{Fault, Moment, Strike};
use crate::ring::either::EitherRing;
use crate::ring::{Chain, Completion, Violation};

use super::Wires;

/// Chains that are carried out before the used index is published: enough to make the publish and
/// the notification cheap, few enough that a driver can refill while the rest is carried out.
const PUBLISH_EVERY: u16 = 64;

/// A wrong status that no specification defines.
const GARBAGE_STATUS: u8 = 0xA5;

/// A queue that is being served.
pub(super) struct Lane {
    ring: EitherRing,
    /// Chains that were found and not yet taken.
    waiting: u16,
    /// Whether a chain that is held back holds back all behind it (IN_ORDER).
    in_order: bool,
    /// What faults hold back, in the order in which it became available.
    held: VecDeque<Held>,
    /// The id that was given back last.
    last_id: Option<u32>,
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

/// What a lane needs for one pass.
pub(super) struct Pass<'a> {
    pub(super) map: &'a mut AddressMap,
    pub(super) disk: &'a mut Disk,
    pub(super) chain: &'a mut Chain,
    pub(super) wires: &'a Wires,
    pub(super) tally: Counters,
}

impl Lane {
    pub(super) fn new(ring: EitherRing, in_order: bool) -> Self {
        Self {
            ring,
            waiting: 0,
            in_order,
            held: VecDeque::new(),
            last_id: None,
            deaf: false,
            kicked: false,
            kick_owed: false,
            owed_kicks: 0,
        }
    }

    pub(super) fn arm(&mut self) -> bool {
        self.kicked = false;
        self.ring.arm() && !self.deaf
    }

    #[inline]
    pub(super) fn has_work(&self) -> bool {
        (self.waiting > 0 || self.ring.pending()) && !self.deaf
    }

    /// If there are chains, decline kicks for as long as they keep coming. Not while something is
    /// delayed, as it waits for a kick.
    pub(super) fn note_work(&mut self) {
        if !self.has_work() {
            return;
        }
        self.kick_owed = self.ring.is_armed() && !self.kicked;
        if !self.awaits_kick() {
            self.ring.disarm();
        }
    }

    /// Whether anything is held back that the next kick brings.
    pub(super) fn awaits_kick(&self) -> bool {
        let is_delayed = |held: &Held| matches!(held, Held::Delayed(_));
        if self.in_order {
            self.held.front().is_some_and(is_delayed)
        } else {
            self.held.iter().any(is_delayed)
        }
    }

    /// Give back what is delayed; in order, what stands before a chain that is kept.
    pub(super) fn release(&mut self, index: usize, wires: &Wires) {
        let mut tally = Counters::default();
        let mut barred = false;
        // Once around, so that faults still see what comes later, and what stays.
        for _ in 0..self.held.len() {
            match self.held.pop_front() {
                Some(Held::Delayed(outcome)) if !barred => self.give_back(outcome, &mut tally),
                stays => {
                    barred = self.in_order;
                    self.held.extend(stays);
                }
            }
        }
        self.finish(index, wires, &mut tally);
    }

    pub(super) fn serve(&mut self, pass: &mut Pass<'_>, limit: usize) -> Result<usize, Violation> {
        if self.deaf {
            return Ok(0);
        }
        let fresh = self.ring.find(self.waiting)?;
        if fresh > 0 {
            self.waiting += fresh;
            pass.tally.batches = 1;
            pass.tally.largest_batch = fresh.into();
            pass.tally.most_outstanding = u64::from(self.ring.held()) + u64::from(self.waiting);
        }
        let count = limit.min(self.waiting.min(PUBLISH_EVERY).into());
        for served in 0..count {
            if self.deaf || !pass.wires.is_live() {
                return Ok(served);
            }
            if !self.ring.take(pass.map, pass.chain)? {
                // On a packed ring a driver can take back what was counted.
                self.waiting = 0;
                return Ok(served);
            }
            self.waiting -= 1;
            pass.tally.chains += 1;
            pass.tally.segments += u64::from(pass.chain.descriptor_count);
            pass.tally.indirect_chains += u64::from(pass.chain.indirect);
            let longest = &mut pass.tally.largest_chain;
            *longest = (*longest).max(pass.chain.descriptor_count.into());
            match pass.wires.faults.strike(Moment::Completion) {
                None if self.held.is_empty() => {
                    let done = answer(pass, Twist::None)?;
                    self.complete(done);
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
                return self.hold(Held::Kept(pass.chain.head));
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
            self.hold(Held::Delayed(outcome))?;
            self.owed_kicks = self.kick_owed.into();
        } else if self.in_order && !self.held.is_empty() {
            self.hold(Held::Delayed(outcome))?;
        } else {
            self.give_back(outcome, &mut pass.tally);
        }
        Ok(())
    }

    /// Each that is held back is outstanding, so a driver that keeps the rules has no more of them
    /// than descriptors. A split ring by itself would not notice: it has taken them all.
    fn hold(&mut self, held: Held) -> Result<(), Violation> {
        let size = self.ring.size();
        if self.held.len() == usize::from(size) {
            return Err(Violation::TooManyHeldBack { size });
        }
        self.held.push_back(held);
        Ok(())
    }

    /// `count` kicks have come; a new one ends delays.
    pub(super) fn hear_kicks(&mut self, index: usize, count: u64, wires: &Wires) {
        self.kicked = true;
        let news = count > self.owed_kicks;
        self.owed_kicks = self.owed_kicks.saturating_sub(count);
        if news {
            self.release(index, wires);
        }
    }

    /// Whether the driver may announce `announced` as its next available position. Else where it
    /// is now, as it stands in memory.
    pub(super) fn judge_announced(&self, announced: u16) -> Result<(), u16> {
        self.ring.judge_announced(announced)
    }

    #[inline]
    fn complete(&mut self, done: Completion) {
        self.last_id = Some(done.element.id);
        self.ring.complete(done);
    }

    /// Give a chain back as it is, or with the fault that strikes.
    fn give_back(&mut self, outcome: Outcome, tally: &mut Counters) {
        let Outcome { done, strike } = outcome;
        tally.completions += 1;
        match strike {
            Some(strike) if strike.fault.alters_element() => self.give_back_badly(done, strike),
            _ => self.complete(done),
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
            Fault::IdBefore => match self.last_id {
                Some(id) => element.id = id,
                None => again = true,
            },
            Fault::IdAhead => {
                if let Some(id) = self.ring.last_waiting() {
                    element.id = id.into();
                    self.deaf = true;
                }
            }
            Fault::HugeLength if value == 0 => element.len = u32::MAX,
            Fault::HugeLength | Fault::ShortLength => element.len = value_32,
            _ => {}
        }
        if fault == Fault::IndexBehind {
            return self.ring.put_used_in_place(element);
        }
        self.last_id = Some(done.element.id);
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
    pub(super) fn finish(&mut self, index: usize, wires: &Wires, tally: &mut Counters) {
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
