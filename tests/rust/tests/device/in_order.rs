//! IN_ORDER: one used element for a run of chains, and nothing out of turn.

use shm::Descriptor;
use softdev::{DeviceOptions, Fault, feature};

use crate::any_ring::{Driver, Format};
use crate::driver::{self, BASE, FEATURES, FLUSH, FREE, INDIRECT, NEXT, OK, WRITE, options};

const IN_ORDER: [Format; 2] = [Format::SPLIT_IN_ORDER, Format::PACKED_IN_ORDER];
/// A sector and a status.
const WHOLE: u32 = 513;

#[test]
fn a_run_of_chains_is_shown_by_one_element_with_the_id_of_the_last() {
    for format in IN_ORDER {
        let mut driver = Driver::new(format, 32);
        let (mut served, mut elements) = (0, 0);
        // Past the end of the ring, too.
        for count in [1, 2, 5, 10, 3, 10, 10] {
            let ids = driver.serve_reads(count);
            assert_eq!(driver.queues[0].reap_all(), [(ids[count - 1], WHOLE)], "{format:?}");
            (served, elements) = (served + count as u64, elements + 1);
            let counters = driver.counters();
            assert_eq!((counters.completions, counters.used_elements), (served, elements));
        }
        assert_eq!(driver.violation(), None);
    }
}

#[test]
fn without_it_every_chain_has_an_element_of_its_own() {
    for format in [Format::SPLIT, Format::PACKED] {
        let mut driver = Driver::new(format, 32);
        let ids = driver.serve_reads(5);
        let expected: Vec<_> = ids.into_iter().map(|id| (id, WHOLE)).collect();
        assert_eq!(driver.queues[0].reap_all(), expected);
        let counters = driver.counters();
        assert_eq!((counters.completions, counters.used_elements), (5, 5));
    }
}

#[test]
fn a_chain_that_was_not_written_completely_is_not_passed_over() {
    for format in IN_ORDER {
        let mut driver = Driver::new(format, 32);
        driver.device.inject(Fault::ShortLength, 1, 2, 7).unwrap();
        let ids = driver.serve_reads(6);
        assert_eq!(
            driver.queues[0].reap_all(),
            [(ids[1], WHOLE), (ids[2], 7), (ids[5], WHOLE)],
            "{format:?}"
        );
    }
}

#[test]
fn a_delayed_chain_delays_all_behind_it() {
    for format in IN_ORDER {
        let mut driver = Driver::new(format, 32);
        driver.device.inject(Fault::Delay, 1, 1, 0).unwrap();
        let ids = driver.serve_reads(4);
        assert_eq!(driver.queues[0].reap_all(), [(ids[0], WHOLE)], "{format:?}");
        assert_eq!(driver.queues[0].status(3), OK);
        driver.kick(0);
        driver.device.serve(usize::MAX).unwrap();
        assert_eq!(driver.queues[0].reap_all(), [(ids[3], WHOLE)], "{format:?}");
    }
}

#[test]
fn nothing_passes_a_chain_that_is_never_used() {
    for format in IN_ORDER {
        let mut driver = Driver::new(format, 32);
        driver.device.inject(Fault::Silence, 1, 1, 0).unwrap();
        let ids = driver.serve_reads(4);
        assert_eq!(driver.queues[0].reap_all(), [(ids[0], WHOLE)], "{format:?}");
        driver.kick(0);
        driver.device.serve(usize::MAX).unwrap();
        driver.device.clear_faults().unwrap();
        assert_eq!(driver.queues[0].reap_all(), [], "{format:?}");
        assert_eq!(driver.counters().completions, 1);
    }
}

#[test]
fn an_id_that_is_not_outstanding_is_none_that_comes_back_later() {
    let mut driver = Driver::new(Format::SPLIT_IN_ORDER, 16);
    driver.serve_reads(2);
    driver.queues[0].reap_all();
    driver.device.inject(Fault::Delay, 1, 0, 0).unwrap();
    driver.device.inject(Fault::IdNotOutstanding, 1, 1, 0).unwrap();
    let ids = driver.serve_reads(4);
    assert_eq!(ids[3], 15, "as high as a number can be");
    driver.kick(0);
    driver.device.serve(usize::MAX).unwrap();
    let named: Vec<u32> = driver.queues[0].used_elements().iter().map(|each| each.1).collect();
    assert_eq!(named[2..], [ids[0].into(), 14, ids[3].into(), 0], "two are shown by one");
}

#[test]
fn a_driver_cannot_have_more_chains_held_back_than_the_ring_has_descriptors() {
    for format in Format::ALL {
        // Two reads fill the packed ring, so the device does not even look for a third.
        let size = if format.packed { 6 } else { 8 };
        let mut driver = Driver::new(format, size);
        driver.device.inject(Fault::Delay, u64::MAX, 0, 0).unwrap();
        for served in (2..14).step_by(2) {
            driver.serve_reads(2);
            assert_eq!(driver.violation().is_some(), served > 8 && !format.packed, "{format:?}");
        }
        let text = "more chains are held back than the ring has descriptors, 8";
        assert!(driver.violation().is_none_or(|violation| violation == text));
        driver.device.clear_faults().unwrap();
        assert_eq!(driver.counters().completions, if format.packed { 2 } else { 0 });
    }
}

/// A split ring with IN_ORDER, for a driver that can break its rules.
fn split() -> driver::Driver {
    let features = FEATURES | 1 << feature::IN_ORDER;
    driver::Driver::new(DeviceOptions { features, ..options() }, features, 8)
}

#[test]
fn the_descriptors_of_a_split_ring_are_used_in_the_order_of_the_table() {
    // Where the second request begins, its link, that of the third one's table, and how many are
    // used.
    let readable = |next| Descriptor { addr: BASE + FREE, len: 16, flags: NEXT, next };
    let writable = Descriptor { addr: BASE + FREE + 0x100, len: 1, flags: WRITE, next: 0 };
    let cases = [(2, 3, 1, 3), (3, 4, 1, 1), (2, 4, 1, 1), (2, 3, 2, 2)];
    for (head, link, table_link, used) in cases {
        let mut driver = split();
        driver.put_header(FREE, FLUSH, 0);
        driver.put_descriptor(0, readable(1));
        driver.put_descriptor(1, writable);
        driver.put_descriptor(head, readable(link));
        driver.put_descriptor(link, writable);
        let table = [readable(table_link), writable, writable];
        let bytes: Vec<u8> = table.iter().flat_map(driver::raw).collect();
        driver.write(FREE + 0x1000, &bytes);
        let pointer = Descriptor { addr: BASE + FREE + 0x1000, len: 48, flags: INDIRECT, next: 0 };
        driver.put_descriptor(4, pointer);
        for each in [0, head, 4] {
            driver.offer(each);
        }
        driver.publish();
        driver.device.serve(usize::MAX).unwrap();
        let violation = driver.device.violation().unwrap();
        assert_eq!(violation.is_none(), used == 3, "{violation:?}");
        assert!(violation.is_none_or(|text| text.contains("with IN_ORDER where")));
        assert_eq!(driver.used_index(), used);
    }
}
