"""Names that the oldest supported Python lacks."""

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from typing_extensions import Buffer
else:
    Buffer: TypeAlias = Any
    """collections.abc.Buffer, which came with Python 3.12."""

__all__ = ["Buffer"]
