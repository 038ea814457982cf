"""The vhost-user transport: a device that another process serves over a Unix socket.

Read in this order: `transport` (the whole), `queue`, `memory`, `config`, `channel`, then
`connection` and `messages` (the protocol itself).
"""

from vioblk.transport.vhost_user.transport import VhostUserTransport

__all__ = ["VhostUserTransport"]
