//! What a fault at a completion makes of a ring, in every format.

use softdev::Fault;

use crate::any_ring::{Driver, Format};
use crate::driver::{IOERR, OK, PENDING};

const SIZE: u16 = 32;
const DESCRIPTORS: usize = 3;
const CHAINS: usize = 4;
/// The chain that the fault strikes.
const STRUCK: usize = 1;
/// The length of a used element that is as it should be: a sector and a status.
const WHOLE: u32 = 513;

/// What a used element names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    /// The chain with this number.
    Chain(usize),
    /// A number below the queue size, of no chain.
    NoChain,
    /// A number that no chain can have.
    Nothing,
}

use Names::{Chain, NoChain, Nothing};

/// Serve four reads, of which the second is struck. The used elements: where the chain with which
/// number would be given back if nothing were wrong, what they name, and their length.
fn struck(format: Format, fault: Fault, value: u64) -> (Driver, Vec<(usize, Names, u32)>) {
    let mut driver = Driver::new(format, SIZE);
    driver.device.inject(fault, 1, STRUCK as u64, value).unwrap();
    let ids = driver.serve_reads(CHAINS);
    let names = |id: u32| match ids.iter().position(|&each| u32::from(each) == id) {
        Some(number) => Chain(number),
        None if id < SIZE.into() => NoChain,
        None => Nothing,
    };
    let spacing = if format.packed { DESCRIPTORS } else { 1 };
    let elements = driver.queues[0].used_elements();
    // What the used index ran over without anything being written there says nothing.
    let elements = elements.into_iter().filter(|&(_, _, length)| length > 0);
    let found = elements.map(|(place, id, length)| (place / spacing, names(id), length)).collect();
    (driver, found)
}

/// The used elements with one wrong one in the place of the second: in order, one stands for the
/// chains before it and one for those behind it.
fn around(format: Format, wrong: (usize, Names, u32)) -> Vec<(usize, Names, u32)> {
    let whole = |place, number| (place, Chain(number), WHOLE);
    if format.in_order {
        vec![whole(0, 0), wrong, whole(2, 3)]
    } else {
        vec![whole(0, 0), wrong, whole(2, 2), whole(3, 3)]
    }
}

#[test]
fn an_element_that_is_wrong_stands_alone() {
    for format in Format::ALL {
        for (fault, value, names, length) in [
            (Fault::IdOutOfRange, 0, Nothing, WHOLE),
            (Fault::IdNotOutstanding, 0, NoChain, WHOLE),
            (Fault::IdBefore, 0, Chain(0), WHOLE),
            (Fault::HugeLength, 0, Chain(1), u32::MAX),
            (Fault::ShortLength, 7, Chain(1), 7),
        ] {
            let (_, elements) = struck(format, fault, value);
            let expected = around(format, (1, names, length));
            assert_eq!(elements, expected, "{format:?} {fault:?}");
        }
    }
}

#[test]
fn an_element_whose_status_is_wrong_is_like_any_other() {
    for format in Format::ALL {
        let good = if format.in_order {
            vec![(0, Chain(3), WHOLE)]
        } else {
            (0..CHAINS).map(|number| (number, Chain(number), WHOLE)).collect()
        };
        for (fault, value, status) in [
            (Fault::GarbageStatus, 0, 0xA5),
            (Fault::Status, 1, IOERR),
            (Fault::NoInterrupt, 0, OK),
        ] {
            let (driver, elements) = struck(format, fault, value);
            assert_eq!(elements, good, "{format:?} {fault:?}");
            assert_eq!(driver.queues[0].status(STRUCK), status);
        }
    }
}

#[test]
fn what_is_held_back_holds_back_the_rest_in_order_alone() {
    for format in Format::ALL {
        for (fault, status) in [(Fault::Delay, OK), (Fault::Silence, PENDING)] {
            let (driver, elements) = struck(format, fault, 0);
            let places: &[(usize, usize)] = match format {
                Format { in_order: true, .. } => &[(0, 0)],
                Format { .. } => &[(0, 0), (1, 2), (2, 3)],
            };
            let given: Vec<_> =
                places.iter().map(|&(place, number)| (place, Chain(number), WHOLE)).collect();
            assert_eq!(elements, given, "{format:?} {fault:?}");
            assert_eq!(driver.queues[0].status(STRUCK), status);
        }
    }
}

#[test]
fn a_chain_is_given_back_twice() {
    for format in Format::ALL {
        let (_, elements) = struck(format, Fault::IdTwice, 0);
        let mut expected = vec![(0, Chain(0), WHOLE), (1, Chain(1), WHOLE), (2, Chain(1), WHOLE)];
        match format {
            // What a second element was written over is served no more.
            Format { packed: true, .. } => expected[2].2 = 0,
            Format { in_order: true, .. } => expected.push((3, Chain(3), WHOLE)),
            _ => expected.extend([(3, Chain(2), WHOLE), (4, Chain(3), WHOLE)]),
        }
        expected.retain(|&(_, _, length)| length > 0);
        assert_eq!(elements, expected, "{format:?}");
    }
}

#[test]
fn the_used_index_runs_ahead() {
    for format in [Format::SPLIT, Format::SPLIT_IN_ORDER] {
        let ahead = |value| struck(format, Fault::IndexAhead, value).0.queues[0].used_index();
        assert_eq!([ahead(3), ahead(0)], [4 + 3, 4 + SIZE]);
    }
    for format in [Format::PACKED, Format::PACKED_IN_ORDER] {
        let (driver, _) = struck(format, Fault::IndexAhead, 5);
        let slots: Vec<_> = driver.queues[0].used_elements().iter().map(|each| each.0).collect();
        assert_eq!(slots, [0, 3, 6, 7, 8, 9, 10]);
    }
}

#[test]
fn the_used_index_stays_behind() {
    for format in Format::ALL {
        let (driver, elements) = struck(format, Fault::IndexBehind, 0);
        let whole = |place, number| (place, Chain(number), WHOLE);
        if format.in_order {
            // It stands for three chains.
            assert_eq!(elements, [whole(0, 0), whole(1, 3)], "{format:?}");
        } else {
            assert_eq!(elements, [whole(0, 0), whole(1, 2), whole(2, 3)], "{format:?}");
        }
        if !format.packed {
            assert_eq!(driver.queues[0].used_index(), 3);
        }
    }
}

#[test]
fn the_last_that_waits_is_given_back_before_its_turn() {
    for format in Format::ALL {
        let (mut driver, elements) = struck(format, Fault::IdAhead, 0);
        assert_eq!(elements, [(0, Chain(0), WHOLE), (1, Chain(3), WHOLE)], "{format:?}");
        let statuses: Vec<_> = (0..CHAINS).map(|each| driver.queues[0].status(each)).collect();
        assert_eq!(statuses, [OK, OK, PENDING, PENDING]);
        driver.queues[0].offer_read(0);
        driver.queues[0].publish();
        driver.kick(0);
        assert_eq!(driver.device.serve(usize::MAX).unwrap(), 0, "{format:?}: it still listens");
    }
}
