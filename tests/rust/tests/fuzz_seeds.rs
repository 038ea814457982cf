//! What fuzzing has found, and programs that lead deep, through the fuzz targets' own code.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::fs;
use std::path::Path;

use vioblk_tests::fuzz;

/// Run every seed of a target; a panic of any is a failure of the test.
fn replay(target: &str, run: fn(&[u8])) {
    let directory =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rust/fuzz/seeds").join(target);
    let mut count = 0;
    for entry in fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        run(&fs::read(&path).unwrap());
        count += 1;
    }
    assert!(count >= 3, "{} holds {count} seeds", directory.display());
}

#[test]
fn the_seeds_of_driver_split() {
    replay("driver_split", fuzz::driver_split);
}

#[test]
fn the_seeds_of_driver_packed() {
    replay("driver_packed", fuzz::driver_packed);
}

#[test]
fn the_seeds_of_device_split() {
    replay("device_split", fuzz::device_split);
}

#[test]
fn the_seeds_of_device_packed() {
    replay("device_packed", fuzz::device_packed);
}

#[test]
fn the_seeds_of_block_records() {
    replay("block_records", fuzz::block_records);
}
