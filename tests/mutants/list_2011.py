"""Mutants that make the mistakes of the 2011 port, and of other ports."""

from typing import Final

from tests.mutants.mutant import Mutant

FAULTS: Final = "tests/interop/test_faults_2011.py"
SCENARIO: Final = "tests/interop/test_scenario_2011.py"
QUEUE: Final = "vioblk.block.reference_queue:ReferenceBlockQueue"
MACHINE: Final = "vioblk.transport.qemu.machine"

MUTANTS: Final = (
    Mutant(
        name="preferred-size-is-a-limit",
        violation="takes the preferred size of TOPOLOGY for the largest transfer",
        function="vioblk.block.limits:disk_limits",
        old="config.size_max or 0",
        new="config.size_max or (config.topology.opt_io_size * 512 if config.topology else 0)",
        test=f"{FAULTS}::test_bit_10_is_topology_and_limits_no_transfer",
    ),
    Mutant(
        name="attaching-needs-geometry",
        violation="cannot attach to a disk without GEOMETRY",
        function="vioblk.block.driver:BlockDriver.start",
        old="self.features = RequestFeatures.of(",
        new="self.config.geometry.heads; self.features = RequestFeatures.of(",
        test=f"{FAULTS}::test_attaching_needs_no_geometry_and_no_other_feature",
    ),
    Mutant(
        name="each-completion-restarts-one",
        violation="submits one request of the backlog each time that something was completed",
        function=f"{QUEUE}._submit",
        old="range(start, len(checked))",
        new="range(start, min(start + (1 if start else self.size), len(checked)))",
        test=f"{FAULTS}::test_one_completion_restarts_all_of_the_backlog_that_fits[today-reference]",
    ),
    Mutant(
        name="what-does-not-fit-goes-to-the-end",
        violation="lets the requests behind go before one that does not fit",
        function=f"{QUEUE}._run",
        old="submitted_count += self._submit(",
        new="checked[submitted_count:] = sorted(checked[submitted_count:], key=lambda each: "
        "each.sector if submitted_count else 0); submitted_count += self._submit(",
        test=f"{FAULTS}::test_a_request_that_does_not_fit_now_keeps_its_place[today-reference]",
    ),
    Mutant(
        name="two-drivers-have-one-device",
        violation="lets a second driver reach a device that is driven already",
        function="vioblk.transport.qemu.events:News.follow",
        old="return False",
        new="return True",
        test=f"{SCENARIO}::test_a_device_has_one_driver_at_a_time",
    ),
    Mutant(
        name="interrupt-goes-nowhere",
        violation="leaves the interrupt routing of the chipset as a reset has left it",
        function=f"{MACHINE}:Machine.place_device",
        old="self.chipset.route(self.location, self.settings.irq)",
        new="pass",
        test=f"{SCENARIO}::test_the_registers_are_where_qemu_has_them_too",
    ),
)
