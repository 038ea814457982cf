"""Mutants of the block driver and the disk."""

from typing import Final

from tests.mutants.mutant import Mutant

DISK: Final = "vioblk.block.disk:BlockDevice"
DRIVER: Final = "vioblk.block.driver:BlockDriver"
TRANSFERS: Final = "vioblk.block.transfer:Transfers"
SLOTS: Final = "vioblk.block.reference_slots:Slots"
CHECK: Final = "vioblk.block.reference_records:_Check"

WIRE: Final = "tests/block/test_wire.py"
CACHE: Final = "tests/block/test_cache.py"
REFUSALS: Final = "tests/block/test_refusals.py"
CONFIG: Final = "tests/block/test_config.py"

MUTANTS: Final = (
    Mutant(
        name="flush-skipped",
        violation="sends no flush while writeback reads 0",
        function=f"{DISK}.flush",
        old="if self._driver.features.flush:",
        new="if self._driver.features.flush and self._writeback():",
        test=f"{WIRE}::test_a_flush_is_sent_whatever_writeback_reads",
    ),
    Mutant(
        name="discard-with-unmap",
        violation="sets the unmap flag in discard segments",
        function=f"{SLOTS}.write",
        old="request.flags",
        new="request.flags | (request.type == RequestType.DISCARD)",
        test=f"{WIRE}::test_a_long_discard_is_requests_of_one_segment_without_flags",
    ),
    Mutant(
        name="flush-with-sector",
        violation="puts the last sector in flush requests",
        function=f"{SLOTS}.write",
        old="else request.sector",
        new="else request.sector or 2047 * (request.type == RequestType.FLUSH)",
        test=f"{WIRE}::test_a_flush_has_sector_zero_and_no_data",
    ),
    Mutant(
        name="beyond-capacity",
        violation="lets records reach past the capacity",
        function=f"{CHECK}._range_is_permitted",
        old="> capacity:",
        new="> capacity + 1:",
        test=f"{REFUSALS}::test_nothing_reaches_past_the_capacity_even_as_a_record",
    ),
    Mutant(
        name="long-serial",
        violation="asks for the serial with 24 bytes",
        function=f"{CHECK}.checked",
        old='self._must_be("length", record.length, ID_BYTES)',
        new="pass",
        test=f"{WIRE}::test_a_serial_record_of_another_length_is_refused",
    ),
    Mutant(
        name="long-discard",
        violation="asks for more in a discard than the device takes",
        function=f"{TRANSFERS}.erase",
        old="piece, align = limits.discard_bytes,",
        new="piece, align = 2 * limits.discard_bytes,",
        test=f"{WIRE}::test_a_long_discard_is_requests_of_one_segment_without_flags",
    ),
    Mutant(
        name="writeback-read-early",
        violation="looks at the cache before FEATURES_OK",
        function=f"{DRIVER}.check",
        old='"""Nothing to object to: each feature can be done without."""',
        new="device.transport.read_config(0x20, 1)",
        test=f"{CONFIG}::test_writeback_is_not_read_before_features_ok",
    ),
    Mutant(
        name="ro-declined",
        violation="does not accept RO",
        function=f"{DRIVER}.wish",
        old="wanted, declined = WANTED, dict(DECLINED)",
        new="wanted, declined = WANTED - {BlockFeature.RO}, dict(DECLINED)",
        test=f"{REFUSALS}::test_ro_is_accepted_where_it_is_offered",
    ),
    Mutant(
        name="cache-presumed-safe",
        violation="takes the cache for writethrough though FLUSH was negotiated",
        function=f"{DISK}._writeback",
        old="return self._driver.features.flush",
        new="return False",
        test=f"{CACHE}::test_with_flush_alone_a_volatile_cache_is_presumed",
    ),
    Mutant(
        name="capacity-never-looked-at-again",
        violation="keeps the capacity that it read first",
        function=f"{DRIVER}.refresh",
        old="self.config = config",
        new="pass",
        test="tests/block/test_events.py::test_a_change_while_the_device_comes_to_life_is_seen",
    ),
    Mutant(
        name="capacity-seen-before-it-holds",
        violation="shows a new capacity before the queues let requests use it",
        function=f"{DRIVER}.refresh",
        old="config = read_block_config(device)",
        new="config = self.config = read_block_config(device)",
        test="tests/block/test_events.py::"
        "test_queues_are_held_to_another_capacity_before_anybody_can_see_it",
    ),
)
