//! `virtio-drivers` of rcore: `VirtQueue`, a split ring. Its `add` makes each chain available by
//! itself, and its `pop_used` takes one chain back, which it has to be told of with its buffers.

use std::cell::RefCell;
use std::ptr::NonNull;

use shm::{DmaSpace, Region};
use softdev::ring::{RingAddresses, RingFeatures};
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{BufferDirection, Error, Hal, PhysAddr};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::memory::{Buffers, identity_space};
use crate::{Device, Driver, Outcome, Pair, QUEUE_SIZE, Shape, Subject};

const PAGE: usize = 4096;

thread_local! {
    /// Where this thread's next ring gets its memory, and what rings have got.
    static SPACE: RefCell<Option<DmaSpace>> = const { RefCell::new(None) };
    static RINGS: RefCell<Vec<Region>> = const { RefCell::new(Vec::new()) };
}

struct IdentityHal;

// SAFETY: `dma_alloc` hands out whole zeroed pages, aligned to a page, of a region that nobody
// else has and that lives as long as the process, unless it is given back. Device addresses are
// addresses of this process (`identity_space`), so sharing a buffer has nothing to do.
unsafe impl Hal for IdentityHal {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let region = SPACE.with_borrow(|space| space.as_ref()?.alloc(pages * PAGE, PAGE).ok());
        let pointer = region
            .as_ref()
            .and_then(|region| NonNull::new(region.span().host_address() as *mut u8));
        let (Some(region), Some(pointer)) = (region, pointer) else {
            return (0, NonNull::dangling());
        };
        let address = region.device_address();
        RINGS.with_borrow_mut(|rings| rings.push(region));
        (address, pointer)
    }

    unsafe fn dma_dealloc(address: PhysAddr, _pointer: NonNull<u8>, _pages: usize) -> i32 {
        RINGS.with_borrow_mut(|rings| rings.retain(|ring| ring.device_address() != address));
        0
    }

    unsafe fn mmio_phys_to_virt(_address: PhysAddr, _size: usize) -> NonNull<u8> {
        NonNull::dangling() // for its PCI transport, which is not used here
    }

    #[inline]
    unsafe fn share(buffer: NonNull<[u8]>, _direction: BufferDirection) -> PhysAddr {
        buffer.as_ptr().cast::<u8>() as u64
    }

    #[inline]
    unsafe fn unshare(_address: PhysAddr, _buffer: NonNull<[u8]>, _direction: BufferDirection) {}
}

/// Takes down where the ring was put.
#[derive(Default)]
struct Registers(Option<RingAddresses>);

impl Transport for Registers {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }
    fn read_device_features(&mut self) -> u64 {
        0
    }
    fn write_driver_features(&mut self, _features: u64) {}
    fn max_queue_size(&mut self, _queue: u16) -> u32 {
        QUEUE_SIZE as u32
    }
    fn notify(&mut self, _queue: u16) {}
    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::DRIVER_OK
    }
    fn set_status(&mut self, _status: DeviceStatus) {}
    fn set_guest_page_size(&mut self, _size: u32) {}
    fn requires_legacy_layout(&self) -> bool {
        false
    }
    fn queue_set(&mut self, _queue: u16, size: u32, table: u64, driver: u64, device: u64) {
        let size = size as u16;
        self.0 = Some(RingAddresses { size, descriptors: table, available: driver, used: device });
    }
    fn queue_unset(&mut self, _queue: u16) {}
    fn queue_used(&mut self, _queue: u16) -> bool {
        false
    }
    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::empty()
    }
    fn read_config_generation(&self) -> u32 {
        0
    }
    fn read_config_space<T: FromBytes + IntoBytes>(&self, _offset: usize) -> Result<T, Error> {
        Err(Error::ConfigSpaceMissing)
    }
    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        _offset: usize,
        _value: T,
    ) -> Result<(), Error> {
        Err(Error::ConfigSpaceMissing)
    }
}

/// The buffers of one request, and the token that the ring gave for it.
struct Request<const READ: usize, const WRITTEN: usize> {
    inputs: [&'static [u8]; READ],
    outputs: [&'static mut [u8]; WRITTEN],
    token: u16,
}

struct Requests<const READ: usize, const WRITTEN: usize> {
    ring: VirtQueue<IdentityHal, QUEUE_SIZE>,
    requests: Vec<Request<READ, WRITTEN>>,
    next: usize,
    /// The oldest in flight: the device gives requests back in order.
    oldest: usize,
    in_flight: usize,
    written: u64,
    _data: Region,
}

impl<const READ: usize, const WRITTEN: usize> Driver for Requests<READ, WRITTEN> {
    #[inline]
    fn submit(&mut self, count: usize) -> Outcome<bool> {
        for _ in 0..count {
            let request = &mut self.requests[self.next];
            // SAFETY: no more requests are in flight than there are, so the buffers of this one are
            // not. They live as long as the ring, and nothing but the device uses them.
            request.token = unsafe { self.ring.add(&request.inputs, &mut request.outputs) }?;
            self.next = (self.next + 1) % QUEUE_SIZE;
        }
        self.in_flight += count;
        Ok(self.ring.should_notify())
    }

    #[inline]
    fn reap(&mut self) -> Outcome<usize> {
        let mut count = 0;
        while count < self.in_flight && self.ring.can_pop() {
            let Request { inputs, outputs, token } = &mut self.requests[self.oldest];
            let mut outputs = outputs.each_mut().map(|buffer| &mut **buffer);
            // SAFETY: `add` returned the token for these buffers.
            let written = unsafe { self.ring.pop_used(*token, inputs, &mut outputs) }?;
            self.written += u64::from(written);
            self.oldest = (self.oldest + 1) % QUEUE_SIZE;
            count += 1;
        }
        self.in_flight -= count;
        Ok(count)
    }

    fn arm_and_disarm(&mut self) -> Outcome<()> {
        self.ring.set_dev_notify(true);
        self.ring.set_dev_notify(false);
        Ok(())
    }
}

/// Its split ring.
pub fn virtio_drivers_split(shape: Shape) -> Outcome<Box<dyn Subject>> {
    match shape {
        Shape::One => split::<0, 1>(shape),
        Shape::Three => split::<1, 2>(shape),
        Shape::ThreeIndirect => Err("its indirect tables are not measured".into()),
    }
}

fn split<const READ: usize, const WRITTEN: usize>(shape: Shape) -> Outcome<Box<dyn Subject>> {
    let space = identity_space()?;
    SPACE.set(Some(space.clone()));
    let mut registers = Registers::default();
    let mut ring = VirtQueue::new(&mut registers, 0, false, false)?;
    ring.set_dev_notify(false);
    let addresses = registers.0.ok_or("the ring was put nowhere")?;
    let data = Buffers::new(&space)?.0;
    let requests = (0..QUEUE_SIZE).map(|index| request::<READ, WRITTEN>(&data, shape, index));
    let requests = requests.collect::<Outcome<_>>()?;
    let driver =
        Requests { ring, requests, next: 0, oldest: 0, in_flight: 0, written: 0, _data: data };
    let device = Device::split(&space, &addresses, RingFeatures::default())?;
    Ok(Box::new(Pair::new(driver, device, shape)))
}

fn request<const READ: usize, const WRITTEN: usize>(
    data: &Region,
    shape: Shape,
    index: usize,
) -> Outcome<Request<READ, WRITTEN>> {
    let (mut inputs, mut outputs) = (Vec::<&[u8]>::new(), Vec::<&mut [u8]>::new());
    for (offset, length, device_writes) in Buffers::parts(shape, index) {
        let start = (data.span().host_address() + offset) as *mut u8;
        // SAFETY: the bytes are inside the region, which `Requests` keeps as long as these slices.
        // No other slice has them, and the device of the benchmarks does not touch them.
        unsafe {
            if device_writes {
                outputs.push(std::slice::from_raw_parts_mut(start, length));
            } else {
                inputs.push(std::slice::from_raw_parts(start, length));
            }
        }
    }
    let shape = || format!("a request has {READ} buffers to read and {WRITTEN} to write");
    Ok(Request {
        inputs: inputs.try_into().map_err(|_| shape())?,
        outputs: outputs.try_into().map_err(|_| shape())?,
        token: 0,
    })
}
