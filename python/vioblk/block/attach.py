"""The block driver as it is registered with a bus."""

from collections.abc import Callable
from typing import Final, cast

from vioblk.block.config import BlockConfig
from vioblk.block.disk import DEFAULT_TIMEOUT_S, BlockDevice
from vioblk.block.driver import BlockDriver
from vioblk.block.features import BLOCK_DEVICE_TYPE, LEGACY_ONLY, BlockFeature
from vioblk.block.options import OPTIONS, queue_options
from vioblk.device import VirtioDevice
from vioblk.driver import BusDriver, DeviceIdentity, Settings


def attach(
    device: VirtioDevice,
    identity: DeviceIdentity,
    settings: Settings,
    *,
    on_config_change: Callable[[BlockConfig], None] | None = None,
) -> BlockDevice:
    """Bring a block device to life. Raises as `BlockDevice` does."""
    return BlockDevice(
        device,
        queues=queue_options(settings.options),
        force_on=settings.force_on,
        force_off=settings.force_off,
        timeout_s=cast(float, settings.options.get("timeout_s", DEFAULT_TIMEOUT_S)),
        on_config_change=on_config_change,
    )


DRIVER: Final = BusDriver(
    name=BlockDriver.name,
    device_type=BLOCK_DEVICE_TYPE,
    attach=attach,
    options=OPTIONS,
    features=BlockFeature,
    legacy_only_features=LEGACY_ONLY,
)
