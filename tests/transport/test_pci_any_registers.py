"""Whatever the registers and the configuration space of a function read as, and however that
changes from one look to the next: the driver ends in bounded time, with an error of its own."""

import random
import time
from contextlib import suppress
from typing import Final

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pci.spaces import ModelSpace
from tests.support.leaks import no_leaks
from tests.support.pci_model import ModelPlatform, legacy_space, modern_space
from vioblk._native import Gate
from vioblk.block.driver import BlockDriver, QueueOptions
from vioblk.device import VirtioDevice
from vioblk.errors import ResetTimeoutError, VioblkError
from vioblk.features import Feature
from vioblk.pci.registers import check_access
from vioblk.status import DeviceState
from vioblk.transport.pci import INTERRUPT_MODES, PciTransport

RESET_TIMEOUT_S: Final = 0.01
BOUND_S: Final = 30.0

PLATFORM_FEATURES: Final = (
    Feature.ACCESS_PLATFORM,
    Feature.ORDER_PLATFORM,
    Feature.NOTIFICATION_DATA,
    Feature.NOTIF_CONFIG_DATA,
)

VALUES: Final = (0, 1, 2, 3, 4, 8, 15, 128, 256, 4096, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF, 0xFFFF_FFFF)


class FickleRegisters:
    """Mostly memory; but what was written is not always kept, nor read back."""

    def __init__(self, data: bytes, chance: random.Random, fickleness: float) -> None:
        self.data = bytearray(data)
        self.chance = chance
        self.fickleness = fickleness

    @property
    def length(self) -> int:
        return len(self.data)

    def read(self, offset: int, width: int) -> int:
        check_access(offset, width, self.length)
        if self.chance.random() < self.fickleness:
            return self.chance.choice(VALUES) & ((1 << 8 * width) - 1)
        return int.from_bytes(self.data[offset : offset + width], "little")

    def write(self, offset: int, width: int, value: int) -> None:
        check_access(offset, width, self.length)
        stored = value.to_bytes(width, "little")
        if self.chance.random() >= self.fickleness:
            self.data[offset : offset + width] = stored


def modern_registers(chance: random.Random) -> bytes:
    """With two queues, two sectors, and some features of disks."""
    data = bytearray(0x4000)
    data[0x04:0x08] = chance.getrandbits(32).to_bytes(4, "little")
    if chance.random() < 0.9:
        # Where the upper bits are the lower ones again, VERSION_1 is among them.
        data[0x04] |= 1
    data[0x12:0x14] = chance.choice((1, 2, 0xFFFF)).to_bytes(2, "little")
    data[0x18:0x1A] = chance.choice((1, 128, 256, 300, 0x8000, 0xFFFF)).to_bytes(2, "little")
    data[0x1E:0x20] = chance.choice((0, 1, 0xFFFF)).to_bytes(2, "little")
    data[0x2000:0x2008] = chance.choice((0, 2048, (1 << 64) - 1)).to_bytes(8, "little")
    return bytes(data)


def legacy_registers(chance: random.Random) -> bytes:
    data = bytearray(0x40)
    data[0:4] = chance.getrandbits(32).to_bytes(4, "little")
    data[12:14] = chance.choice((1, 128, 256, 300, 0x8000, 0xFFFF)).to_bytes(2, "little")
    data[20:28] = (2048).to_bytes(8, "little")
    return bytes(data)


def fickle_function(chance: random.Random) -> ModelPlatform:
    vector_count = chance.choice((0, 1, 2, 4, 2048))
    fickleness = chance.choice((0.0, 0.02, 0.1, 0.5))
    if chance.random() < 0.4:
        space = legacy_space(vector_count=vector_count)
        bar, registers = 0, legacy_registers(chance)
    else:
        space = modern_space(
            vector_count=vector_count,
            multiplier=chance.choice((0, 1, 2, 4, 4096, 0xFFFF_FFFF)),
            common_length=chance.choice((0x38, 0x3A, 0x40)),
        )
        bar, registers = 4, modern_registers(chance)
    if chance.random() < 0.3:
        space.before_access = lambda kind, offset: change_a_byte(space, chance)
    return ModelPlatform(
        space,
        {bar: FickleRegisters(registers, chance, fickleness)},
        vector_count_max=chance.choice((0, 1, 8)),
        intx=chance.random() < 0.7,
        features=frozenset(chance.sample(PLATFORM_FEATURES, 2)),
    )


def change_a_byte(space: ModelSpace, chance: random.Random) -> None:
    """Not the IDs, so that it goes on for a while; but pointers, BARs and capabilities."""
    if chance.random() < 0.05:
        space.data[chance.randrange(0x08, 0x100)] = chance.choice(VALUES) & 0xFF


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 1 << 64))
def test_any_registers_end_in_a_disk_or_in_an_error_that_says_why(seed: int) -> None:
    start = time.monotonic()
    attach_and_close(random.Random(seed))
    assert time.monotonic() - start < BOUND_S


def test_however_it_ends_everything_is_given_back() -> None:
    with no_leaks():
        for seed in range(50):
            attach_and_close(random.Random(seed))


def attach_and_close(chance: random.Random) -> None:
    platform = fickle_function(chance)
    # Neither raises anything else than what says why.
    with suppress(VioblkError):
        transport = PciTransport(
            "model:0",
            platform,
            access=chance.choice(("auto", "bar", "window")),
            interrupts=chance.choice(INTERRUPT_MODES),
        )
        device = VirtioDevice(transport)
        with suppress(VioblkError):
            device.initialize(BlockDriver(QueueOptions(), Gate()), timeout_s=RESET_TIMEOUT_S)
        with suppress(ResetTimeoutError):
            device.close(timeout_s=RESET_TIMEOUT_S)
        assert device.state is DeviceState.CLOSED
    assert platform.closed == 1
