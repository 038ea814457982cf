"""Feature bits: their names, sets of them, and the negotiation as a pure function."""

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from enum import IntEnum
from types import MappingProxyType
from typing import Final, NamedTuple

from vioblk.errors import NegotiationError

NO_DEVICE_TYPE: Final = 0
"""A reserved device ID (VIRTIO 1.4, 5 Device Types), which gives no bit a name of a type."""


class Feature(IntEnum):
    """Feature bits that are not of one device type (VIRTIO 1.4, 6 Reserved Feature Bits)."""

    NOTIFY_ON_EMPTY = 24
    ANY_LAYOUT = 27
    INDIRECT_DESC = 28
    EVENT_IDX = 29
    VERSION_1 = 32
    ACCESS_PLATFORM = 33
    RING_PACKED = 34
    IN_ORDER = 35
    ORDER_PLATFORM = 36
    SR_IOV = 37
    NOTIFICATION_DATA = 38
    NOTIF_CONFIG_DATA = 39
    RING_RESET = 40
    ADMIN_VQ = 41
    SUSPEND = 43


LEGACY_ONLY: Final = frozenset({Feature.NOTIFY_ON_EMPTY, Feature.ANY_LAYOUT})
"""They mean something only on the legacy interface (VIRTIO 1.4, 6.3)."""

LEGACY_BIT_MAX: Final = 31
"""The legacy interface has no more feature bits (VIRTIO 1.4, 2.2.3 Legacy Interface: A Note on
Feature Bits)."""

ONLY_32_BITS: Final = f"the legacy interface has features 0 to {LEGACY_BIT_MAX} only"

QEMU_PROBE_BIT: Final = 30
"""Never to be negotiated (VIRTIO 1.4, 6.3 Legacy Interface: Reserved Feature Bits)."""

TRANSPORT_DEPENDENT: Final = frozenset(
    {Feature.SR_IOV, Feature.ADMIN_VQ, Feature.NOTIF_CONFIG_DATA}
)
"""They mean something on some transports only, which say so in `transport_features`."""

PLATFORM: Final = frozenset(
    {
        Feature.ACCESS_PLATFORM,
        Feature.ORDER_PLATFORM,
        Feature.NOTIFICATION_DATA,
        Feature.NOTIF_CONFIG_DATA,
        Feature.RING_RESET,
    }
)
"""They ask something of the transport; one that can do it has them in `transport_features`."""

RING: Final = frozenset({Feature.INDIRECT_DESC, Feature.EVENT_IDX})
"""What a driver can use that builds a split ring of the parts that it is handed. A driver that asks
for no more need not know of what came later."""

EITHER_RING: Final = RING | {Feature.RING_PACKED, Feature.IN_ORDER}
"""What a driver wishes that can use a ring of either format, in order or not. RING_PACKED asks
something of the transport as well, so one that can do it has it in `transport_features`."""

RING_CHOICES: Final = (
    Feature.INDIRECT_DESC,
    Feature.EVENT_IDX,
    Feature.RING_PACKED,
    Feature.IN_ORDER,
    Feature.NOTIFICATION_DATA,
    Feature.RING_RESET,
)
"""What a device may or may not offer of its rings, in the order of the bits."""

NOT_SUPPORTED: Final[Mapping[int, str]] = MappingProxyType(
    {
        Feature.NOTIFY_ON_EMPTY: "this driver asks for the notifications that it needs",
        Feature.SR_IOV: "virtual functions are not managed here",
        Feature.ADMIN_VQ: "administration commands are not used",
        Feature.SUSPEND: "devices are closed, not suspended",
    }
)
"""Features that every driver of this package declines, and why."""

PREREQUISITES: Final[Mapping[int, frozenset[int]]] = MappingProxyType({})
"""Bit -> bits without which it must not be accepted (VIRTIO 1.4, 2.2.1). VIRTIO 1.4 names none
for block devices or for the reserved bits, on the driver's side."""

_NAMES: Final = {int(each): each.name.lower() for each in Feature}

_ALIASES: Final = {
    "indirect": "indirect_desc",
    "iommu_platform": "access_platform",
    "packed": "ring_packed",
    "queue_reset": "ring_reset",
    "wce": "flush",
}
"""Names that others have for them: QEMU, and the headers of Linux."""


class TypeFeatures(NamedTuple):
    """What is known of the feature bits of one device type."""

    bits: type[IntEnum] | tuple[IntEnum, ...]
    legacy_only: frozenset[int]
    """Those that mean something only on the legacy interface."""


_type_features: dict[int, TypeFeatures] = {}


def register_type_features(
    device_type: int, bits: type[IntEnum], *, legacy_only: Iterable[int] = ()
) -> None:
    """Make the bits of a device type known, for negotiation and by name.

    The module that has them calls this once; a bit that no such call names is never accepted.
    Raises ValueError if the bits of the type are known already and are others, or if a bit is not
    one that device types may define (VIRTIO 1.4, 2.2 Feature Bits).
    """
    foreign = [int(bit) for bit in bits if not _is_device_type_bit(bit)]
    if foreign:
        raise ValueError(f"{bits.__name__}: bit {foreign[0]} is not for device types to define")
    found = TypeFeatures(bits, frozenset(int(bit) for bit in legacy_only))
    if _type_features.setdefault(device_type, found) != found:
        raise ValueError(
            f"the features of device type {device_type} are {_type_features[device_type].bits!r} "
            f"already, and cannot be {bits!r} as well"
        )


def type_features(device_type: int) -> TypeFeatures:
    """What is known of the bits of a device type; nothing, if no driver has registered any."""
    return _type_features.get(device_type, TypeFeatures((), frozenset()))


class FeatureSet(AbstractSet[int]):
    """An immutable set of feature bits, any number of them, that knows their names."""

    __slots__ = ("_bits", "device_type")

    def __init__(self, bits: Iterable[int] = (), *, device_type: int = NO_DEVICE_TYPE) -> None:
        chosen = frozenset(int(bit) for bit in bits)
        if any(bit < 0 for bit in chosen):
            raise ValueError(f"feature bits are numbered from 0, not {min(chosen)}")
        self._bits = chosen
        self.device_type = device_type

    @classmethod
    def from_mask(cls, mask: int, *, device_type: int = NO_DEVICE_TYPE) -> "FeatureSet":
        """The set whose bit n is in when bit n of `mask` is 1."""
        bits = (bit for bit in range(mask.bit_length()) if mask >> bit & 1)
        return cls(bits, device_type=device_type)

    @property
    def mask(self) -> int:
        """The set as registers hold it."""
        return sum(1 << bit for bit in self._bits)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the bits, in the order of the bits."""
        return tuple(feature_name(bit, self.device_type) for bit in self)

    def _from_iterable(self, bits: Iterable[int]) -> "FeatureSet":  # type: ignore[override]
        return FeatureSet(bits, device_type=self.device_type)

    def __contains__(self, bit: object) -> bool:
        return bit in self._bits

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._bits))

    def __len__(self) -> int:
        return len(self._bits)

    def __eq__(self, other: object) -> bool:
        return self._bits == other if isinstance(other, AbstractSet) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._bits)

    def __repr__(self) -> str:
        return f"FeatureSet({' '.join(self.names)})"


@dataclass(frozen=True)
class Wish:
    """What a driver wants of a device."""

    wanted: frozenset[int] = frozenset()
    """Device-type bits to accept where they are offered."""
    required: frozenset[int] = frozenset()
    """Device-type bits without which the driver cannot work."""
    ring_features: frozenset[int] = RING
    """What the ring that the driver will use can do, of `EITHER_RING`."""
    declined: Mapping[int, str] = field(default_factory=dict)
    """Why a bit of this type that the driver knows is not wanted."""


class Verdict(IntEnum):
    """What became of an offered bit."""

    ACCEPTED = 1
    DECLINED = 2
    """It means something here, and the driver does without it."""
    IGNORED = 3
    """It means nothing here, so it counts as not offered (VIRTIO 1.4, 2.2.1)."""


@dataclass(frozen=True)
class Decision:
    """What became of one offered bit, and why."""

    bit: int
    name: str
    verdict: Verdict
    reason: str


@dataclass(frozen=True)
class Negotiation:
    """The record of one negotiation."""

    offered: FeatureSet
    """All that the device offered, as read."""
    legacy: bool
    """Whether it took place on the legacy interface."""
    usable: FeatureSet
    """Those of them that mean something for this device type on this transport."""
    wanted: FeatureSet
    required: FeatureSet
    forced_on: FeatureSet
    forced_off: FeatureSet
    accepted: FeatureSet
    decisions: tuple[Decision, ...]
    """One for each offered bit, in the order of the bits."""

    def why_not(self, bit: int) -> str:
        """Why `bit` is not among the accepted ones."""
        reasons = {each.bit: each.reason for each in self.decisions}
        if bit in reasons:
            return reasons[bit]
        too_high = self.legacy and bit > LEGACY_BIT_MAX
        return ONLY_32_BITS if too_high else "the device does not offer it"


def feature_name(bit: int, device_type: int = NO_DEVICE_TYPE) -> str:
    """The name of a bit in lower case, as options use it; `bit_45` if it has none."""
    return _NAMES.get(bit) or _type_names(device_type).get(bit) or f"bit_{bit}"


def _type_names(device_type: int) -> dict[int, str]:
    return {int(each): each.name.lower() for each in type_features(device_type).bits}


def feature_bits(device_type: int = NO_DEVICE_TYPE) -> dict[str, int]:
    """Every name that an option can use for a feature, and its bit."""
    names = {name: bit for bit, name in (_NAMES | _type_names(device_type)).items()}
    return names | {alias: names[name] for alias, name in _ALIASES.items() if name in names}


def why_unusable(
    bit: int, device_type: int, transport_features: frozenset[int], *, legacy: bool = False
) -> str | None:
    """Why an offered bit counts as not offered (VIRTIO 1.4, 2.2.1 Driver Requirements: Feature
    Bits); None if it means something for this device type on this transport and interface.
    """
    if legacy and bit > LEGACY_BIT_MAX:
        return ONLY_32_BITS
    if not legacy and bit in LEGACY_ONLY | type_features(device_type).legacy_only:
        return "means something on the legacy interface only"
    if bit == QEMU_PROBE_BIT:
        return "not to be negotiated: a probe for broken drivers, or the transport's own"
    if bit in TRANSPORT_DEPENDENT and bit not in transport_features:
        return "means nothing on this transport"
    if bit in _NAMES or bit in _type_names(device_type):
        return None
    if _is_device_type_bit(bit):
        return "not defined for this type of device"
    return "reserved, or not defined by VIRTIO 1.4"


def usable_features(
    offered: FeatureSet, transport_features: frozenset[int], *, legacy: bool = False
) -> FeatureSet:
    """Those bits of `offered` that do not count as not offered."""

    def is_usable(bit: int) -> bool:
        reason = why_unusable(bit, offered.device_type, transport_features, legacy=legacy)
        return reason is None

    return FeatureSet(filter(is_usable, offered), device_type=offered.device_type)


class _Chooser:
    """Decides about one offered bit at a time; the bits do not influence each other here."""

    def __init__(
        self,
        device_type: int,
        wish: Wish,
        transport_features: frozenset[int],
        force_off: frozenset[int],
        legacy: bool,
    ) -> None:
        self._device_type = device_type
        self._wish = wish
        self._transport_features = transport_features
        self._force_off = force_off
        self._legacy = legacy

    def decide(self, bit: int) -> Decision:
        """What becomes of `bit`, which is offered."""
        verdict, reason = self._judge(bit)
        return Decision(bit, feature_name(bit, self._device_type), verdict, reason)

    def _judge(self, bit: int) -> tuple[Verdict, str]:
        meaningless = why_unusable(
            bit, self._device_type, self._transport_features, legacy=self._legacy
        )
        if meaningless is not None:
            return Verdict.IGNORED, meaningless
        if bit in self._force_off:
            return Verdict.DECLINED, "switched off by an option"
        if bit in NOT_SUPPORTED:
            return Verdict.DECLINED, NOT_SUPPORTED[bit]
        if bit == Feature.VERSION_1:
            return Verdict.ACCEPTED, "the modern interface; nothing works without it"
        if bit == Feature.ANY_LAYOUT:
            return Verdict.ACCEPTED, "requests may be laid out in any way, this driver's included"
        if bit in PLATFORM:
            return self._judge_platform(bit)
        if bit in EITHER_RING:
            return self._judge_ring(bit)
        return self._judge_type(bit)

    def _judge_platform(self, bit: int) -> tuple[Verdict, str]:
        if bit in self._transport_features:
            return Verdict.ACCEPTED, "the transport can do it"
        if bit == Feature.NOTIFICATION_DATA:
            return Verdict.DECLINED, "the transport cannot do it (mem: and file: can with bus=pci)"
        return Verdict.DECLINED, "the transport cannot do it"

    def _judge_ring(self, bit: int) -> tuple[Verdict, str]:
        if bit == Feature.RING_PACKED and bit not in self._transport_features:
            return Verdict.DECLINED, "the transport cannot do it; the split ring is used"
        if bit in self._wish.ring_features:
            return Verdict.ACCEPTED, "the ring can do it"
        return Verdict.DECLINED, "this ring's queue runs without it"

    def _judge_type(self, bit: int) -> tuple[Verdict, str]:
        if bit in self._wish.required:
            return Verdict.ACCEPTED, "the driver cannot do without it"
        if bit in self._wish.wanted:
            return Verdict.ACCEPTED, "the driver can use it"
        return Verdict.DECLINED, self._wish.declined.get(bit, "the driver has no use for it")


def _is_device_type_bit(bit: int) -> bool:
    """Whether VIRTIO 1.4, 2.2 Feature Bits, leaves `bit` to the device types."""
    return bit <= 23 or bit in (41, 42) or 50 <= bit <= 127


def _drop_orphans(
    decisions: dict[int, Decision], prerequisites: Mapping[int, frozenset[int]], device_type: int
) -> None:
    """Decline accepted bits whose prerequisites are not accepted, until none is left."""
    while True:
        accepted = {b for b, each in decisions.items() if each.verdict is Verdict.ACCEPTED}
        orphans = {b: prerequisites.get(b, frozenset()) - accepted for b in accepted}
        orphans = {b: missing for b, missing in orphans.items() if missing}
        if not orphans:
            return
        for bit, missing in orphans.items():
            names = ", ".join(feature_name(each, device_type) for each in sorted(missing))
            decisions[bit] = replace(
                decisions[bit], verdict=Verdict.DECLINED, reason=f"needs {names}"
            )


def _refuse_impossible(negotiation: Negotiation) -> None:
    """Raise NegotiationError if what must be accepted is not."""
    device_type = negotiation.offered.device_type
    decisions = {each.bit: each for each in negotiation.decisions}
    for bit in negotiation.required | negotiation.forced_on:
        if bit in negotiation.accepted:
            continue
        why_needed = "is forced on" if bit in negotiation.forced_on else "is required"
        if bit in decisions:
            why_not = f"cannot be accepted: {decisions[bit].reason}"
        elif negotiation.legacy and bit > LEGACY_BIT_MAX:
            why_not = f"cannot be accepted: {ONLY_32_BITS}"
        elif bit == Feature.VERSION_1:
            why_not = (
                "is not offered: this is a legacy device; reach it through the legacy interface "
                "(interface=legacy, on a transport that has one)"
            )
        else:
            why_not = f"is not offered (offered: {' '.join(negotiation.offered.names) or 'none'})"
        raise NegotiationError(
            f"feature {feature_name(bit, device_type)} {why_needed} but {why_not}"
        )


def negotiate(
    offered: FeatureSet,
    wish: Wish,
    *,
    transport_features: frozenset[int] = frozenset(),
    force_on: frozenset[int] = frozenset(),
    force_off: frozenset[int] = frozenset(),
    legacy: bool = False,
    prerequisites: Mapping[int, frozenset[int]] = PREREQUISITES,
) -> Negotiation:
    """Choose what to accept of `offered` (VIRTIO 1.4, 2.2 Feature Bits). A pure function.

    What the specification says SHOULD be accepted is accepted where this driver, its ring and the
    transport can do it. A bit that means nothing here (undefined, reserved, or foreign to the
    transport or device type) counts as not offered. On the `legacy` interface there are 32 bits,
    some with a meaning only there, and VERSION_1 is not one of them. Raises NegotiationError if
    VERSION_1 (on the modern interface), a required bit or one forced on cannot be accepted, or if
    a required one is forced off.
    """
    chooser = _Chooser(offered.device_type, wish, transport_features, force_off, legacy)
    decisions = {bit: chooser.decide(bit) for bit in offered}
    _drop_orphans(decisions, prerequisites, offered.device_type)

    def named(bits: Iterable[int]) -> FeatureSet:
        return FeatureSet(bits, device_type=offered.device_type)

    negotiation = Negotiation(
        offered=offered,
        legacy=legacy,
        usable=named(b for b, d in decisions.items() if d.verdict is not Verdict.IGNORED),
        wanted=named(wish.wanted | wish.required | wish.ring_features),
        required=named(wish.required if legacy else wish.required | {Feature.VERSION_1}),
        forced_on=named(force_on),
        forced_off=named(force_off),
        accepted=named(b for b, d in decisions.items() if d.verdict is Verdict.ACCEPTED),
        decisions=tuple(decisions.values()),
    )
    _refuse_impossible(negotiation)
    return negotiation
