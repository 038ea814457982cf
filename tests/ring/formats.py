"""The formats of a ring, each in both languages, with what tests need to know of them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Generic, Literal, TypeAlias, TypeVar

from tests.ring.packed_puppet import PackedPuppet
from tests.ring.puppet import Puppet
from tests.ring.split_puppet import SplitPuppet
from vioblk import _native
from vioblk.ring import Ring, RingLayout, reference

Language: TypeAlias = Literal["native", "reference"]
LANGUAGES: Final[tuple[Language, ...]] = ("native", "reference")
_MODULES: Final = {"native": _native, "reference": reference}

Device = TypeVar("Device", bound=Puppet, covariant=True)


@dataclass(frozen=True)
class Format(Generic[Device]):
    """What a ring is by negotiation: split or packed, with IN_ORDER or without."""

    name: str
    in_order: bool
    size: int
    """Descriptors of the rings that most tests make."""
    small_size: int
    sizes: tuple[int, ...]
    queue_name: str
    layout_name: str
    puppet: Callable[..., Device]

    def queue_class(self, language: Language) -> Callable[..., Ring]:
        found: Callable[..., Ring] = getattr(_MODULES[language], self.queue_name)
        return found

    def layout(self, language: Language) -> Callable[..., RingLayout]:
        """Looked up for each use: a mutant may have taken its place since this was imported."""
        found: Callable[..., RingLayout] = getattr(_MODULES[language], self.layout_name)
        return found

    def __str__(self) -> str:
        return self.name


SPLIT: Final = Format(
    name="split",
    in_order=False,
    size=8,
    small_size=4,
    sizes=(1, 2, 4, 8, 16, 32, 64, 128, 256),
    queue_name="SplitQueue",
    layout_name="split_layout",
    puppet=SplitPuppet,
)
PACKED: Final = Format(
    name="packed",
    in_order=False,
    size=7,
    small_size=5,
    sizes=(1, 2, 3, 4, 5, 7, 8, 13, 31, 32, 33, 100, 255, 256),
    queue_name="PackedQueue",
    layout_name="packed_layout",
    puppet=PackedPuppet,
)
SPLIT_IN_ORDER: Final = replace(SPLIT, name="split-in-order", in_order=True)
PACKED_IN_ORDER: Final = replace(PACKED, name="packed-in-order", in_order=True)

SPLIT_FORMATS: Final = (SPLIT, SPLIT_IN_ORDER)
PACKED_FORMATS: Final = (PACKED, PACKED_IN_ORDER)
FORMATS: Final[tuple[Format[Puppet], ...]] = (*SPLIT_FORMATS, *PACKED_FORMATS)
IN_ORDER_FORMATS: Final[tuple[Format[Puppet], ...]] = (SPLIT_IN_ORDER, PACKED_IN_ORDER)
ANY_ORDER_FORMATS: Final[tuple[Format[Puppet], ...]] = (SPLIT, PACKED)
