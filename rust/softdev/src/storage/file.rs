//! A disk in a file, served in place.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;

use super::{Durability, Found, LastError, Sink, Source, Storage, claim};

/// Bytes that pass through the buffer at once.
const BUFFER_BYTES: usize = 256 * 1024;

/// A regular file or a block device. Zeroing writes zeroes, and a discard changes nothing (the
/// standard library cannot punch holes); a flush is fdatasync. While it is open nobody else who
/// asks first can open it for writing, nor for reading if we write (see `claim`).
#[derive(Debug)]
pub struct FileStorage {
    file: File,
    capacity_bytes: u64,
    buffer: Box<[u8]>,
    last_error: LastError,
}

impl FileStorage {
    /// Open a file; its length, rounded down to whole sectors, is the capacity. An error of the
    /// kind ResourceBusy names the file and says who is in the way.
    pub fn open(path: &Path, read_only: bool) -> io::Result<Self> {
        // Before it is opened: that could block on a pipe, or do something to a device.
        let kind = std::fs::metadata(path)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            let why = "neither a regular file nor a block device";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let mut file = if kind.is_file() {
            claim::open_regular_file(path, read_only)?
        } else {
            claim::open_block_device(path, read_only)?
        };
        // Not the length of the metadata: for a block device that is 0.
        let length = file.seek(SeekFrom::End(0))?;
        if length < 512 {
            let why = format!("a file of {length} bytes has no whole sector of 512");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let buffer = vec![0; BUFFER_BYTES].into_boxed_slice();
        let capacity_bytes = length / 512 * 512;
        Ok(Self { file, capacity_bytes, buffer, last_error: LastError::default() })
    }

    fn settle(&self, durability: Durability) -> io::Result<()> {
        match durability {
            Durability::Cached => Ok(()),
            Durability::Stable => self.sync(),
        }
    }

    fn sync(&self) -> io::Result<()> {
        note(&self.last_error, self.file.sync_data(), || "flushing the file".into())
    }
}

impl Storage for FileStorage {
    fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes
    }

    fn read(&mut self, offset: u64, length: usize, sink: &mut Sink<'_>) -> io::Result<()> {
        let mut done = 0;
        while done < length {
            let count = (length - done).min(self.buffer.len());
            let (piece, _) = self.buffer.split_at_mut(count);
            let at = offset + done as u64;
            let outcome = self.file.read_exact_at(piece, at);
            note(&self.last_error, outcome, || format!("reading {count} bytes at byte {at}"))?;
            sink(Found::Bytes(piece))?;
            done += count;
        }
        Ok(())
    }

    fn write(
        &mut self,
        offset: u64,
        length: usize,
        durability: Durability,
        source: &mut Source<'_>,
    ) -> io::Result<()> {
        let mut done = 0;
        while done < length {
            let count = (length - done).min(self.buffer.len());
            let (piece, _) = self.buffer.split_at_mut(count);
            source(piece)?;
            let at = offset + done as u64;
            let outcome = self.file.write_all_at(piece, at);
            note(&self.last_error, outcome, || format!("writing {count} bytes at byte {at}"))?;
            done += count;
        }
        self.settle(durability)
    }

    fn zero(&mut self, offset: u64, length: u64, durability: Durability) -> io::Result<()> {
        self.buffer.fill(0);
        let mut done = 0;
        while done < length {
            let count = (length - done).min(self.buffer.len() as u64);
            let (piece, _) = self.buffer.split_at(count as usize);
            let at = offset + done;
            let outcome = self.file.write_all_at(piece, at);
            note(&self.last_error, outcome, || format!("zeroing {count} bytes at byte {at}"))?;
            done += count;
        }
        self.settle(durability)
    }

    fn discard(&mut self, _: u64, _: u64, _: Durability) -> io::Result<()> {
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sync()
    }

    /// Growing extends the file; shrinking hides its end and cuts nothing off.
    fn resize(&mut self, capacity_bytes: u64) -> io::Result<()> {
        if capacity_bytes > self.file.seek(SeekFrom::End(0))? {
            self.file.set_len(capacity_bytes)?;
        }
        self.capacity_bytes = capacity_bytes;
        Ok(())
    }

    fn can_deallocate(&self) -> bool {
        false
    }

    fn last_error(&self) -> Option<LastError> {
        Some(self.last_error.clone())
    }

    fn close(&mut self) -> io::Result<()> {
        let flushed = self.flush();
        claim::release(&self.file);
        flushed
    }
}

/// Keep the error of the file, if it is one: the driver is told only that there was one.
fn note(
    last_error: &LastError,
    outcome: io::Result<()>,
    doing: impl FnOnce() -> String,
) -> io::Result<()> {
    outcome.inspect_err(|error| {
        let why = match error.kind() {
            io::ErrorKind::UnexpectedEof => "the file ends before that".into(),
            _ => error.to_string(),
        };
        last_error.set(format!("{}: {why}", doing()));
    })
}
