//! `virtio-driver` of libblkio: `Virtqueue`, split and packed. Its `add_request` makes each chain
//! available by itself; the need of a notification is asked for once a batch.
//!
//! Addresses are translated by a type that only the crate's own transports can make. So a vhost-user
//! back end of three answers stands in for one: that transport's addresses are those of this
//! process, and its translation costs nothing.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;

use shm::{DmaSpace, Region};
use softdev::ring::{RingAddresses, RingFeatures};
use virtio_driver::virtqueue::{Virtqueue, VirtqueueLayout};
use virtio_driver::{IovaTranslator, Le64, VhostUser, VirtioFeatureFlags, VirtioTransport, iovec};

use crate::memory::{Buffers, identity_space};
use crate::{Device, Driver, Outcome, Pair, QUEUE_SIZE, Shape, Subject};

const PROTOCOL_FEATURES: u64 = 1 << 30;
/// REPLY_ACK, CONFIG and CONFIGURE_MEM_SLOTS, without which the transport does not connect.
const PROTOCOL: u64 = 1 << 3 | 1 << 9 | 1 << 15;

const GET_FEATURES: u32 = 1;
const GET_PROTOCOL_FEATURES: u32 = 15;
const GET_MAX_MEM_SLOTS: u32 = 36;
/// Version 1, a reply.
const REPLY: u32 = 1 | 1 << 2;

/// Answer what a front end asks, until it hangs up.
fn answer(mut stream: UnixStream) -> std::io::Result<()> {
    let mut header = [[0; 4]; 3];
    while stream.read_exact(header.as_flattened_mut()).is_ok() {
        let [request, _flags, length] = header.map(u32::from_le_bytes);
        std::io::copy(&mut Read::by_ref(&mut stream).take(length.into()), &mut std::io::sink())?;
        let answer = match request {
            GET_FEATURES => VirtioFeatureFlags::VERSION_1.bits() | PROTOCOL_FEATURES,
            GET_PROTOCOL_FEATURES => PROTOCOL,
            GET_MAX_MEM_SLOTS => 8,
            _ => continue,
        };
        for word in [request, REPLY, 8] {
            stream.write_all(&word.to_le_bytes())?;
        }
        stream.write_all(&answer.to_le_bytes())?;
    }
    Ok(())
}

/// A socket's path that goes with it.
struct SocketPath(PathBuf);

impl Drop for SocketPath {
    fn drop(&mut self) {
        // Nothing depends on it.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn translator() -> Outcome<Box<dyn IovaTranslator>> {
    let name = format!("vioblk-benches-{}.sock", std::process::id());
    let path = SocketPath(std::env::temp_dir().join(name));
    let listener = UnixListener::bind(&path.0)?;
    let back_end = thread::spawn(move || answer(listener.accept()?.0));
    let text = path.0.to_str().ok_or("the temporary directory's name is not UTF-8")?;
    let transport = VhostUser::<Le64, ()>::new(text, VirtioFeatureFlags::VERSION_1.bits())?;
    let translator = transport.iova_translator();
    drop(transport);
    back_end.join().map_err(|_| "the back end panicked")??;
    Ok(translator)
}

struct Requests {
    ring: Virtqueue<'static, ()>,
    /// Buffers, and whether the device writes them.
    requests: Vec<Vec<(iovec, bool)>>,
    next: usize,
    ids: u64,
    _memory: (Region, Region),
}

// SAFETY: the addresses in `requests` are those of memory that `_memory` keeps, and mean the same
// on every thread.
unsafe impl Send for Requests {}

impl Driver for Requests {
    #[inline]
    fn submit(&mut self, count: usize) -> Outcome<bool> {
        for _ in 0..count {
            let request = &self.requests[self.next];
            self.ring.add_request(|(), add| {
                request.iter().try_for_each(|&(buffer, device_writes)| add(buffer, device_writes))
            })?;
            self.next = (self.next + 1) % QUEUE_SIZE;
        }
        Ok(self.ring.avail_notif_needed())
    }

    #[inline]
    fn reap(&mut self) -> Outcome<usize> {
        let mut count = 0;
        for completion in self.ring.completions() {
            self.ids += u64::from(completion.id);
            count += 1;
        }
        Ok(count)
    }

    fn arm_and_disarm(&mut self) -> Outcome<()> {
        self.ring.set_used_notif_enabled(true);
        self.ring.set_used_notif_enabled(false);
        Ok(())
    }
}

fn new(
    space: &DmaSpace,
    features: VirtioFeatureFlags,
    shape: Shape,
) -> Outcome<(Requests, RingAddresses)> {
    if shape == Shape::ThreeIndirect {
        return Err("it has no indirect descriptors".into());
    }
    let layout = VirtqueueLayout::new::<()>(1, QUEUE_SIZE, features)?;
    let region = space.alloc(layout.end_offset, 4096)?;
    // SAFETY: the bytes are the region's, which `Requests` keeps as long as the ring, and no other
    // slice has them. That the device writes them, too, is what this interface of the crate is for:
    // it reads them as it would a device's, after an acquiring load of the index or the flags.
    let bytes = unsafe {
        std::slice::from_raw_parts_mut(region.span().host_address() as *mut u8, region.len())
    };
    let mut ring = Virtqueue::new(translator()?, bytes, QUEUE_SIZE as u16, features)?;
    ring.set_used_notif_enabled(false);
    let addresses = RingAddresses {
        size: QUEUE_SIZE as u16,
        descriptors: ring.desc_table_ptr() as u64,
        available: ring.driver_area_ptr() as u64,
        used: ring.device_area_ptr() as u64,
    };
    let data = Buffers::new(space)?.0;
    let start = data.span().host_address();
    let requests = (0..QUEUE_SIZE).map(|index| request(start, shape, index)).collect();
    let driver = Requests { ring, requests, next: 0, ids: 0, _memory: (region, data) };
    Ok((driver, addresses))
}

fn request(start: usize, shape: Shape, index: usize) -> Vec<(iovec, bool)> {
    let parts = Buffers::parts(shape, index);
    let buffer = |offset, length| iovec { iov_base: (start + offset) as *mut _, iov_len: length };
    parts.map(|(offset, length, writes)| (buffer(offset, length), writes)).collect()
}

/// Its split ring.
pub fn virtio_driver_split(shape: Shape, event_idx: bool) -> Outcome<Box<dyn Subject>> {
    let space = identity_space()?;
    let mut features = VirtioFeatureFlags::VERSION_1;
    features.set(VirtioFeatureFlags::RING_EVENT_IDX, event_idx);
    let (driver, addresses) = new(&space, features, shape)?;
    let features = RingFeatures { event_idx, ..RingFeatures::default() };
    let device = Device::split(&space, &addresses, features)?;
    Ok(Box::new(Pair::new(driver, device, shape)))
}

/// Its packed ring.
pub fn virtio_driver_packed(shape: Shape) -> Outcome<Box<dyn Subject>> {
    let space = identity_space()?;
    let features = VirtioFeatureFlags::VERSION_1 | VirtioFeatureFlags::RING_PACKED;
    let (driver, addresses) = new(&space, features, shape)?;
    let features = RingFeatures { packed: true, ..RingFeatures::default() };
    let device = Device::packed(&space, &addresses, features)?;
    Ok(Box::new(Pair::new(driver, device, shape)))
}
