//! Who waits, and for what: interrupts, polling, and being woken.

use super::*;

#[test]
fn two_executors_each_get_their_own_statuses() {
    for (rig, device) in [Rig::new(), Rig::with_events(DEPTH)] {
        assert_two_executors_get_their_own_statuses(&rig, device);
    }
}

fn assert_two_executors_get_their_own_statuses(rig: &Rig, mut device: Device) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let served = scope.spawn(|| device.serve(&stop));
        let execute = move |first: u64| {
            for round in 0..100 {
                let start = first + round * 7;
                // From less than fits to several times as much.
                let sectors = start..start + 1 + round % 19;
                let execution = rig.begin(sectors.clone());
                assert_eq!(rig.finish(&execution), Ok(statuses_of(sectors)));
            }
        };
        let others = [scope.spawn(move || execute(0)), scope.spawn(move || execute(100_000))];
        let [(), ()] = others.map(join);
        stop.store(true, Relaxed);
        join(served);
    });
    assert_eq!(rig.queue.in_flight(), 0);
}

#[test]
fn who_waits_alone_asks_to_be_told_of_the_last_completion_of_his_batch() {
    let (rig, mut device) = Rig::with_events(DEPTH);
    let execution = rig.begin(0..3);
    assert_eq!(device.take(), [0, 1, 2]);
    thread::scope(|scope| {
        let finishing = scope.spawn(|| rig.finish(&execution));
        rig.until_asked_for(2);
        device.complete(1);
        device.complete(2);
        assert_eq!(join(finishing), Ok(statuses_of(0..3)));
    });
}

#[test]
fn who_has_more_than_fits_asks_to_be_told_when_a_part_has_come_back() {
    let (rig, mut device) = Rig::with_events(16);
    let execution = rig.begin(0..24);
    assert_eq!(device.take(), (0..16).collect::<Vec<_>>());
    thread::scope(|scope| {
        let finishing = scope.spawn(|| rig.finish(&execution));
        rig.until_asked_for(3);
        device.complete(4);
        // The place of those four was filled: the next part is awaited.
        rig.until_asked_for(7);
        assert_eq!(device.take(), (16..20).collect::<Vec<_>>());
        device.complete(4);
        // Nothing waits for room any more.
        rig.until_asked_for(23);
        assert_eq!(device.take(), (20..24).collect::<Vec<_>>());
        device.complete(16);
        assert_eq!(join(finishing), Ok(statuses_of(0..24)));
    });
}

#[test]
fn who_needs_the_next_completion_brings_the_interrupt_of_another_waiter_forward() {
    let (rig, mut device) = Rig::with_events(DEPTH);
    let batch = rig.begin(0..3);
    assert_eq!(device.take(), [0, 1, 2]);
    thread::scope(|scope| {
        let rig = &rig;
        let finishing = scope.spawn(|| rig.finish(&batch));
        rig.until_asked_for(2);
        rig.queue.submit_many(rig.reads([3])).unwrap();
        assert_eq!(device.take(), [3]);
        let waiting = scope
            .spawn(|| rig.queue.wait(Some(Instant::now() + LONG), || Ok::<(), QueueError>(())));
        rig.until_asked_for(0);
        device.complete(3);
        assert_eq!(join(finishing), Ok(statuses_of(0..3)));
        device.complete(1);
        assert_eq!(join(waiting), Ok(true));
    });
}

#[test]
fn an_event_loop_brings_the_interrupt_of_a_waiter_forward_and_both_are_told() {
    let (rig, mut device) = Rig::with_events(DEPTH);
    let batch = rig.begin(0..3);
    assert_eq!(device.take(), [0, 1, 2]);
    thread::scope(|scope| {
        let rig = &rig;
        let finishing = scope.spawn(|| rig.finish(&batch));
        rig.until_asked_for(2);
        assert_eq!(rig.queue.arm(), Ok(false));
        rig.until_asked_for(0);
        device.complete(1);
        rig.until_asked_for(1);
        device.complete(2);
        assert_eq!(join(finishing), Ok(statuses_of(0..3)));
    });
}

#[test]
fn an_abort_ends_every_wait_with_its_reason() {
    let (rig, mut device) = Rig::new();
    let executions = [rig.begin([1]), rig.begin([2])];
    rig.queue.submit_many(rig.reads([3])).unwrap();
    assert_eq!(device.take(), [1, 2, 3]);
    thread::scope(|scope| {
        let rig = &rig;
        let finishing = executions.each_ref().map(|one| scope.spawn(move || rig.finish(one)));
        let waiting = scope
            .spawn(|| rig.queue.wait(Some(Instant::now() + LONG), || Ok::<(), QueueError>(())));
        rig.until_armed();
        rig.queue.abort("given up".into());
        rig.queue.abort("and again".into());
        for thread in finishing {
            assert_eq!(join(thread), Err(QueueError::Gone("given up".into())));
        }
        // There is an error to tell, which the next reap does.
        assert_eq!(join(waiting), Ok(true));
    });
    let gone = Err(QueueError::Gone("given up".into()));
    assert_eq!(rig.queue.reap_many(8, |_| ()), gone);
    assert_eq!(rig.queue.submit_many(rig.reads([4])), gone);
    // What the device still completes is handed out all the same.
    device.complete(3);
    let mut tokens = Vec::new();
    assert_eq!(rig.queue.reap_many(8, |Completion { token, .. }| tokens.push(token)), Ok(1));
    assert_eq!((tokens, rig.queue.in_flight()), (vec![3], 0));
}

/// Two wait, one in epoll and the other for the one in epoll: each must be told without delay.
fn assert_wakes_at_once(end: impl Fn(&BlockQueue<SplitQueue>), expected: &QueueError) {
    // A wait that only ends with its tick calls it. On a busy machine the tick can come first.
    let prompt = (0..20).any(|_| {
        let (rig, mut device) = Rig::new();
        let executions = [rig.begin([1]), rig.begin([2])];
        assert_eq!(device.take(), [1, 2]);
        let ticks = AtomicUsize::new(0);
        thread::scope(|scope| {
            let (queue, ticks) = (&rig.queue, &ticks);
            let waiting = executions.each_ref().map(|execution| {
                scope.spawn(move || {
                    queue.finish(execution, Some(Instant::now() + LONG), || {
                        ticks.fetch_add(1, Relaxed);
                        Ok::<(), QueueError>(())
                    })
                })
            });
            rig.until_armed();
            end(queue);
            for thread in waiting {
                assert_eq!(join(thread).as_ref(), Err(expected));
            }
        });
        ticks.load(Relaxed) == 0
    });
    assert!(prompt, "nobody was woken");
}

#[test]
fn an_abort_wakes_those_who_wait_at_once() {
    let gone = QueueError::Gone("given up".into());
    assert_wakes_at_once(|queue| queue.abort("given up".into()), &gone);
}

#[test]
fn a_reset_wakes_those_who_wait_at_once() {
    assert_wakes_at_once(|queue| assert!(queue.reclaim().is_empty()), &QueueError::Reset);
}

#[test]
fn a_device_that_hangs_up_ends_a_wait() {
    let (rig, mut device) = Rig::new();
    let execution = rig.begin([1]);
    assert_eq!(device.take(), [1]);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| rig.finish(&execution));
        rig.until_armed();
        rig.connection.shutdown(std::net::Shutdown::Both).unwrap();
        assert_eq!(
            join(waiting),
            Err(QueueError::Gone("the device hung up; close the disk and open it again".into()))
        );
    });
}

#[test]
fn a_polled_queue_waits_by_looking_and_asks_for_no_interrupt() {
    // A wait that only ends with its tick calls it. On a busy machine the tick can come first.
    let prompt = (0..20).any(|_| ticks_of_20_polled_waits() < 10);
    assert!(prompt, "most waits were not looked after in time");
}

fn ticks_of_20_polled_waits() -> usize {
    let (rig, mut device) = Rig::polled();
    let (stop, ticks) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let served = scope.spawn(|| {
            let started = Instant::now();
            while !stop.load(Relaxed) && started.elapsed() < LONG {
                device.take();
                assert!(!device.ring.wants_interrupt());
                // Longer than the driver looks, so that it has to nap.
                thread::sleep(Duration::from_micros(500));
                device.complete(device.held.len());
            }
        });
        let (rig, ticks) = (&rig, &ticks);
        let execute = move |first: u64| {
            for start in first..first + 10 {
                let execution = rig.begin(start..start + 3);
                let statuses = rig.queue.finish(&execution, Some(Instant::now() + LONG), || {
                    ticks.fetch_add(1, Relaxed);
                    Ok::<(), QueueError>(())
                });
                assert_eq!(statuses, Ok(statuses_of(start..start + 3)));
            }
        };
        let others = [scope.spawn(move || execute(0)), scope.spawn(move || execute(100_000))];
        let [(), ()] = others.map(join);
        stop.store(true, Relaxed);
        join(served);
    });
    ticks.load(Relaxed)
}

#[test]
fn who_waits_is_told_at_once_how_the_queue_waits_from_now_on() {
    // A wait that only ends with its tick calls it. On a busy machine the tick can come first.
    let prompt = (0..20).any(|_| {
        let (rig, mut device) = Rig::new();
        let ticks = AtomicUsize::new(0);
        let tick = || {
            ticks.fetch_add(1, Relaxed);
            Ok::<(), QueueError>(())
        };
        let finish = |execution| rig.queue.finish(execution, Some(Instant::now() + LONG), tick);
        let executions = [rig.begin([1]), rig.begin([2])];
        assert_eq!(device.take(), [1, 2]);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| finish(&executions[0]));
            rig.until_armed();
            assert!(rig.queue.set_polling(true) && rig.queue.polling());
            assert_ne!(rig.available_flags.load(0), 0, "an interrupt is asked for still");
            device.complete_silently(1);
            assert!(!device.ring.wants_interrupt());
            assert_eq!(join(waiting), Ok(statuses_of([1])));
            // And back: the one that looks, or naps, asks for an interrupt then.
            let waiting = scope.spawn(|| finish(&executions[1]));
            assert!(rig.queue.set_polling(false) && !rig.queue.polling());
            rig.until_armed();
            device.complete(1);
            assert_eq!(join(waiting), Ok(statuses_of([2])));
        });
        ticks.load(Relaxed) == 0
    });
    assert!(prompt, "who waited was not told");
}

#[test]
fn a_queue_without_an_interrupt_is_polled_whatever_it_is_told() {
    let (rig, mut device) = Rig::polled();
    assert!(rig.queue.polling());
    assert!(rig.queue.set_polling(true));
    assert!(!rig.queue.set_polling(false) && rig.queue.polling());
    rig.assert_works_with(&mut device);
}

#[test]
fn a_polled_queue_lets_its_owner_act_about_every_tick() {
    let (rig, mut device) = Rig::polled();
    let execution = rig.begin([1]);
    assert_eq!(device.take(), [1]);
    let (started, mut ticks) = (Instant::now(), 0);
    let ended = rig.queue.finish(&execution, Some(started + LONG), || {
        ticks += 1;
        if ticks < 3 { Ok(()) } else { Err(QueueError::Gone("the owner ends it".into())) }
    });
    assert_eq!(ended, Err(QueueError::Gone("the owner ends it".into())));
    assert!(started.elapsed() >= 3 * vring::TICK, "each is dear");
    assert_eq!(rig.queue.end(execution), [STATUS_PENDING]);
}

#[test]
fn a_device_that_hangs_up_ends_a_wait_on_a_polled_queue() {
    let (rig, mut device) = Rig::polled();
    let execution = rig.begin([1]);
    assert_eq!(device.take(), [1]);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| rig.finish(&execution));
        rig.connection.shutdown(std::net::Shutdown::Both).unwrap();
        assert_eq!(
            join(waiting),
            Err(QueueError::Gone("the device hung up; close the disk and open it again".into()))
        );
    });
}

#[test]
fn an_interrupt_that_queues_share_wakes_whoever_waits_on_any_of_them() {
    let interrupt = EventFd::new().unwrap();
    let layout = SplitLayout::new(DEPTH, None, DEPTH).unwrap();
    let mut rigs = [0; 4].map(|_| Rig::wired(layout, interrupt.try_clone().unwrap(), true));
    let prompt = (0..20).any(|_| {
        let ticks = AtomicUsize::new(0);
        let executions: Vec<_> = rigs.iter().map(|(rig, _)| rig.begin([1])).collect();
        thread::scope(|scope| {
            let mut waiting = Vec::new();
            let mut devices = Vec::new();
            for ((rig, device), execution) in rigs.iter_mut().zip(&executions) {
                assert_eq!(device.take(), [1]);
                devices.push(device);
                let (rig, ticks): (&Rig, _) = (rig, &ticks);
                waiting.push(scope.spawn(move || {
                    rig.queue.finish(execution, Some(Instant::now() + LONG), || {
                        ticks.fetch_add(1, Relaxed);
                        Ok::<(), QueueError>(())
                    })
                }));
                rig.until_armed();
            }
            // All have completed before the one interrupt comes that is for all.
            let (last, others) = devices.split_last_mut().unwrap();
            for device in others {
                device.complete_silently(1);
            }
            last.complete(1);
            for thread in waiting {
                assert_eq!(join(thread), Ok(statuses_of([1])));
            }
        });
        ticks.load(Relaxed) == 0
    });
    assert!(prompt, "somebody was not woken");
}
