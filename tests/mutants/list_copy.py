"""Mutants of `vioblk copy`: data that becomes Python objects on its way."""

from typing import Final

from tests.mutants.mutant import Mutant

ENDPOINTS: Final = "vioblk.cli.endpoints"
TEST: Final = (
    "tests/cli/test_copy_memory.py::test_a_copy_and_its_verification_hold_no_data_in_python_objects"
)

MUTANTS: Final = (
    Mutant(
        name="copy-writes-bytes",
        violation="turns what it writes to a file into bytes",
        function=f"{ENDPOINTS}:FileEndpoint.write",
        old="data[:length_bytes]",
        new="data[:length_bytes].tobytes()",
        test=TEST,
    ),
    Mutant(
        name="copy-compares-bytes",
        violation="compares copies of what was read",
        function="vioblk.cli.copy:compare",
        old="is_same(ours, theirs)",
        new="ours.tobytes() == theirs.tobytes()",
        test=TEST,
    ),
)
