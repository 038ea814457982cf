"""What QEMU's device has seen and done, as QEMU itself tells it."""

from pathlib import Path
from typing import NamedTuple

from vioblk.transport.qemu import Machine


class Seen(NamedTuple):
    """One event of QEMU's device."""

    event: str
    values: dict[str, int]


class QemuTrace:
    """Writes trace events of a QEMU to a file, from now on."""

    def __init__(self, machine: Machine, log: Path, *events: str) -> None:
        self._log = log
        for command in (f"logfile {log}", *(f"trace-event {event} on" for event in events)):
            said = machine.hmp(command)
            assert said == "", f"{command}: {said}"

    def seen(self, *events: str) -> list[Seen]:
        """All so far, in their order; only those named, if any are."""
        found = [_parse(line) for line in self._log.read_text().splitlines()]
        return [each for each in found if not events or each.event in events]


def _parse(line: str) -> Seen:
    """The name of the event, then names and values in turn."""
    event, *words = line.split()
    return Seen(event, {words[i]: int(words[i + 1], 0) for i in range(0, len(words) - 1, 2)})
