//! The PCI face: MSI-X, the ISR status and INTx.

use shm::Width;
use softdev::Fault;

use crate::bar::{Bar, CONFIG_MSIX_VECTOR, QUEUE_MSIX_VECTOR, assert_says};
use crate::driver::*;

use Width::{Bits8, Bits16, Bits32};

const NO_VECTOR: u32 = 0xFFFF;
const MASKED: u32 = 1;

/// Where messages go; any address does.
const ADDRESS: u32 = 0xFEE0_0000;

fn entry(bar: &Bar, vector: usize) -> usize {
    bar.at("msix_table") + 16 * vector
}

fn program(bar: &Bar, vector: usize, data: u32) {
    for (word, value) in [(0, ADDRESS), (4, 0), (8, data), (12, 0)] {
        bar.set(entry(bar, vector) + word, Bits32, value);
    }
}

/// MSI-X with queue 0 on vector 1 and configuration on vector 2, each message with the vector as
/// its data.
fn with_msix() -> Bar {
    let mut bar = Bar::offering(0);
    for vector in 0..4 {
        bar.face.message_fd(vector).unwrap();
    }
    (0..4).for_each(|vector| program(&bar, vector as usize, vector));
    bar.face.set_msix(true, false);
    bar.negotiate(FEATURES);
    bar.program();
    bar.set(CONFIG_MSIX_VECTOR, Bits16, 2);
    bar.set(QUEUE_MSIX_VECTOR, Bits16, 1);
    bar.set(0x1C, Bits16, 1);
    bar.set(0x14, Bits8, 15);
    bar
}

/// Signals by message data since the last time.
fn messages(bar: &Bar) -> [u64; 4] {
    [0, 1, 2, 3].map(|data| signals(bar.face.message_fd(data).unwrap()))
}

fn complete(bar: &mut Bar) {
    bar.offer_flush();
    bar.driver.device.serve(usize::MAX).unwrap();
    let used = bar.driver.used_index();
    bar.driver.set_used_event(used);
}

fn change_config(bar: &Bar) {
    bar.driver.device.resize(CAPACITY_SECTORS + 8).unwrap();
}

#[test]
fn each_event_is_sent_by_its_vector_and_intx_stays_down() {
    let mut bar = with_msix();
    complete(&mut bar);
    assert_eq!(messages(&bar), [0, 1, 0, 0]);
    change_config(&bar);
    assert_eq!(messages(&bar), [0, 0, 1, 0]);
    assert!(!bar.face.intx_asserted());
    assert_eq!(signals(bar.face.intx_fd()), 0);
    bar.assert_clean();
}

#[test]
fn a_vector_sends_what_its_entry_says() {
    let mut bar = with_msix();
    bar.set(entry(&bar, 1) + 12, Bits32, MASKED);
    program(&bar, 1, 3);
    complete(&mut bar);
    assert_eq!(messages(&bar), [0, 0, 0, 1]);
    bar.assert_clean();
}

#[test]
fn a_masked_vector_is_pending_and_sent_when_it_is_unmasked() {
    let mut bar = with_msix();
    let pending = bar.at("msix_pending");
    bar.set(entry(&bar, 1) + 12, Bits32, MASKED);
    complete(&mut bar);
    assert_eq!((messages(&bar), bar.get(pending, Bits32)), ([0; 4], 1 << 1));
    bar.set(entry(&bar, 1) + 12, Bits32, 0);
    assert_eq!((messages(&bar), bar.get(pending, Bits32)), ([0, 1, 0, 0], 0));
    bar.face.set_msix(true, true);
    complete(&mut bar);
    complete(&mut bar);
    assert_eq!((messages(&bar), bar.get(pending, Bits32)), ([0; 4], 1 << 1));
    bar.face.set_msix(true, false);
    assert_eq!(messages(&bar), [0, 1, 0, 0], "one message stands for both");
    bar.assert_clean();
}

#[test]
fn an_event_without_a_vector_sends_nothing() {
    let mut bar = with_msix();
    bar.set(CONFIG_MSIX_VECTOR, Bits16, NO_VECTOR);
    assert_eq!(bar.get(CONFIG_MSIX_VECTOR, Bits16), NO_VECTOR);
    change_config(&bar);
    assert_eq!(messages(&bar), [0; 4]);
    complete(&mut bar);
    assert_eq!(messages(&bar), [0, 1, 0, 0]);
}

#[test]
fn all_events_are_unmapped_after_a_reset() {
    let mut bar = with_msix();
    bar.negotiate(FEATURES);
    assert_eq!(bar.get(CONFIG_MSIX_VECTOR, Bits16), NO_VECTOR);
    assert_eq!(bar.get(QUEUE_MSIX_VECTOR, Bits16), NO_VECTOR);
}

#[test]
fn a_vector_that_the_table_does_not_have_is_noticed_and_refused() {
    let bar = Bar::offering(0);
    bar.set(CONFIG_MSIX_VECTOR, Bits16, 4);
    assert_says(&bar.violation(), "vector 4 of a table of 4");
    assert_eq!(bar.get(CONFIG_MSIX_VECTOR, Bits16), NO_VECTOR);
}

#[test]
fn vectors_are_refused_from_the_one_on_that_the_fault_names() {
    let bar = Bar::offering(0);
    bar.driver.device.inject(Fault::RefuseVector, 3, 0, 2).unwrap();
    for (vector, read) in [(1, 1), (2, NO_VECTOR), (3, NO_VECTOR), (3, 3)] {
        bar.set(CONFIG_MSIX_VECTOR, Bits16, vector);
        assert_eq!(bar.get(CONFIG_MSIX_VECTOR, Bits16), read);
    }
    bar.assert_clean();
}

#[test]
fn a_vector_without_an_address_is_noticed() {
    let mut bar = with_msix();
    bar.set(entry(&bar, 1) + 12, Bits32, MASKED);
    bar.set(entry(&bar, 1), Bits32, 0);
    bar.set(entry(&bar, 1) + 12, Bits32, 0);
    complete(&mut bar);
    assert_says(&bar.violation(), "vector 1 has no message address");
}

#[test]
fn an_entry_is_changed_while_it_is_masked() {
    let bar = with_msix();
    bar.set(entry(&bar, 1) + 8, Bits32, 3);
    assert_says(&bar.violation(), "changed while unmasked");
}

#[test]
fn messages_need_bus_mastering_and_a_device_that_is_there() {
    let bar = with_msix();
    bar.face.set_command(true, false, false);
    change_config(&bar);
    assert_eq!(messages(&bar), [0; 4]);
    bar.face.set_command(true, true, false);
    change_config(&bar);
    assert_eq!(messages(&bar), [0, 0, 1, 0]);
    bar.face.remove();
    change_config(&bar);
    assert_eq!(messages(&bar), [0; 4]);
}

#[test]
fn without_msix_the_isr_says_what_happened_and_reading_clears_it() {
    let mut bar = Bar::offering(0);
    bar.start(FEATURES);
    let isr = bar.at("isr");
    assert_eq!(bar.get(isr, Bits8), 0);
    complete(&mut bar);
    assert!(bar.face.intx_asserted() && bar.face.interrupt_status());
    assert_eq!((bar.get(isr, Bits8), bar.get(isr, Bits8)), (1, 0));
    assert!(!bar.face.intx_asserted() && !bar.face.interrupt_status());
    change_config(&bar);
    complete(&mut bar);
    assert_eq!((bar.get(isr, Bits8), bar.get(isr, Bits8)), (3, 0));
}

#[test]
fn intx_signals_when_it_rises_and_again_only_if_it_is_up_when_acknowledged() {
    let mut bar = Bar::offering(0);
    bar.start(FEATURES);
    let intx = |bar: &Bar| signals(bar.face.intx_fd());
    complete(&mut bar);
    complete(&mut bar);
    assert_eq!(intx(&bar), 1);
    bar.get(bar.at("isr"), Bits8);
    complete(&mut bar);
    assert_eq!(intx(&bar), 0, "not before the acknowledgement");
    bar.face.acknowledge_intx();
    assert_eq!(intx(&bar), 1, "it is up");
    bar.get(bar.at("isr"), Bits8);
    bar.face.acknowledge_intx();
    assert_eq!(intx(&bar), 0, "it is down");
}

#[test]
fn intx_that_is_switched_off_stays_down_and_rises_when_it_is_switched_on() {
    let mut bar = Bar::offering(0);
    bar.start(FEATURES);
    bar.face.set_command(true, true, true);
    complete(&mut bar);
    assert!(!bar.face.intx_asserted() && bar.face.interrupt_status());
    assert_eq!(signals(bar.face.intx_fd()), 0);
    bar.face.set_command(true, true, false);
    assert_eq!(signals(bar.face.intx_fd()), 1);
}

#[test]
fn spurious_interrupts_go_the_way_of_the_true_ones() {
    let bar = with_msix();
    bar.driver.device.inject(Fault::SpuriousInterrupt, 1, 0, 0).unwrap();
    bar.driver.device.inject(Fault::SpuriousConfigInterrupt, 2, 0, 0).unwrap();
    assert_eq!(messages(&bar), [0, 1, 2, 0]);
}

#[test]
fn a_device_that_needs_a_reset_says_so_as_a_change_of_configuration() {
    let bar = with_msix();
    bar.driver.device.inject(Fault::NeedsReset, 1, 0, 0).unwrap();
    assert_eq!(messages(&bar), [0, 0, 1, 0]);
    assert!(bar.driver.needs_reset());
}
