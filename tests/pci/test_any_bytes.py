"""No byte string as configuration space makes the parsers, or a listing, fail or go on for ever."""

import json

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.pci.spaces import ModelSpace, recorded
from vioblk.cli.list import overview
from vioblk.cli.pciconf import device_lines
from vioblk.discovery.describe import describe
from vioblk.discovery.function import PciFunction
from vioblk.pci.bars import Bar, read_bars, size_bars
from vioblk.pci.capabilities import walk
from vioblk.pci.header import read_header
from vioblk.pci.identity import Identity, NotVirtio, identify
from vioblk.pci.sources.exact import EXPRESS_LENGTH
from vioblk.pci.virtio_capabilities import parse, read_vendor_data


def recorded_bytes(name: str) -> bytes:
    config = recorded(name)
    return bytes(config.read(offset, 1) for offset in range(config.length))


RECORDED = [
    recorded_bytes(name)
    for name in ("legacy_1001", "transitional_1001", "q35_behind_root_port", "q35_root_port")
]

lengths = st.one_of(st.integers(0, 300), st.sampled_from([4095, EXPRESS_LENGTH]))


@st.composite
def spaces(draw: st.DrawFn) -> bytes:
    """Anything; or what a device showed, with some bytes changed, and cut somewhere."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=512))
    data = bytearray(draw(st.sampled_from(RECORDED)).ljust(EXPRESS_LENGTH, b"\0"))
    changes = st.tuples(st.integers(0, 0x180), st.integers(0, 255))
    for offset, value in draw(st.lists(changes, max_size=24)):
        data[offset] = value
    return bytes(data[: draw(lengths)])


def survey(space: ModelSpace, bars: tuple[Bar, ...]) -> None:
    """All that is asked of a function that is looked at."""
    header = read_header(space)
    if header is not None:
        found = identify(header)
        assert isinstance(found, Identity | NotVirtio)
        str(header.chip + header.card)
    capabilities = walk(space)
    names = [each.name for each in capabilities.capabilities]
    assert all(names + [each.name for each in capabilities.extended])
    structures = parse(space, capabilities, bars)
    structures.why_not_modern()
    for skipped in structures.skipped:
        assert str(skipped)
        assert skipped.reason
    for structure in structures.common + structures.isr + structures.device:
        bar = next(bar for bar in bars if bar.index == structure.bar)
        assert 0 < structure.length <= structure.claimed_length
        if bar.length is not None:
            assert structure.offset + structure.length <= bar.length
    for data in structures.vendor_data:
        assert len(read_vendor_data(space, data, data.vendor_id)) == data.length


@settings(deadline=None, max_examples=200)
@given(spaces())
@example(b"")
@example(b"\xff" * 256)
@example(b"\xff" * EXPRESS_LENGTH)
@example(bytes(EXPRESS_LENGTH))
def test_any_bytes_can_be_looked_at(data: bytes) -> None:
    space = ModelSpace(data)
    survey(space, read_bars(space))
    assert not space.writes()
    assert len(space.log) < 20_000


@settings(deadline=None, max_examples=200)
@given(spaces(), st.binary(max_size=64))
def test_any_bytes_can_be_sized(data: bytes, writable: bytes) -> None:
    """`writable` says which bits of the header change when they are written."""
    space = ModelSpace(data.ljust(64, b"\0"), writable)
    before = bytes(space.data)
    bars = size_bars(space)
    assert space.data == before
    survey(space, bars)
    assert {bar.index for bar in bars} <= set(range(6))
    for bar in bars:
        assert bar.problem is not None or (bar.length is not None and bar.length > 0)


@settings(deadline=None, max_examples=200)
@given(spaces(), st.sampled_from([None, "qemu:disk.img"]))
@example(b"\xff" * 256, None)
def test_any_bytes_can_be_listed_in_full(data: bytes, open_with: str | None) -> None:
    """As `vioblk list`, `-v` and `--json` do."""
    function = PciFunction("0000:00:05.0", ModelSpace(data), bars=())
    device = describe(function, drivers={2: "block"}, open_with=open_with)
    if device is None:
        assert read_header(ModelSpace(data)) is None
        return
    lines = list(device_lines("none0", device))
    assert lines[0].startswith("none0@pci0:0:5:0: class=0x")
    assert all(line.isprintable() for line in lines)
    assert json.loads(json.dumps(device.as_dict()))["vendor_id"] == device.vendor_id
    assert overview([device]).row_count == 1
    assert (device.open_with is None) == (device.reason is not None)
