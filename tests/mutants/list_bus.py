"""Mutants of the bus, of the legacy interface above the registers, and of events in a device's
life."""

from typing import Final

from tests.mutants.mutant import Mutant

BUS: Final = "vioblk.bus:Bus"
DEVICE: Final = "vioblk.device:VirtioDevice"

MUTANTS: Final = (
    Mutant(
        name="second-driver-replaces-the-first",
        violation="lets a second registration of a device type win",
        function=f"{BUS}.register",
        old="if other is not None:",
        new="if False:",
        test="tests/test_bus.py::test_a_second_driver_for_a_type_is_an_error_that_names_both",
    ),
    Mutant(
        name="order-of-loading-matters",
        violation="leaves devices alone that were found before their driver was registered",
        function=f"{BUS}.register",
        old="self._attach_waiting()",
        new="pass",
        test="tests/test_bus.py::test_driver_and_device_meet_in_either_order",
    ),
    Mutant(
        name="detaches-a-device-in-use",
        violation="lets go of a device while requests are in flight",
        function=f"{BUS}.detach",
        old="attached.close(drain=drain, timeout_s=timeout_s)",
        new="attached.close(drain=True, timeout_s=timeout_s)",
        test="tests/test_bus.py::test_a_device_in_use_refuses_to_detach",
    ),
    Mutant(
        name="refused-device-stays-open",
        violation="keeps a device that its driver could not attach to",
        function="vioblk.bus:attach_candidate",
        old="device.close(timeout_s=CLOSE_TIMEOUT_S)",
        new="pass",
        test="tests/test_bus.py::test_a_device_that_is_refused_says_why_and_is_let_go_of",
    ),
    Mutant(
        name="features-ok-on-legacy",
        violation="sets FEATURES_OK on the legacy interface (INIT-LEG-01)",
        function=f"{DEVICE}._confirm_features",
        old="if self.legacy:",
        new="if False:",
        test="tests/device/test_legacy.py::"
        "test_initialization_takes_the_same_steps_without_features_ok",
    ),
    Mutant(
        name="any-queue-size-on-legacy",
        violation="gives a legacy device's queue a size of its own (SPLIT-LEG-01)",
        function="vioblk.queues:DeviceQueues._check_size",
        old="if legacy and size != stated:",
        new="if False:",
        test="tests/device/test_legacy.py::"
        "test_a_queue_of_another_size_than_the_devices_is_refused",
    ),
    Mutant(
        name="any-layout-declined",
        violation="declines ANY_LAYOUT on the legacy interface (RSVD-LEG-01)",
        function="vioblk.features:_Chooser._judge",
        old="if bit == Feature.ANY_LAYOUT:",
        new="if False:",
        test="tests/test_features.py::"
        "test_any_layout_is_accepted_on_the_legacy_interface_when_it_is_offered",
    ),
    Mutant(
        name="time-out-without-a-look",
        violation="does not look at the status of a device that could not interrupt",
        function="vioblk.block.transfer:Transfers._explained",
        old="shown = look() if look else None",
        new="shown = None",
        test="tests/block/test_events.py::test_where_nobody_is_told_a_time_out_finds_out",
    ),
    Mutant(
        name="random-bytes-that-nobody-wrote",
        violation="hands out the whole buffer, however little the device wrote to it",
        function="vioblk.rng:EntropyDevice._request",
        old="bytes(view[:written_bytes])",
        new="bytes(view)",
        test="tests/test_rng.py::test_what_the_device_did_not_write_is_not_handed_out",
    ),
)
