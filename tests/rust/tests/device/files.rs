//! Who may use a file at once, and what is known of its errors.

use std::fs::File;
use std::path::{Path, PathBuf};

use softdev::{Device, DeviceError, DeviceOptions};

use crate::driver::*;

const DATA: u64 = FREE + 0x1000;

/// A file of 8 sectors that goes away with this.
struct Image(PathBuf);

impl Image {
    fn new(name: &str) -> Self {
        let name = format!("vioblk-{name}-{}.img", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, [3; 8 * SECTOR]).unwrap();
        Self(path)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).unwrap();
    }
}

fn of_file(path: &Path, read_only: bool) -> DeviceOptions {
    DeviceOptions { path: Some(path.into()), capacity_sectors: 0, read_only, ..options() }
}

fn open(path: &Path, read_only: bool) -> Result<Device, DeviceError> {
    Device::new(shm::DmaSpace::new(), of_file(path, read_only))
}

fn refusal(path: &Path, read_only: bool) -> String {
    match open(path, read_only).err() {
        Some(DeviceError::Busy(why)) => {
            let name = path.display().to_string();
            assert!(why.starts_with(&name), "{why}");
            why[name.len() + 1..].into()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_that_is_written_is_open_once() {
    let image = Image::new("once");
    let writer = open(&image.0, false).unwrap();
    assert_eq!(refusal(&image.0, false), "is open elsewhere for writing; close it there");
    assert_eq!(refusal(&image.0, true), "is open elsewhere for writing; close it there");
    // A refusal took nothing away.
    assert_eq!(refusal(&image.0, false), "is open elsewhere for writing; close it there");
    writer.close().unwrap();
    open(&image.0, false).unwrap();
}

#[test]
fn a_file_that_is_only_read_may_be_open_often() {
    let image = Image::new("often");
    let readers = [open(&image.0, true).unwrap(), open(&image.0, true).unwrap()];
    assert!(refusal(&image.0, false).contains("open elsewhere for reading; close it there, or"));
    readers[0].close().unwrap();
    assert!(refusal(&image.0, false).contains("read_only=on"));
    readers[1].close().unwrap();
    open(&image.0, false).unwrap();
}

#[test]
fn the_last_error_of_a_file_is_kept() {
    let image = Image::new("errors");
    let mut driver = Driver::new(of_file(&image.0, false), FEATURES, 8);
    assert_eq!(driver.device.last_error().unwrap(), None);
    // What the disk itself refuses is no error of the file.
    assert_eq!(driver.request(IN, 8, (DATA, SECTOR, true)).0, IOERR);
    assert_eq!(driver.device.last_error().unwrap(), None);
    File::options().write(true).open(&image.0).unwrap().set_len(4 * 512).unwrap();
    assert_eq!(driver.request(IN, 6, (DATA, SECTOR, true)).0, IOERR);
    let expected = "reading 512 bytes at byte 3072: the file ends before that";
    assert_eq!(driver.device.last_error().unwrap().unwrap(), expected);
    assert_eq!(driver.read_sectors(3, 1), [3; SECTOR]);
    driver.device.close().unwrap();
    assert_eq!(driver.device.last_error().unwrap().unwrap(), expected);
}
