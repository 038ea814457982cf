//! How the face interrupts the driver: MSI-X, or the ISR status and INTx.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shm::EventFd;

use crate::engine::Notifier;

use super::log::Log;

/// VIRTIO_MSI_NO_VECTOR: the event is not mapped.
pub(super) const NO_VECTOR: u16 = 0xFFFF;

/// Bits of the ISR status (VIRTIO 1.4, 4.1.4.5 ISR status capability).
const QUEUE: u8 = 1;
const CONFIG: u8 = 2;

/// The mask bit of an entry's vector control, set after a reset of the function.
const MASKED: u32 = 1;
const CONTROL: usize = 3;

/// An entry of the MSI-X table: address, upper half of it, data, vector control.
#[derive(Clone, Copy, Debug)]
struct Entry {
    words: [u32; 4],
    pending: bool,
}

/// What the driver has said of interrupts, in configuration space and in the BAR.
#[derive(Debug)]
struct State {
    msix_enabled: bool,
    function_masked: bool,
    intx_disabled: bool,
    /// Messages are writes to memory.
    bus_master: bool,
    table: Vec<Entry>,
    /// By the data of a message: whom it wakes. Made when asked for, as a table can be large.
    receivers: Vec<Option<EventFd>>,
    config_vector: u16,
    queue_vectors: Vec<u16>,
    isr: u8,
    /// INTx was signalled and not acknowledged since.
    intx_signalled: bool,
    removed: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Interrupts {
    state: Mutex<State>,
    intx: EventFd,
    log: Arc<Log>,
}

impl Interrupts {
    pub(super) fn new(queue_count: usize, vector_count: u16, log: Arc<Log>) -> io::Result<Self> {
        let state = State {
            msix_enabled: false,
            function_masked: false,
            intx_disabled: false,
            bus_master: false,
            table: vec![Entry { words: [0, 0, 0, MASKED], pending: false }; vector_count.into()],
            receivers: (0..vector_count).map(|_| None).collect(),
            config_vector: NO_VECTOR,
            queue_vectors: vec![NO_VECTOR; queue_count],
            isr: 0,
            intx_signalled: false,
            removed: false,
        };
        Ok(Self { state: Mutex::new(state), intx: EventFd::new()?, log })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A reset of the device, not of the function: nothing is mapped, nothing is signalled.
    pub(super) fn reset(&self) {
        let mut state = self.lock();
        state.config_vector = NO_VECTOR;
        state.queue_vectors.fill(NO_VECTOR);
        state.isr = 0;
        state.table.iter_mut().for_each(|entry| entry.pending = false);
    }

    /// The function has gone from its bus.
    pub(super) fn remove(&self) {
        self.lock().removed = true;
    }

    // What the driver says in configuration space

    pub(super) fn set_command(&self, bus_master: bool, intx_disabled: bool) {
        let mut state = self.lock();
        state.bus_master = bus_master;
        state.intx_disabled = intx_disabled;
        self.drive_intx(&mut state);
    }

    pub(super) fn set_msix(&self, enabled: bool, masked: bool) {
        let mut state = self.lock();
        state.msix_enabled = enabled;
        state.function_masked = masked;
        (0..state.table.len()).for_each(|vector| self.flush(&mut state, vector));
        self.drive_intx(&mut state);
    }

    // What it says in the BAR

    pub(super) fn config_vector(&self) -> u16 {
        self.lock().config_vector
    }

    pub(super) fn set_config_vector(&self, vector: u16) {
        self.lock().config_vector = vector;
    }

    pub(super) fn queue_vector(&self, queue: usize) -> u16 {
        self.lock().queue_vectors.get(queue).copied().unwrap_or(NO_VECTOR)
    }

    pub(super) fn set_queue_vector(&self, queue: usize, vector: u16) {
        if let Some(mapped) = self.lock().queue_vectors.get_mut(queue) {
            *mapped = vector;
        }
    }

    pub(super) fn read_isr(&self) -> u8 {
        std::mem::take(&mut self.lock().isr)
    }

    pub(super) fn read_entry(&self, vector: usize, word: usize) -> u32 {
        let state = self.lock();
        state.table.get(vector).and_then(|entry| entry.words.get(word)).copied().unwrap_or(0)
    }

    /// An entry may be changed only while nothing can be sent by it (PCI Local Bus 3.0, 6.8.2).
    pub(super) fn write_entry(&self, vector: usize, word: usize, value: u32) {
        let mut state = self.lock();
        let in_use = state.msix_enabled && !state.function_masked;
        let Some(entry) = state.table.get_mut(vector) else { return };
        if word != CONTROL && in_use && entry.words[CONTROL] & MASKED == 0 {
            self.log.violation(format!("entry {vector} of the MSI-X table changed while unmasked"));
        }
        if let Some(stored) = entry.words.get_mut(word) {
            *stored = value;
        }
        self.flush(&mut state, vector);
    }

    pub(super) fn pending_bits(&self, first_vector: usize) -> u32 {
        let state = self.lock();
        let bits = state.table.iter().skip(first_vector).take(32).enumerate();
        bits.fold(0, |word, (n, entry)| word | u32::from(entry.pending) << n)
    }

    // What the machine around it sees

    /// The eventfd that a message with this data signals.
    pub(super) fn receiver(&self, data: usize) -> io::Result<Option<RawFd>> {
        let mut state = self.lock();
        let Some(receiver) = state.receivers.get_mut(data) else { return Ok(None) };
        if receiver.is_none() {
            *receiver = Some(EventFd::new()?);
        }
        Ok(receiver.as_ref().map(AsRawFd::as_raw_fd))
    }

    pub(super) fn intx_fd(&self) -> RawFd {
        self.intx.as_raw_fd()
    }

    /// The level of the pin.
    pub(super) fn intx_asserted(&self) -> bool {
        self.lock().asserts_intx()
    }

    /// Whether an interrupt is waiting for INTx, though it may be switched off.
    pub(super) fn intx_pending(&self) -> bool {
        let state = self.lock();
        state.isr != 0 && !state.msix_enabled
    }

    pub(super) fn acknowledge_intx(&self) {
        let mut state = self.lock();
        state.intx_signalled = false;
        self.drive_intx(&mut state);
    }

    fn drive_intx(&self, state: &mut State) {
        if state.asserts_intx() && !state.intx_signalled {
            state.intx_signalled = true;
            // Our own eventfd cannot fail, and if it did the driver would time out.
            let _ = self.intx.signal();
        }
    }

    // Sending

    fn send(&self, state: &mut State, vector: u16) {
        if let Some(entry) = state.table.get_mut(usize::from(vector)) {
            entry.pending = true;
            self.flush(state, vector.into());
        }
    }

    /// Send what is pending on `vector`, if it may be sent now.
    fn flush(&self, state: &mut State, vector: usize) {
        let open = state.msix_enabled && !state.function_masked;
        let Some(entry) = state.table.get_mut(vector) else { return };
        if !entry.pending || !open || entry.words[CONTROL] & MASKED != 0 {
            return;
        }
        entry.pending = false;
        let [low, high, data, _] = entry.words;
        if state.removed || !state.bus_master {
            return;
        }
        if low == 0 && high == 0 {
            return self.log.violation(format!("vector {vector} has no message address"));
        }
        if let Some(Some(receiver)) = state.receivers.get(data as usize) {
            // As above.
            let _ = receiver.signal();
        }
    }
}

impl State {
    fn asserts_intx(&self) -> bool {
        self.isr != 0 && !self.msix_enabled && !self.intx_disabled && !self.removed
    }
}

impl Notifier for Interrupts {
    /// VIRTIO 1.4, 4.1.5.3 Used Buffer Notifications.
    fn used_buffers(&self, queue: usize) {
        let mut state = self.lock();
        if state.msix_enabled {
            let vector = state.queue_vectors.get(queue).copied().unwrap_or(NO_VECTOR);
            self.send(&mut state, vector);
        } else {
            state.isr |= QUEUE;
            self.drive_intx(&mut state);
        }
    }

    /// VIRTIO 1.4, 4.1.5.4 Notification of Device Configuration Changes.
    fn config_changed(&self) {
        let mut state = self.lock();
        state.isr |= CONFIG;
        let vector = state.config_vector;
        if state.msix_enabled {
            self.send(&mut state, vector);
        } else {
            self.drive_intx(&mut state);
        }
    }
}
