"""The vhost-user transport: `vhost-user:PATH`, a device that another process serves over a socket.

Read in this order: `transport` (the whole), `queue`, `memory`, `config`, `channel`, then
`connection`, `exchange` and `messages` (the protocol itself).
"""

from collections.abc import Mapping
from typing import Final, cast

from vioblk.address import Address, Option, seconds
from vioblk.transport.vhost_user.connection import DEFAULT_TIMEOUT_S
from vioblk.transport.vhost_user.transport import DRAIN_TIMEOUT_S, VhostUserTransport

__all__ = ["OPTIONS", "VhostUserTransport", "connect", "device_type"]

OPTIONS: Final[Mapping[str, Option]] = {
    "reply_timeout": seconds(
        f"seconds that the back end has for one answer; {DEFAULT_TIMEOUT_S:g} if not given"
    ),
    "drain_timeout": seconds(
        "seconds from the first attempt of a reset until the connection is given up because of "
        f"requests in flight; {DRAIN_TIMEOUT_S:g} if not given"
    ),
}


def device_type(address: Address, options: Mapping[str, object]) -> int:
    """A vhost-user back end does not say what it is; this transport asks block devices only."""
    return VhostUserTransport.device_type


def connect(address: Address, options: Mapping[str, object]) -> VhostUserTransport:
    """Connect to the back end whose socket is at the address's target.

    Raises AddressError (no socket can have such a path), TransportError, DeviceGoneError or
    ProtocolError.
    """
    return VhostUserTransport(
        address.target,
        address=address.text,
        timeout_s=cast(float, options.get("reply_timeout", DEFAULT_TIMEOUT_S)),
        drain_timeout_s=cast(float, options.get("drain_timeout", DRAIN_TIMEOUT_S)),
    )
