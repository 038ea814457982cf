"""DMA memory grows by few and large mappings."""

import pytest

from tests.support.scripted import Script
from vioblk.errors import StateError, TransportError
from vioblk.memory import FIRST_MAPPING_BYTES, DmaMemory

MIB = 1 << 20


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def memory(script: Script) -> DmaMemory:
    return DmaMemory(script)


def lengths(script: Script) -> list[int]:
    return [mapping.length for mapping in script.space.mappings]


def test_nothing_is_mapped_before_it_is_asked_for(memory: DmaMemory, script: Script) -> None:
    assert lengths(script) == []
    memory.alloc(512)
    assert lengths(script) == [FIRST_MAPPING_BYTES]


def test_small_regions_share_a_mapping(memory: DmaMemory, script: Script) -> None:
    regions = [memory.alloc(4096) for _ in range(100)]
    assert len({region.device_address for region in regions}) == 100
    assert len(lengths(script)) == 1


def test_each_mapping_is_as_large_as_all_before_it(memory: DmaMemory, script: Script) -> None:
    regions = []
    while len(lengths(script)) < 4:
        regions.append(memory.alloc(MIB))
    assert [length // MIB for length in lengths(script)] == [4, 4, 8, 16]


def test_a_large_region_gets_a_mapping_of_its_size(memory: DmaMemory, script: Script) -> None:
    region = memory.alloc(33 * MIB)
    assert region.length == 33 * MIB
    assert lengths(script) == [34 * MIB]


@pytest.mark.parametrize(("count_max", "first_mib"), [(1, 512), (2, 256), (7, 8), (8, 4), (32, 4)])
def test_where_few_mappings_are_allowed_the_first_is_larger(
    memory: DmaMemory, script: Script, count_max: int, first_mib: int
) -> None:
    script.mapping_count_max = count_max
    memory.alloc(512)
    assert lengths(script) == [first_mib * MIB]


def test_where_nothing_can_be_mapped_later_the_first_mapping_is_the_largest(
    memory: DmaMemory, script: Script
) -> None:
    script.maps_while_live = False
    memory.alloc(512)
    assert lengths(script) == [512 * MIB]


def test_more_mappings_than_the_device_allows_are_never_made(
    memory: DmaMemory, script: Script
) -> None:
    script.mapping_count_max = 2
    script.map_memory(4 * MIB)
    script.map_memory(4 * MIB)
    regions = [memory.alloc(4 * MIB), memory.alloc(4 * MIB)]
    with pytest.raises(MemoryError, match=r"no room for 4096 bytes: 0 are free.* 2 mappings"):
        memory.alloc(4096)
    assert len(lengths(script)) == 2
    regions.pop().close()
    assert memory.alloc(4096).length == 4096


def test_closed_regions_are_given_out_again(memory: DmaMemory, script: Script) -> None:
    for _ in range(100):
        memory.alloc(2 * MIB).close()
    assert len(lengths(script)) == 1


def test_regions_are_zeroed(memory: DmaMemory) -> None:
    with memory.alloc(4096) as region, memoryview(region) as view:
        view[:] = b"\xff" * 4096
    with memory.alloc(4096) as region, memoryview(region) as view:
        assert bytes(view) == bytes(4096)


@pytest.mark.parametrize("align", [1, 64, 4096])
def test_regions_are_aligned(memory: DmaMemory, align: int) -> None:
    memory.alloc(24, 8)
    assert memory.alloc(24, align).device_address % align == 0


@pytest.mark.parametrize("length_bytes", [0, -1])
def test_a_region_of_no_bytes_is_refused(memory: DmaMemory, length_bytes: int) -> None:
    with pytest.raises(ValueError, match=f"at least one byte, not {length_bytes}"):
        memory.alloc(length_bytes)


@pytest.mark.parametrize("align", [0, 3, 8192])
def test_an_impossible_alignment_is_refused(memory: DmaMemory, align: int) -> None:
    memory.alloc(1)
    with pytest.raises(ValueError, match=str(align)):
        memory.alloc(512, align)


def test_a_system_that_refuses_is_a_memory_error(memory: DmaMemory, script: Script) -> None:
    def refuse() -> None:
        raise OSError("no huge pages")

    script.hooks["map_memory"] = refuse
    with pytest.raises(MemoryError, match=r"no room for 512 bytes.*no huge pages"):
        memory.alloc(512)


def test_a_device_out_of_reach_is_no_memory_error(memory: DmaMemory, script: Script) -> None:
    def refuse() -> None:
        raise TransportError("gone")

    script.hooks["map_memory"] = refuse
    with pytest.raises(TransportError, match="gone"):
        memory.alloc(512)


def test_more_than_any_system_has_is_a_memory_error(memory: DmaMemory) -> None:
    with pytest.raises(MemoryError, match="no room for"):
        memory.alloc(1 << 61)


def test_a_closed_memory_gives_out_nothing(memory: DmaMemory) -> None:
    region = memory.alloc(512)
    memory.close()
    with pytest.raises(StateError, match="open it again"):
        memory.alloc(512)
    assert bytes(memoryview(region)) == bytes(512)


@pytest.mark.parametrize("length_bytes", [(1 << 47) + 1, 1 << 63, (1 << 64) - 1, 1 << 64, 1 << 100])
def test_more_than_there_can_be_is_no_room(
    memory: DmaMemory, script: Script, length_bytes: int
) -> None:
    with pytest.raises(MemoryError, match=f"no room for {length_bytes} bytes"):
        memory.alloc(length_bytes)
    assert lengths(script) == []
