//! One pass over the queues, and what the rest of the device may ask of them.

mod lane;
mod wires;

use shm::DmaSpace;

use crate::address_map::AddressMap;
use crate::block::Disk;
use crate::counters::Counters;
use crate::registers::QueueSetup;
use crate::ring::either::EitherRing;
use crate::ring::{Chain, RingFeatures, Violation};

use lane::{Lane, Pass};
pub(crate) use wires::{Notifier, Wires};

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
        lane.map_or(Ok(()), |lane| lane.judge_announced(announced))
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
            lane.hear_kicks(index, count, wires);
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
