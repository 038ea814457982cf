//! Keeping two from using one file or block device at once, where one of them writes.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, OFlags, fcntl_lock, flock};
use rustix::io::Errno;

fn busy(path: &Path, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::ResourceBusy, format!("{} {why}", path.display()))
}

/// Open a block device. One that is to be written must not be mounted, nor claimed by anybody
/// else who says so; whoever only reads it may look on.
pub(super) fn open_block_device(path: &Path, read_only: bool) -> io::Result<File> {
    // Without O_CREAT it means on a block device: for us alone.
    let flags = if read_only { OFlags::empty() } else { OFlags::EXCL };
    let opened = OpenOptions::new()
        .read(true)
        .write(!read_only)
        .custom_flags(flags.bits() as i32)
        .open(path);
    opened.map_err(|error| match error.kind() {
        io::ErrorKind::ResourceBusy => {
            busy(path, "is mounted or in use; unmount it, or open it with read_only=on")
        }
        _ => error,
    })
}

/// Open a regular file and lock it: for this opening alone if it is to be written, else together
/// with others that only read.
pub(super) fn open_regular_file(path: &Path, read_only: bool) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(!read_only).open(path)?;
    if read_only {
        if !try_lock(&file, FlockOperation::NonBlockingLockShared)? {
            return Err(busy(path, "is open elsewhere for writing; close it there"));
        }
        return Ok(file);
    }
    refuse_record_locks(path, &file)?;
    if !try_lock(&file, FlockOperation::NonBlockingLockExclusive)? {
        let why = if try_lock(&file, FlockOperation::NonBlockingLockShared)? {
            "is open elsewhere for reading; close it there, or open it with read_only=on"
        } else {
            "is open elsewhere for writing; close it there"
        };
        return Err(busy(path, why));
    }
    Ok(file)
}

/// Give the lock up now, even if a forked child still holds a copy of the descriptor.
pub(super) fn release(file: &File) {
    // Nothing to do about a failure: closing the file ends the lock all the same.
    let _ = flock(file, FlockOperation::Unlock);
}

/// QEMU and others lock ranges of bytes of the images that they use, of which flock knows
/// nothing. Such a lock is only looked for: one of our own would end as soon as anything in this
/// process closed the file, and where flock is made of record locks (NFS) it would shut us out.
fn refuse_record_locks(path: &Path, file: &File) -> io::Result<()> {
    match fcntl_lock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(fcntl_lock(file, FlockOperation::Unlock)?),
        Err(Errno::AGAIN | Errno::ACCESS) => {
            Err(busy(path, "is locked by another program; end it, or open with read_only=on"))
        }
        Err(error) if is_unsupported(error) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether nobody else holds a lock against it. On a file system without locks nobody does.
fn try_lock(file: &File, operation: FlockOperation) -> io::Result<bool> {
    match flock(file, operation) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) if is_unsupported(error) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

fn is_unsupported(error: Errno) -> bool {
    matches!(error, Errno::NOLCK | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL)
}
