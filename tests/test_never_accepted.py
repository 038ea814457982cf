"""Features that a disk never accepts, whoever offers them."""

import pytest

import vioblk
from tests.clauses import clause, vacuous
from tests.clauses.table import clause_table
from vioblk.block.features import BlockFeature
from vioblk.features import Feature, Verdict

NEVER = [
    *(Feature.SR_IOV, Feature.ADMIN_VQ, Feature.SUSPEND),
    *(BlockFeature.BARRIER, BlockFeature.SCSI, BlockFeature.LIFETIME),
    *(BlockFeature.SECURE_ERASE, BlockFeature.ZONED, Feature.NOTIFY_ON_EMPTY),
]

ZONED_CLAUSES = [
    clause_id
    for clause_id in clause_table()
    if clause_id.startswith("ZONED-") and clause_id not in ("ZONED-INIT-01", "ZONED-INIT-06")
]
"""All but those that say something without the feature too."""


@pytest.mark.parametrize("feature", NEVER, ids=lambda feature: str(feature.name))
def test_a_disk_does_not_accept(feature: Feature | BlockFeature) -> None:
    with vioblk.open(f"mem:1M?offer={int(feature)}") as disk:
        negotiation = disk.device.negotiation
        assert negotiation is not None
        assert feature in negotiation.offered
        assert feature not in negotiation.accepted
        decision = next(each for each in negotiation.decisions if each.bit == feature)
        assert decision.verdict is not Verdict.ACCEPTED
        assert decision.reason
        disk.write(0, bytes(512))


@pytest.mark.parametrize("feature", NEVER, ids=lambda feature: str(feature.name))
def test_a_disk_cannot_be_made_to_accept(feature: Feature | BlockFeature) -> None:
    name = feature.name.lower()
    with pytest.raises(vioblk.NegotiationError, match=f"feature {name} is forced on but cannot"):
        vioblk.open(f"mem:1M?offer={int(feature)}&{name}=on")


@clause("ZONED-INIT-01")
@vacuous(*ZONED_CLAUSES)
def test_zoned_is_never_accepted() -> None:
    with vioblk.open("mem:1M?offer=zoned") as disk:
        assert BlockFeature.ZONED in disk.device.offered
        assert not disk.device.has(BlockFeature.ZONED)
    with pytest.raises(vioblk.NegotiationError, match="does not manage zones"):
        vioblk.open("mem:1M?offer=zoned&zoned=on")
