//! Every memory barrier of the package, by name, with the clause that asks for it.
//!
//! Ring words are relaxed atomics, so all order between them comes from the fences here. They are
//! written for x86-64 and aarch64; other architectures are refused at compile time (lib.rs).
//!
//! Under `cfg(loom)` one fence at a time can be left out ([`mutant::without`]): each omission
//! must make a model fail, which shows that the fence is needed and that the models see it.

#[cfg(loom)]
use loom::sync::atomic::fence;
use std::sync::atomic::Ordering::{Acquire, Release, SeqCst};
#[cfg(not(loom))]
use std::sync::atomic::fence;

/// The fences, as the mutants name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each is documented at the function of the same name
pub enum Fence {
    BeforePublish,
    BeforeNotifyCheck,
    AfterUsedIndex,
    AfterArm,
    BeforeDoorbell,
    DeviceAfterAvailableIndex,
    DeviceBeforeUsedIndex,
    DeviceBeforeInterruptCheck,
    DeviceAfterArm,
}

#[inline(always)]
fn ordered(name: Fence, order: std::sync::atomic::Ordering) {
    #[cfg(loom)]
    if mutant::left_out() == Some(name) {
        return;
    }
    let _ = name;
    fence(order);
}

/// A barrier that reaches real devices: they are in the outer shareable domain, and the language's
/// fences end at the inner one. VIRTIO 1.4, 6.1 Driver Requirements: Reserved Feature Bits
/// (ORDER_PLATFORM, RSVD-08). On x86-64 there is one domain, and the fences reach it all.
macro_rules! reaching_devices {
    ($barrier:literal) => {
        #[cfg(all(target_arch = "aarch64", not(loom)))]
        // SAFETY: a barrier instruction; it touches no memory of its own, no stack and no flags.
        unsafe {
            std::arch::asm!($barrier, options(nostack, preserves_flags));
        }
    };
}

/// Driver: descriptors, available entries and payload become visible before the available index;
/// on a packed ring, before the flags of the first descriptor.
/// VIRTIO 1.4, 2.7.13.3 Updating idx (SPLIT-BARRIER-01), 2.8.21.1.1 Driver
/// Requirements: Updating flags (PACKED-BARRIER-01).
#[inline(always)]
pub fn before_publish() {
    reaching_devices!("dmb osh");
    ordered(Fence::BeforePublish, Release);
}

/// Driver: the available index, or the flags, become visible before the device's suppression is
/// read, else both sides can miss each other. VIRTIO 1.4, 2.7.13.4 Notifying The Device
/// (SPLIT-BARRIER-02), 2.8.21.3.1 Driver Requirements: Sending Available Buffer Notifications
/// (PACKED-BARRIER-02).
#[inline(always)]
pub fn before_notify_check() {
    reaching_devices!("dmb osh");
    ordered(Fence::BeforeNotifyCheck, SeqCst);
}

/// Driver: used entries and payload are read after the used index that announced them; on a packed
/// ring, after the flags of the used descriptor.
/// VIRTIO 1.4, 2.7.14 and 2.8.22 Receiving Used Buffers From The Device.
#[inline(always)]
pub fn after_used_index() {
    reaching_devices!("dmb oshld");
    ordered(Fence::AfterUsedIndex, Acquire);
}

/// Driver: the wish for a notification becomes visible before the used index, or the flags, are
/// checked again. VIRTIO 1.4, 2.7.14 and 2.8.22 Receiving Used Buffers From The Device
/// (SPLIT-RECV-01, PACKED-RECV-01).
#[inline(always)]
pub fn after_arm() {
    reaching_devices!("dmb osh");
    ordered(Fence::AfterArm, SeqCst);
}

/// Driver: ring stores reach the device before the doorbell does, also when the doorbell is a
/// store to device memory. VIRTIO 1.4, 6.1 Driver Requirements: Reserved Feature Bits
/// (ORDER_PLATFORM, RSVD-08).
#[inline(always)]
pub fn before_doorbell() {
    reaching_devices!("dmb oshst");
    ordered(Fence::BeforeDoorbell, Release);
}

/// Device: available entries and descriptors are read after the available index.
#[inline(always)]
pub fn device_after_available_index() {
    ordered(Fence::DeviceAfterAvailableIndex, Acquire);
}

/// Device: used entries and payload become visible before the used index.
#[inline(always)]
pub fn device_before_used_index() {
    ordered(Fence::DeviceBeforeUsedIndex, Release);
}

/// Device: the used index becomes visible before the driver's suppression is read.
#[inline(always)]
pub fn device_before_interrupt_check() {
    ordered(Fence::DeviceBeforeInterruptCheck, SeqCst);
}

/// Device: the wish for a kick becomes visible before the available index is checked again.
#[inline(always)]
pub fn device_after_arm() {
    ordered(Fence::DeviceAfterArm, SeqCst);
}

/// Fences left out on purpose, for the models only.
#[cfg(loom)]
pub mod mutant {
    use super::Fence;
    use std::cell::Cell;

    // loom runs all modelled threads on the thread that called it, so this reaches them all.
    thread_local!(static LEFT_OUT: Cell<Option<Fence>> = const { Cell::new(None) });

    pub(super) fn left_out() -> Option<Fence> {
        LEFT_OUT.get()
    }

    /// Run `model` with one fence left out.
    pub fn without<T>(fence: Fence, model: impl FnOnce() -> T) -> T {
        struct Restore;
        impl Drop for Restore {
            fn drop(&mut self) {
                LEFT_OUT.set(None);
            }
        }
        let _restore = Restore;
        LEFT_OUT.set(Some(fence));
        model()
    }
}
