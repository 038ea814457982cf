"""The software device behind the legacy interface, as the driver must find and treat it."""

from tests.block.recording import RecordingTransport
from vioblk.block.features import LEGACY_ONLY as LEGACY_ONLY_BLOCK
from vioblk.features import LEGACY_ONLY, Feature
from vioblk.status import Status
from vioblk.transport.base import QueueAddresses, QueueWires

LEGACY_ALIGN = 4096
LEGACY_MASK = 0xFFFF_FFFF
UNKNOWN_BENEATH = sum(1 << bit for bit in LEGACY_ONLY | LEGACY_ONLY_BLOCK)


class LegacyTransport(RecordingTransport):
    """32 feature bits, no FEATURES_OK, no generation, queues in one piece and of the device's
    size. What no driver may do on the legacy interface fails the test.
    """

    legacy_align = LEGACY_ALIGN

    def read_features(self) -> int:
        return super().read_features() & LEGACY_MASK

    def write_features(self, accepted: int) -> None:
        assert not accepted & ~self.read_features(), f"{accepted:#x} was not offered"
        super().write_features(accepted & ~UNKNOWN_BENEATH | 1 << Feature.VERSION_1)
        self.accepted = accepted
        self.inner.write_status(self.inner.read_status() | Status.FEATURES_OK)

    def read_status(self) -> int:
        return super().read_status() & ~Status.FEATURES_OK

    def write_status(self, value: int) -> None:
        assert not value & Status.FEATURES_OK, "the legacy interface has no FEATURES_OK"
        hidden = self.inner.read_status() & Status.FEATURES_OK if value else 0
        super().write_status(value | hidden)

    def config_generation(self) -> int:
        return 0

    def enable_queue(self, index: int, addresses: QueueAddresses) -> QueueWires:
        size, start = addresses.size, addresses.descriptors_address
        assert size == self.queue_size_max(index)
        assert start % LEGACY_ALIGN == 0
        assert addresses.driver_address == start + 16 * size
        unrounded = start + 16 * size + 6 + 2 * size
        assert addresses.device_address == -(-unrounded // LEGACY_ALIGN) * LEGACY_ALIGN
        return super().enable_queue(index, addresses)
