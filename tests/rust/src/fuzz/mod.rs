//! The fuzz targets: programs of bytes that play one half of a virtqueue against the other.
//!
//! Each function takes any bytes at all, reads them as a program (`input`), carries it out and
//! panics when the half under test breaks a promise. `rust/fuzz` runs them under libFuzzer,
//! `tests/fuzz_seeds.rs` replays what was found. Whatever a program says means something: no input
//! is refused, or a fuzzer would learn how to be refused.
//!
//! The judges (`driver`, `device`) share no code with either half. They say beforehand what a call
//! must return and which bytes it may touch, so that a half that is wrong is found out although it
//! does not crash.

#![forbid(unsafe_code)]

mod block_records;
mod bytes;
mod device;
mod driver;
mod input;

/// The driver's half of a split ring, against any device.
pub fn driver_split(data: &[u8]) {
    driver::run::<driver::Split>(data);
}

/// The driver's half of a packed ring, against any device.
pub fn driver_packed(data: &[u8]) {
    driver::run::<driver::Packed>(data);
}

/// The software device on a split ring, against any driver.
pub fn device_split(data: &[u8]) {
    device::run::<device::Split>(data);
}

/// The software device on a packed ring, against any driver.
pub fn device_packed(data: &[u8]) {
    device::run::<device::Packed>(data);
}

/// Request records of any content, on a queue of either format.
pub fn block_records(data: &[u8]) {
    block_records::run(data);
}
