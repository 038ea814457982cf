"""Where a function is."""

import pytest

from vioblk.pci.location import Location


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("0000:00:05.0", Location(bus=0, device=5)),
        ("00:1f.7", Location(bus=0, device=0x1F, function=7)),
        ("10000:ff:00.1", Location(bus=0xFF, device=0, function=1, domain=0x10000)),
        ("0:5.0", Location(bus=0, device=5)),
    ],
)
def test_a_location_is_parsed(text: str, location: Location) -> None:
    assert Location.parse(text) == location
    assert Location.parse(str(location)) == location


def test_it_is_written_as_the_kernel_does() -> None:
    assert str(Location(bus=1, device=31, function=7, domain=2)) == "0002:01:1f.7"


@pytest.mark.parametrize("text", ["", "5", "00:20.0", "00:05.8", "00:05", "0000:000:05.0", "x:5.0"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="PCI"):
        Location.parse(text)
