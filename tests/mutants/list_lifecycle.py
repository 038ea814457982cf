"""Mutants of the life cycle, the negotiation and the configuration space."""

from typing import Final

from tests.mutants.mutant import Mutant

DEVICE: Final = "vioblk.device:VirtioDevice"
QUEUES: Final = "vioblk.queues:DeviceQueues"
DISK_QUEUE_RESET_TESTS: Final = "tests/block/test_queue_reset.py"
QUEUE_RESET_TESTS: Final = "tests/device/test_queue_reset.py"

MUTANTS: Final = (
    Mutant(
        name="reset-not-awaited",
        violation="goes on before the status reads 0",
        function=f"{DEVICE}._await_reset",
        old="!= 0:",
        new="< 0:",
        test="tests/device/test_reset.py::test_a_reset_is_over_only_when_the_status_reads_zero",
    ),
    Mutant(
        name="no-reset-at-first",
        violation="begins initialization without a reset",
        function=f"{DEVICE}.initialize",
        old="self._reset_and_reclaim(timeout_s)",
        new="pass",
        test="tests/device/test_initialization.py::test_initialization_takes_its_steps_in_order",
    ),
    Mutant(
        name="features-ok-not-read-back",
        violation="takes FEATURES_OK for set without looking",
        function=f"{DEVICE}._confirm_features",
        old="if not self._read_status() & Status.FEATURES_OK:",
        new="if False:",
        test="tests/device/test_initialization.py::"
        "test_a_device_that_clears_features_ok_is_not_used",
    ),
    Mutant(
        name="accepts-what-is-not-offered",
        violation="writes back every wanted feature, offered or not",
        function=f"{DEVICE}._confirm_features",
        old="write_features(self.accepted.mask)",
        new="write_features(self.accepted.mask | self._negotiation.wanted.mask)",
        test="tests/device/test_initialization.py::"
        "test_what_is_written_back_is_offered_and_understood",
    ),
    Mutant(
        name="accepts-reserved-bits",
        violation="treats reserved bits as if they meant something",
        function="vioblk.features:why_unusable",
        old='return "reserved, or not defined by VIRTIO 1.4"',
        new="return None",
        test="tests/test_features.py::test_undefined_and_reserved_bits_count_as_not_offered",
    ),
    Mutant(
        name="prerequisites-ignored",
        violation="accepts a feature without the one it needs",
        function="vioblk.features:_drop_orphans",
        old="if not orphans:",
        new="if True:",
        test="tests/test_features.py::test_a_feature_is_declined_without_its_prerequisite",
    ),
    Mutant(
        name="version-1-optional",
        violation="drives a legacy device as if it were a modern one",
        function="vioblk.features:negotiate",
        old="wish.required | {Feature.VERSION_1}",
        new="wish.required",
        test="tests/device/test_initialization.py::test_a_legacy_device_is_refused_and_failed",
    ),
    Mutant(
        name="config-written-in-negotiation",
        violation="lets configuration be written before FEATURES_OK",
        function=f"{DEVICE}.write_config",
        old="@allowed_in(DeviceState.FEATURES_OK, DeviceState.LIVE)",
        new="@allowed_in(*ANY_STATE)",
        test="tests/device/test_initialization.py::"
        "test_configuration_cannot_be_written_during_negotiation",
    ),
    Mutant(
        name="queues-before-driver-ok",
        violation="makes the objects that can notify before DRIVER_OK is set",
        function=f"{DEVICE}._go_live",
        old=("self._advance(Status.DRIVER_OK, DeviceState.LIVE)\n    self._queues.bring_up()\n"),
        new=("self._queues.bring_up()\n    self._advance(Status.DRIVER_OK, DeviceState.LIVE)\n"),
        test="tests/device/test_initialization.py::test_nothing_can_notify_before_driver_ok",
    ),
    Mutant(
        name="driver-ok-before-queues",
        violation="sets DRIVER_OK, and only then sets the queues up",
        function=f"{DEVICE}.initialize",
        old="driver.start(self)",
        new=(
            "self.transport.write_status(15); self._status_written |= Status.DRIVER_OK; "
            "driver.start(self)"
        ),
        test="tests/device/test_initialization.py::"
        "test_queues_are_set_up_between_features_ok_and_driver_ok",
    ),
    Mutant(
        name="no-failed-on-error",
        violation="leaves the status as it is when initialization fails",
        function=f"{DEVICE}._fail",
        old="self._advance(Status.FAILED, DeviceState.FAILED)",
        new="pass",
        test="tests/device/test_initialization.py::"
        "test_a_driver_that_fails_leaves_the_device_failed",
    ),
    Mutant(
        name="goes-on-after-an-error",
        violation="brings a device to life whose driver has refused it",
        function=f"{DEVICE}.initialize",
        old="        driver.check(self)\n",
        new=(
            "        try:\n"
            "            driver.check(self)\n"
            "        except MemoryError:\n"
            "            pass\n"
        ),
        test="tests/device/test_initialization.py::"
        "test_a_driver_that_fails_leaves_the_device_failed",
    ),
    Mutant(
        name="status-bits-dropped",
        violation="writes only the new bit of the status",
        function=f"{DEVICE}._advance",
        old="int(current | self._status_written)",
        new="int(bit)",
        test="tests/device/test_status.py::test_each_step_adds_its_bit_and_keeps_those_before",
    ),
    Mutant(
        name="reclaims-before-the-reset",
        violation="takes buffers back while the device may still use them",
        function=f"{DEVICE}._await_reset",
        old="transport = self.transport\n",
        new='transport = self.transport\n    self._stop_driver(self._reclaim_queues("early"))\n',
        test="tests/device/test_reset.py::test_a_ring_is_left_alone_until_the_reset_is_confirmed",
    ),
    Mutant(
        name="no-generation-loop",
        violation="believes a configuration that changed while it was read",
        function="vioblk.config_space:read_snapshot",
        old="if steady and",
        new="if",
        test="tests/test_config_space.py::"
        "test_a_value_that_changes_between_its_halves_is_never_seen_torn",
    ),
    Mutant(
        name="eight-bytes-at-once",
        violation="reads an eight-byte field in one piece",
        function="vioblk.config_space:_read",
        old="if field.width == 8:",
        new="if False:",
        test="tests/test_config_space.py::test_eight_bytes_are_read_as_two_halves",
    ),
    Mutant(
        name="reads-fields-of-features-not-offered",
        violation="touches configuration fields that do not exist",
        function=f"{DEVICE}._exists",
        old="field.feature is None or",
        new="True or",
        test="tests/test_config_space.py::"
        "test_a_field_is_not_touched_unless_its_feature_is_offered",
    ),
    Mutant(
        name="waits-for-a-device-that-needs-a-reset",
        violation="drains a device that has asked for a reset",
        function=f"{DEVICE}._drain",
        old="if self._state is not DeviceState.LIVE or",
        new="if",
        test="tests/device/test_status.py::"
        "test_requests_of_a_device_that_needs_a_reset_are_neither_awaited_nor_believed",
    ),
    Mutant(
        name="queue-reset-not-awaited-by-anybody",
        violation="takes a queue for reset without asking the device (VQRESET-01)",
        function=f"{QUEUES}.reset",
        old="self._open_transport().reset_queue(index, timeout_s)",
        new="pass",
        test=f"{QUEUE_RESET_TESTS}::"
        "test_a_queue_is_given_up_then_reset_then_taken_back_then_set_up_and_built_again",
    ),
    Mutant(
        name="queue-taken-back-before-its-reset",
        violation="takes back what is in flight on a queue before its reset (VQRESET-01)",
        function=f"{QUEUES}.reset",
        old="self._open_transport().reset_queue(index, timeout_s)\n    handle.take_back()\n",
        new="handle.take_back()\n    self._open_transport().reset_queue(index, timeout_s)\n",
        test=f"{QUEUE_RESET_TESTS}::test_a_ring_is_left_alone_until_the_queue_reset_is_confirmed",
    ),
    Mutant(
        name="queue-enabled-where-it-was",
        violation="tells the device of a new ring, and means the old one (VQRESET-03)",
        function=f"{QUEUES}._set_up",
        old="ring = self._memory.alloc(layout.length)",
        new="ring = self._rings.get(index) or self._memory.alloc(layout.length)",
        test=f"{QUEUE_RESET_TESTS}::"
        "test_all_of_a_queue_is_programmed_again_and_its_size_may_be_another",
    ),
    Mutant(
        name="queue-in-use-during-its-reset",
        violation="lets others go on with a queue that is being reset",
        function=f"{QUEUES}.reset",
        old="handle.queue.abort(",
        new="str(",
        test=f"{QUEUE_RESET_TESTS}::"
        "test_a_reset_that_is_cut_short_leaves_the_queue_unused_and_can_be_made_again",
    ),
    Mutant(
        name="lost-of-a-queue-forgotten",
        violation="forgets what a reset of a queue that did not succeed had taken back",
        function="vioblk.driver:QueueHandle.take_back",
        old="self.lost.extend(",
        new="self.lost = list(",
        test=f"{QUEUE_RESET_TESTS}::"
        "test_what_a_failed_reset_of_a_queue_took_back_is_told_by_that_of_the_device",
    ),
    Mutant(
        name="queue-used-after-a-failed-reset",
        violation="spreads requests over a queue whose reset did not succeed",
        function="vioblk.block.transfer:Transfers.next_queue",
        old="if chosen.broken is None:",
        new="if True:",
        test=f"{DISK_QUEUE_RESET_TESTS}::"
        "test_a_queue_whose_reset_is_not_confirmed_is_not_used_and_the_others_are",
    ),
    Mutant(
        name="completions-of-a-reset-queue-forgotten",
        violation="tells nobody of completions that were not taken before a queue's reset",
        function="vioblk.block.driver:BlockDriver.reset_queue",
        old="return lost + _take_tokens(before)",
        new="return lost",
        test=f"{DISK_QUEUE_RESET_TESTS}::test_completions_that_nobody_has_taken_are_told_as_well",
    ),
    Mutant(
        name="polling-forgotten-in-a-reset",
        violation="asks for interrupts again for a queue that was to poll, after a reset",
        function="vioblk.block.driver:BlockDriver._build",
        old="if parts.index in self.polled:",
        new="if False:",
        test="tests/block/test_polling.py::"
        "test_the_disk_says_which_queues_poll_and_resets_change_nothing",
    ),
    Mutant(
        name="chosen-queue-ignored",
        violation="lets the queues take turns though the caller has chosen one",
        function="vioblk.block.disk:BlockDevice.execute",
        old="chosen = None if queue is None else self._queue(queue)",
        new="chosen = None",
        test="tests/block/test_polling.py::test_a_queue_that_polls_never_asks_for_an_interrupt",
    ),
)
