//! However a driver cuts a request into descriptors, it means the same
//! (VIRTIO 1.4, 2.7.4 Message Framing).

use crate::driver::*;

const HEADER: u64 = FREE;
const DATA: u64 = FREE + 0x1000;
const LENGTH: usize = 1024;

/// Cut `length` bytes at `offset` into pieces of the lengths in `cuts` and a last one.
fn cut(offset: u64, length: usize, writable: bool, cuts: &[usize]) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut done = 0;
    for &count in cuts {
        parts.push((offset + done as u64, count, writable));
        done += count;
    }
    parts.push((offset + done as u64, length - done, writable));
    parts
}

fn pattern() -> Vec<u8> {
    (0..LENGTH).map(|n| (n * 7 + n / 251) as u8).collect()
}

/// Ways to cut a header of 16 bytes with data behind it, and data with a status behind it.
fn framings() -> Vec<(Vec<usize>, Vec<usize>)> {
    vec![
        (vec![16], vec![LENGTH]),
        (vec![], vec![]),
        (vec![1; 16], vec![1; 3]),
        (vec![4, 4, 8], vec![LENGTH - 1]),
        (vec![15, 2], vec![511, 2]),
        (vec![17], vec![512, 512]),
        (vec![8, 9, 100], vec![3, 5, 7, 11, 13]),
    ]
}

#[test]
fn a_write_works_in_every_framing() {
    for (cuts, _) in framings() {
        let mut driver = Driver::new(options(), FEATURES, 64);
        driver.write(HEADER, &header(OUT, 3));
        driver.write(HEADER + 16, &pattern());
        let status_at = DATA + 0x1000;
        driver.write(status_at, &[PENDING]);
        let mut parts = cut(HEADER, 16 + LENGTH, false, &cuts);
        parts.push((status_at, 1, true));
        let head = driver.link(&parts);
        let element = driver.run(head).unwrap();
        assert_eq!((element.id, element.len), (head.into(), 1), "cut at {cuts:?}");
        assert_eq!(driver.read(status_at, 1), [OK], "cut at {cuts:?}");
        assert_eq!(driver.read_sectors(3, 2), pattern(), "cut at {cuts:?}");
        assert_eq!(driver.counters().bytes_written, LENGTH as u64);
    }
}

#[test]
fn a_read_works_in_every_framing() {
    for (_, cuts) in framings() {
        let mut driver = Driver::new(options(), FEATURES, 64);
        assert_eq!(driver.write_sectors(3, &pattern()), OK);
        driver.put_header(HEADER, IN, 3);
        driver.write(DATA, &[PENDING; LENGTH + 2]);
        let mut parts = cut(HEADER, 16, false, &[5, 3]);
        parts.extend(cut(DATA, LENGTH + 1, true, &cuts));
        let head = driver.link(&parts);
        let element = driver.run(head).unwrap();
        assert_eq!((element.id, element.len as usize), (head.into(), LENGTH + 1));
        assert_eq!(driver.read(DATA, LENGTH), pattern(), "cut at {cuts:?}");
        // The status is the last byte, and nothing is written after it.
        assert_eq!(driver.read(DATA + LENGTH as u64, 2), [OK, PENDING]);
    }
}

#[test]
fn the_order_of_descriptors_in_the_table_means_nothing() {
    let mut driver = Driver::new(options(), FEATURES, 8);
    driver.put_header(HEADER, GET_ID, 0);
    let place = |addr, len, flags, next| shm::Descriptor { addr: BASE + addr, len, flags, next };
    driver.put_descriptor(7, place(HEADER, 16, NEXT, 2));
    driver.put_descriptor(2, place(DATA, 20, NEXT | WRITE, 5));
    driver.put_descriptor(5, place(DATA + 32, 1, WRITE, 7));
    assert_eq!(driver.run(7).map(|element| (element.id, element.len)), Some((7, 21)));
    assert_eq!(driver.read(DATA, 20), b"twenty bytes exactly");
}

#[test]
fn a_chain_may_stand_in_an_indirect_table_whole_or_in_part() {
    let mut driver = Driver::new(options(), FEATURES, 8);
    assert_eq!(driver.write_sectors(3, &pattern()), OK);
    let all = [(HEADER, 16, false), (DATA, LENGTH, true), (DATA + 0x800, 1, true)];
    // The table at an odd address too: the specification asks for no alignment.
    for (table, direct) in [(0x3000, 0), (0x3000, 1), (0x3000, 2), (0x3003, 0), (0x3008, 1)] {
        driver.put_header(HEADER, IN, 3);
        driver.write(DATA, &[PENDING; LENGTH]);
        let before = driver.counters();
        // WRITE on the descriptor that points to a table has no meaning.
        let head = driver.link(&all[..direct]);
        driver.link_table(FREE + table, &all[direct..], if direct == 0 { WRITE } else { 0 });
        if direct > 0 {
            let last = head + direct as u16 - 1;
            let (offset, length, writable) = all[direct - 1];
            let flags = NEXT | if writable { WRITE } else { 0 };
            let (addr, len, next) = (BASE + offset, length as u32, last + 1);
            driver.put_descriptor(last, shm::Descriptor { addr, len, flags, next });
        }
        let element = driver.run(head).unwrap();
        assert_eq!(element.len as usize, LENGTH + 1);
        assert_eq!(driver.read(DATA, LENGTH), pattern(), "{direct} before a table at {table:#x}");
        let after = driver.counters();
        assert_eq!(after.indirect_chains - before.indirect_chains, 1);
        assert_eq!(after.segments - before.segments, 3);
        assert_eq!(after.largest_chain, 3);
    }
}

#[test]
fn a_chain_may_have_as_many_descriptors_as_the_queue() {
    let mut driver = Driver::new(options(), FEATURES, 64);
    driver.put_header(HEADER, IN, 0);
    let mut parts = vec![(HEADER, 16, false)];
    parts.extend((0..62).map(|n| (DATA + 512 * n, 512, true)));
    parts.push((FREE + 0x1_0000, 1, true));
    let head = driver.link(&parts);
    assert_eq!(driver.run(head).map(|element| element.len), Some(62 * 512 + 1));
    assert_eq!(driver.counters().largest_chain, 64);
}
