"""Every exception of the package. Each also inherits the built-in that a caller would catch."""

import errno as _errno


class VioblkError(Exception):
    """Base of all exceptions that this package defines."""


class AddressError(VioblkError, ValueError):
    """The address or one of its options cannot be understood."""


class StateError(VioblkError, RuntimeError):
    """The call is not allowed in the state that the object is in."""


class ForkedError(StateError):
    """The object was made before a fork and belongs to the parent process."""


class DeviceBusyError(VioblkError, BlockingIOError):
    """Requests are in flight, so the device cannot be closed without draining."""


class DiskBusyError(DeviceBusyError):
    """Requests are in flight, so the disk cannot be closed without draining."""


class NoDriverError(VioblkError, LookupError):
    """No driver is registered for this type of device."""


class DuplicateDriverError(VioblkError, ValueError):
    """Two drivers claim one type of device."""


class NegotiationError(VioblkError, OSError):
    """Driver and device found no set of features that both accept."""


class ResetTimeoutError(VioblkError, TimeoutError):
    """The device did not confirm a reset in time."""


class TransportError(VioblkError, ConnectionError):
    """The way to the device failed."""


class DeviceGoneError(TransportError):
    """The device hung up, was unplugged, or its process died."""


class QueueResetError(DeviceGoneError):
    """`reset_queue` took the request away: whether it was carried out is not known. The disk and
    its other queues go on, and the queue as well if the reset succeeded."""


class ProtocolError(TransportError):
    """The other side said something that its protocol does not allow."""


class QueueFull(VioblkError, BlockingIOError):
    """It does not fit now; reap and try again."""


class ChainTooLong(VioblkError, ValueError):
    """It never fits, however empty the ring is."""


class QueueBroken(VioblkError, OSError):
    """The device broke the rules of the ring; only a reset helps."""


class InvalidRequestError(VioblkError, ValueError):
    """The request was refused before anything reached the device."""


class ZeroLengthError(InvalidRequestError):
    """A request of no bytes."""


class UnalignedError(InvalidRequestError):
    """Offset or length is not a multiple of the sector size, 512 bytes."""


class BeyondEndError(InvalidRequestError):
    """The request reaches past the capacity of the disk."""


class RequestTooLongError(InvalidRequestError):
    """One record asks for more than the device takes in one request."""


class ReadOnlyError(InvalidRequestError, PermissionError):
    """A write to a read-only disk."""


class UnsupportedError(InvalidRequestError, NotImplementedError):
    """The feature that this request needs was not negotiated."""


class RequestFailedError(VioblkError, OSError):
    """The device answered a request with an error status."""

    def __init__(self, message: str, status: int, slot: int | None = None) -> None:
        super().__init__(_errno.EIO, message)
        self.status = status
        self.slot = slot
        """Of the slot pool, whose request it was; None if it was of none."""


class RequestTimeoutError(VioblkError, TimeoutError):
    """The device did not complete a request in time; it may still own the buffers."""
