//! loom models of the gate: whoever shuts it and waits sees everybody out, and is always woken.
#![cfg(loom)]
#![allow(clippy::unwrap_used)] // a test

use std::sync::Arc;
use std::time::Duration;

use loom::cell::UnsafeCell;
use loom::thread::{self, JoinHandle};
use shm::gate::Gate;

/// loom's waits never time out: one that nobody ends is a deadlock, which loom reports.
const FOR_EVER: Duration = Duration::MAX;

/// A gate, and what is used inside and taken away when nobody is: loom reports it if the two
/// happen at the same time.
#[derive(Clone)]
struct Place {
    gate: Arc<Gate>,
    thing: Arc<UnsafeCell<()>>,
}

impl Place {
    #[allow(clippy::arc_with_non_send_sync)] // threads of a model take turns
    fn open() -> Self {
        let gate = Gate::new("new".into());
        gate.open();
        Self { gate: Arc::new(gate), thing: Arc::new(UnsafeCell::new(())) }
    }

    /// Goes in, uses the thing, and comes out; so many times, as long as it is let in.
    fn user(&self, times: usize) -> JoinHandle<usize> {
        let Self { gate, thing } = self.clone();
        thread::spawn(move || {
            (0..times)
                .filter(|_| {
                    let entered = gate.enter().is_ok();
                    if entered {
                        thing.with(|_| ());
                        gate.leave();
                    }
                    entered
                })
                .count()
        })
    }

    fn shut_and_take_away(&self) {
        self.gate.shut("closed".into());
        while !self.gate.wait_empty(FOR_EVER) {}
        self.thing.with_mut(|_| ());
        assert_eq!(self.gate.enter(), Err("closed".into()));
    }
}

/// Three threads have too many interleavings; two switches that no wait asks for find what there is.
fn model_of_three(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(model);
}

#[test]
fn nobody_is_inside_once_it_was_shut_and_is_empty() {
    loom::model(|| {
        let place = Place::open();
        let user = place.user(2);
        place.shut_and_take_away();
        user.join().unwrap();
    });
}

#[test]
fn the_last_of_two_to_leave_wakes_who_waits() {
    model_of_three(|| {
        let place = Place::open();
        let users = [place.user(1), place.user(1)];
        place.shut_and_take_away();
        for user in users {
            user.join().unwrap();
        }
    });
}

#[test]
fn two_who_wait_are_both_woken() {
    model_of_three(|| {
        let place = Place::open();
        let user = place.user(1);
        let gate = Arc::clone(&place.gate);
        let other = thread::spawn(move || while !gate.wait_empty(FOR_EVER) {});
        place.shut_and_take_away();
        other.join().unwrap();
        user.join().unwrap();
    });
}

#[test]
fn it_is_not_shut_as_unused_if_somebody_was_let_in_since() {
    loom::model(|| {
        let place = Place::open();
        let user = place.user(1);
        let entries = place.gate.entries();
        let shut = place.gate.shut_if_unused_since(entries, "unused".into());
        if shut {
            place.thing.with_mut(|_| ());
        }
        let let_in = user.join().unwrap() == 1;
        assert!(!shut || entries == u64::from(let_in), "let in since, and shut all the same");
    });
}

#[test]
fn who_is_refused_is_told_why() {
    loom::model(|| {
        let place = Place::open();
        place.gate.shut("first".into());
        let gate = Arc::clone(&place.gate);
        let user = thread::spawn(move || gate.enter());
        place.gate.open();
        place.gate.shut("second".into());
        match user.join().unwrap() {
            Ok(()) => place.gate.leave(),
            Err(refusal) => assert!(refusal == "first" || refusal == "second", "{refusal}"),
        }
    });
}
