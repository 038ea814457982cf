"""Feature sets, and the negotiation as a pure function."""

import re
from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import vioblk.features
from tests.clauses import clause, vacuous
from tests.clauses.table import clause_table
from vioblk.block.features import BLOCK_DEVICE_TYPE, BlockFeature
from vioblk.errors import NegotiationError
from vioblk.features import (
    EITHER_RING,
    LEGACY_ONLY,
    NOT_SUPPORTED,
    PLATFORM,
    PREREQUISITES,
    RING,
    TRANSPORT_DEPENDENT,
    Feature,
    FeatureSet,
    Negotiation,
    Verdict,
    Wish,
    feature_bits,
    feature_name,
    negotiate,
    register_type_features,
    type_features,
    usable_features,
)

EVERY_BIT = frozenset(range(128))
MODERN = frozenset({int(Feature.VERSION_1)})

# Named features as often as any bit, so that sets which hold a certain one are not rare.
bits = st.frozensets(st.sampled_from(sorted(Feature)).map(int) | st.integers(0, 127))


def run(
    offered: Iterable[int],
    wish: Wish | None = None,
    *,
    transport_features: Iterable[int] = (),
    force_on: Iterable[int] = (),
    force_off: Iterable[int] = (),
    legacy: bool = False,
) -> Negotiation:
    return negotiate(
        block_features(offered),
        Wish() if wish is None else wish,
        transport_features=frozenset(transport_features),
        force_on=frozenset(force_on),
        force_off=frozenset(force_off),
        legacy=legacy,
    )


def block_features(bits: Iterable[int]) -> FeatureSet:
    return FeatureSet(bits, device_type=BLOCK_DEVICE_TYPE)


def reason(negotiation: Negotiation, bit: int) -> str:
    return next(each.reason for each in negotiation.decisions if each.bit == bit)


def never_accepted(bit: int, *, legacy: bool = False) -> None:
    """Neither by a driver that wants everything, nor on a transport that knows everything, nor
    when it is forced on."""
    greedy = Wish(wanted=EVERY_BIT, ring_features=EVERY_BIT)
    for transport_features in (frozenset[int](), EVERY_BIT):
        negotiation = run(EVERY_BIT, greedy, transport_features=transport_features, legacy=legacy)
        assert bit in negotiation.offered
        assert bit not in negotiation.accepted
        with pytest.raises(NegotiationError, match=feature_name(bit, BLOCK_DEVICE_TYPE)):
            run(
                EVERY_BIT,
                greedy,
                transport_features=transport_features,
                force_on={bit},
                legacy=legacy,
            )


def ids_with(*prefixes: str) -> list[str]:
    return [clause_id for clause_id in clause_table() if clause_id.startswith(prefixes)]


# Sets of features


def test_a_set_can_be_read_from_a_register_and_written_to_it() -> None:
    features = FeatureSet.from_mask(1 << 32 | 1 << 9)
    assert list(features) == [9, 32]
    assert features.mask == 1 << 32 | 1 << 9


@given(bits, bits)
def test_a_set_behaves_as_a_set(left: frozenset[int], right: frozenset[int]) -> None:
    assert FeatureSet(left) | FeatureSet(right) == left | right
    assert FeatureSet(left) & FeatureSet(right) == left & right
    assert FeatureSet(left) - FeatureSet(right) == left - right
    assert hash(FeatureSet(left)) == hash(FeatureSet(sorted(left)))
    assert FeatureSet.from_mask(FeatureSet(left).mask) == left


def test_a_set_knows_the_names_of_its_bits() -> None:
    assert block_features([10, 9, 32, 45]).names == ("flush", "topology", "version_1", "bit_45")
    assert repr(block_features([9, 32])) == "FeatureSet(flush version_1)"


def test_names_of_device_type_bits_are_those_of_the_type() -> None:
    assert FeatureSet([9, 29], device_type=1).names == ("bit_9", "event_idx")
    both = FeatureSet([9], device_type=1) | {29}
    assert isinstance(both, FeatureSet)
    assert both.names == ("bit_9", "event_idx")


def test_a_negative_bit_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        FeatureSet([3, -1])


def test_bit_10_is_topology() -> None:
    assert feature_name(10, BLOCK_DEVICE_TYPE) == "topology"
    assert feature_bits(BLOCK_DEVICE_TYPE)["topology"] == 10


def test_every_named_bit_is_found_by_its_name() -> None:
    for table in (Feature, BlockFeature):
        for each in table:
            assert feature_bits(BLOCK_DEVICE_TYPE)[feature_name(each, BLOCK_DEVICE_TYPE)] == each


def test_bits_of_a_type_are_known_once_they_are_registered() -> None:
    class Bit(IntEnum):
        COLOUR = 7

    assert feature_name(7, 999) == "bit_7"
    register_type_features(999, Bit)
    register_type_features(999, Bit)
    assert feature_name(7, 999) == "colour"
    assert feature_bits(999)["colour"] == 7
    assert feature_name(7, BLOCK_DEVICE_TYPE) == "scsi"


def test_bits_of_a_type_cannot_be_registered_as_something_else() -> None:
    class Bit(IntEnum):
        COLOUR = 7

    with pytest.raises(ValueError, match=r"device type 2 are .*BlockFeature.* already.*Bit"):
        register_type_features(BLOCK_DEVICE_TYPE, Bit)


def test_a_device_type_cannot_define_bits_of_all_devices() -> None:
    class Bit(IntEnum):
        COLOUR = 24

    with pytest.raises(ValueError, match="bit 24 is not for device types"):
        register_type_features(998, Bit)


def test_the_general_part_knows_nothing_of_blocks() -> None:
    general = Path(vioblk.features.__file__).parent
    modules = [general / f"{name}.py" for name in ("address", "features", "device", "driver")]
    modules += [*(general / "transport").glob("base.py"), *(general / "ring").glob("*.py")]
    for module in modules:
        imports = re.findall(r"^(?:from|import) (\S+)", module.read_text(), re.MULTILINE)
        assert not [name for name in imports if name.startswith("vioblk.block")], module


# The rules


@clause("FEAT-01")
@given(bits, bits, bits, bits)
def test_nothing_is_accepted_that_was_not_offered(
    offered: frozenset[int],
    wanted: frozenset[int],
    ring_features: frozenset[int],
    transport_features: frozenset[int],
) -> None:
    wish = Wish(wanted=wanted, ring_features=ring_features)
    negotiation = run(offered | MODERN, wish, transport_features=transport_features)
    assert negotiation.accepted <= negotiation.offered


@clause("FEAT-01")
def test_forcing_on_what_is_not_offered_is_refused() -> None:
    with pytest.raises(NegotiationError, match=r"flush is forced on but is not offered.*version_1"):
        run(MODERN, force_on={BlockFeature.FLUSH})


@clause("FEAT-02")
def test_a_feature_is_declined_without_its_prerequisite() -> None:
    table = {9: frozenset({10}), 10: frozenset({11})}
    wish = Wish(wanted=frozenset({9, 10, 11}))
    with_all = negotiate(block_features(MODERN | {9, 10, 11}), wish, prerequisites=table)
    assert {9, 10, 11} <= with_all.accepted
    # 10 goes with 11, and 9 with 10.
    without_11 = negotiate(block_features(MODERN | {9, 10}), wish, prerequisites=table)
    assert without_11.accepted == MODERN
    assert reason(without_11, 9) == "needs topology"


def test_there_are_no_prerequisites_to_know_of() -> None:
    """For block devices and the reserved bits VIRTIO 1.4 names none on the driver's side: of all
    its statements about drivers one speaks of prerequisites, and that one names no feature. So
    the table is empty; a bit that gets some in a later version has to be entered."""
    about = [each.id for each in clause_table().values() if "prerequisite" in each.statement]
    assert about == ["FEAT-02"]
    assert not [
        name
        for name in feature_bits(BLOCK_DEVICE_TYPE)
        if name.upper() in clause_table()[about[0]].statement
    ]
    assert dict(PREREQUISITES) == {}


def test_a_required_feature_without_its_prerequisite_is_an_error() -> None:
    with pytest.raises(NegotiationError, match="flush is required but cannot be accepted: needs"):
        negotiate(
            block_features(MODERN | {9}),
            Wish(required=frozenset({9})),
            prerequisites={9: frozenset({10})},
        )


@clause("FEAT-04", "FEAT-05", "FEAT-06")
@pytest.mark.parametrize("bit", [3, 8, 18, 23, 25, 26, 30, 31, 42, 44, 49, 50, 99, 127])
def test_undefined_and_reserved_bits_count_as_not_offered(bit: int) -> None:
    usable = usable_features(block_features(MODERN | {bit}), EVERY_BIT)
    assert usable == MODERN
    never_accepted(bit)


@clause("FEAT-04", "FEAT-07", "SRIOV-02")
@pytest.mark.parametrize("bit", [Feature.SR_IOV, Feature.ADMIN_VQ, Feature.NOTIF_CONFIG_DATA])
def test_bits_foreign_to_the_transport_count_as_not_offered(bit: int) -> None:
    negotiation = run(MODERN | {bit}, Wish(wanted=EVERY_BIT))
    assert negotiation.usable == MODERN
    assert reason(negotiation, bit) == "means nothing on this transport"
    assert bit not in negotiation.accepted


@clause("FEAT-04", "FEAT-08")
@given(bits)
def test_bits_of_other_device_types_count_as_not_offered(offered: frozenset[int]) -> None:
    of_other_types = (frozenset(range(24)) | frozenset(range(50, 128))) - frozenset(BlockFeature)
    negotiation = run(offered | MODERN, Wish(wanted=EVERY_BIT))
    assert not negotiation.usable & of_other_types
    assert not negotiation.accepted & of_other_types


@clause("RSVD-LEG-02")
@pytest.mark.parametrize("legacy", [False, True])
def test_bit_30_is_never_accepted(legacy: bool) -> None:
    never_accepted(30, legacy=legacy)


@pytest.mark.parametrize(
    "bit",
    [BlockFeature.BARRIER, BlockFeature.SCSI, Feature.NOTIFY_ON_EMPTY, Feature.ANY_LAYOUT],
)
def test_bits_of_the_legacy_interface_are_never_accepted(bit: int) -> None:
    never_accepted(bit)
    assert "legacy" in reason(run(MODERN | {bit}), bit)


@clause("FEAT-11")
@given(bits)
def test_no_unknown_feature_makes_a_device_unusable(offered: frozenset[int]) -> None:
    assert Feature.VERSION_1 in run(offered | MODERN).accepted


@clause("FEAT-09")
def test_a_missing_feature_that_is_only_wanted_is_done_without() -> None:
    wish = Wish(wanted=frozenset({BlockFeature.FLUSH}))
    assert run(MODERN, wish).accepted == MODERN


def test_a_missing_feature_that_is_required_is_an_error() -> None:
    with pytest.raises(NegotiationError, match="flush is required but is not offered"):
        run(MODERN, Wish(required=frozenset({BlockFeature.FLUSH})))


@clause("RSVD-01")
@given(bits)
def test_version_1_is_accepted_whenever_it_is_offered(offered: frozenset[int]) -> None:
    assert Feature.VERSION_1 in run(offered | MODERN).accepted


@clause("RSVD-02")
@given(bits)
def test_a_device_without_version_1_is_refused(offered: frozenset[int]) -> None:
    with pytest.raises(NegotiationError, match=r"version_1 is required but is not offered"):
        run(offered - MODERN)


@clause("FEAT-LEG-01")
def test_a_device_without_version_1_is_said_to_be_a_legacy_one() -> None:
    with pytest.raises(NegotiationError, match=r"a legacy device; .*interface=legacy"):
        run({BlockFeature.FLUSH})
    assert run({BlockFeature.FLUSH}, legacy=True).accepted == frozenset()


def test_version_1_cannot_be_forced_off() -> None:
    with pytest.raises(NegotiationError, match=r"version_1 is required but .* switched off"):
        run(MODERN, force_off=MODERN)


@clause("RSVD-03", "RSVD-07", "RSVD-09")
@pytest.mark.parametrize("bit", sorted(PLATFORM))
def test_platform_features_are_accepted_where_the_transport_can(bit: int) -> None:
    assert bit in run(MODERN | {bit}, transport_features={bit}).accepted


@pytest.mark.parametrize("bit", sorted(PLATFORM - TRANSPORT_DEPENDENT))
def test_platform_features_are_declined_where_the_transport_cannot(bit: int) -> None:
    negotiation = run(MODERN | {bit})
    assert bit not in negotiation.accepted
    assert reason(negotiation, bit).startswith("the transport cannot do it")
    assert ("bus=pci" in reason(negotiation, bit)) == (bit == Feature.NOTIFICATION_DATA)


@pytest.mark.parametrize("bit", sorted(RING | {Feature.IN_ORDER}))
def test_ring_features_are_accepted_where_the_ring_can(bit: int) -> None:
    assert bit in run(MODERN | {bit}, Wish(ring_features=EITHER_RING)).accepted
    negotiation = run(MODERN | {bit}, Wish(ring_features=frozenset()))
    assert bit not in negotiation.accepted
    assert reason(negotiation, bit) == "this ring's queue runs without it"
    with pytest.raises(NegotiationError, match="this ring's queue runs without it"):
        run(MODERN | {bit}, Wish(ring_features=frozenset()), force_on={bit})


def test_a_driver_that_does_not_say_so_gets_no_ring_that_it_may_not_know_of() -> None:
    """It builds a plain split ring of the parts that it is handed, and would ignore the rest."""
    everything = frozenset(Feature)
    accepted = run(everything, transport_features=everything).accepted
    assert accepted & EITHER_RING == {Feature.INDIRECT_DESC, Feature.EVENT_IDX}
    with pytest.raises(NegotiationError, match="this ring's queue runs without it"):
        run(everything, transport_features=everything, force_on={Feature.IN_ORDER})


@clause("RSVD-06")
def test_ring_packed_is_accepted_where_driver_and_transport_can() -> None:
    offered, packed = MODERN | {Feature.RING_PACKED}, frozenset({Feature.RING_PACKED})
    wish = Wish(ring_features=EITHER_RING)
    accepted = run(offered, wish, transport_features=packed)
    assert Feature.RING_PACKED in accepted.accepted
    assert reason(accepted, Feature.RING_PACKED) == "the ring can do it"
    for negotiation, why in (
        (run(offered, wish), "the transport cannot do it; the split ring is used"),
        (run(offered, transport_features=packed), "this ring's queue runs without it"),
    ):
        assert Feature.RING_PACKED not in negotiation.accepted
        assert reason(negotiation, Feature.RING_PACKED) == why


@pytest.mark.parametrize("bit", [*sorted(RING), BlockFeature.FLUSH, Feature.ACCESS_PLATFORM])
def test_any_optional_feature_can_be_forced_off(bit: int) -> None:
    wish = Wish(wanted=frozenset({BlockFeature.FLUSH}))
    offered = MODERN | {bit}
    assert bit in run(offered, wish, transport_features=EVERY_BIT).accepted
    negotiation = run(offered, wish, transport_features=EVERY_BIT, force_off={bit})
    assert bit not in negotiation.accepted
    assert reason(negotiation, bit) == "switched off by an option"


def test_forcing_on_what_is_accepted_anyway_changes_nothing() -> None:
    offered = MODERN | RING
    assert run(offered, force_on=RING).accepted == run(offered).accepted


def test_a_feature_forced_on_and_off_is_an_error() -> None:
    with pytest.raises(NegotiationError, match="event_idx is forced on but"):
        run(MODERN | RING, force_on={Feature.EVENT_IDX}, force_off={Feature.EVENT_IDX})


@given(bits, bits, bits)
def test_every_offered_bit_gets_one_decision_with_a_reason(
    offered: frozenset[int], wanted: frozenset[int], force_off: frozenset[int]
) -> None:
    offered |= MODERN
    negotiation = run(offered, Wish(wanted=wanted), force_off=force_off - MODERN)
    assert [each.bit for each in negotiation.decisions] == sorted(offered)
    assert all(each.reason and each.name for each in negotiation.decisions)
    by_verdict = {
        verdict: {each.bit for each in negotiation.decisions if each.verdict is verdict}
        for verdict in Verdict
    }
    assert negotiation.accepted == by_verdict[Verdict.ACCEPTED]
    assert negotiation.usable == by_verdict[Verdict.ACCEPTED] | by_verdict[Verdict.DECLINED]


def test_a_driver_can_say_why_it_declines() -> None:
    wish = Wish(declined={BlockFeature.LIFETIME: "wear is not reported yet"})
    negotiation = run(MODERN | {BlockFeature.LIFETIME, BlockFeature.DISCARD}, wish)
    assert reason(negotiation, BlockFeature.LIFETIME) == "wear is not reported yet"
    assert reason(negotiation, BlockFeature.DISCARD) == "the driver has no use for it"


def test_the_negotiation_of_another_device_type_leaves_block_features_alone() -> None:
    assert not type_features(3).bits
    negotiation = negotiate(FeatureSet(MODERN | {9}, device_type=3), Wish(wanted=frozenset({9})))
    assert negotiation.accepted == MODERN
    assert reason(negotiation, 9) == "not defined for this type of device"


# The legacy interface


@clause("RSVD-LEG-01")
@example(frozenset({int(Feature.ANY_LAYOUT)}))
@given(bits)
def test_any_layout_is_accepted_on_the_legacy_interface_when_it_is_offered(
    offered: frozenset[int],
) -> None:
    accepted = run(offered, legacy=True).accepted
    assert (Feature.ANY_LAYOUT in accepted) == (Feature.ANY_LAYOUT in offered)


@clause("FEAT-LEG-02")
@given(bits, bits)
def test_the_legacy_interface_has_no_more_than_32_features(
    offered: frozenset[int], wanted: frozenset[int]
) -> None:
    wish = Wish(wanted=wanted, ring_features=EVERY_BIT)
    negotiation = run(offered, wish, transport_features=EVERY_BIT, legacy=True)
    assert all(bit < 32 for bit in negotiation.usable | negotiation.accepted)
    for bit in offered:
        if bit >= 32:
            assert reason(negotiation, bit) == "the legacy interface has features 0 to 31 only"


def test_version_1_can_be_neither_required_nor_forced_on_the_legacy_interface() -> None:
    assert run({BlockFeature.FLUSH} | RING, legacy=True).accepted == RING
    with pytest.raises(NegotiationError, match=r"version_1 is forced on .* 0 to 31 only"):
        run(RING, force_on=MODERN, legacy=True)
    with pytest.raises(NegotiationError, match=r"version_1 is forced on .* 0 to 31 only"):
        run(MODERN | RING, force_on=MODERN, legacy=True)


@pytest.mark.parametrize("bit", [BlockFeature.BARRIER, BlockFeature.SCSI, Feature.NOTIFY_ON_EMPTY])
def test_what_only_the_legacy_interface_has_means_something_there(bit: int) -> None:
    negotiation = run({bit}, legacy=True)
    assert bit in negotiation.usable
    assert bit not in negotiation.accepted


def test_the_legacy_interface_is_optional_and_its_choice_is_recorded() -> None:
    assert run(RING, legacy=True).legacy
    assert not run(MODERN | RING).legacy


# Features that are never accepted, and what therefore has nothing to act on


@vacuous(*ids_with("SUSPEND-03", "SUSPEND-04", "SUSPEND-05", "SUSPEND-06", "SUSPEND-07"))
def test_suspend_is_never_accepted() -> None:
    never_accepted(Feature.SUSPEND)


@vacuous("SRIOV-01", "SRIOV-03", "SRIOV-04")
def test_sr_iov_is_never_accepted() -> None:
    never_accepted(Feature.SR_IOV)


@vacuous(*ids_with("ADM-", "PCI-ADMIN-"))
def test_admin_vq_is_never_accepted() -> None:
    never_accepted(Feature.ADMIN_VQ)


@pytest.mark.parametrize("bit", sorted(NOT_SUPPORTED))
def test_what_is_not_supported_says_why(bit: int) -> None:
    legacy = bit in LEGACY_ONLY
    negotiation = run(MODERN | {bit}, transport_features=EVERY_BIT, legacy=legacy)
    assert reason(negotiation, bit) == NOT_SUPPORTED[bit]
