//! The fuzz targets: programs of bytes that play one half of a virtqueue against the other.
//!
//! Each function takes any bytes at all, reads them as a program (`input`), carries it out and
//! panics when the half under test breaks a promise. `rust/fuzz` runs them under libFuzzer,
//! `tests/fuzz_seeds.rs` replays what was found. They are no safe place for `unwrap`: whatever a
//! program says, it must mean something.
//!
//! The judges (`driver`, `device`) are written apart from both halves, on the specification alone:
//! they say beforehand what a call must return and which bytes it may touch.

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
