"""Reading and writing the configuration space of a device that changes it meanwhile."""

import pytest

from tests.clauses import clause
from tests.support.drivers import PlainDriver
from tests.support.scripted import Access, Script
from vioblk.block.features import BlockFeature
from vioblk.config_space import READ_ATTEMPTS_MAX, ConfigField, read_snapshot, write_field
from vioblk.device import VirtioDevice
from vioblk.errors import ProtocolError, StateError, UnsupportedError
from vioblk.features import Feature, Wish

CAPACITY = ConfigField("capacity", 0, 8)
SIZE_MAX = ConfigField("size_max", 8, 4, BlockFeature.SIZE_MAX)
HEADS = ConfigField("heads", 18, 1, BlockFeature.GEOMETRY)
CYLINDERS = ConfigField("cylinders", 16, 2, BlockFeature.GEOMETRY)
WRITEBACK = ConfigField(
    "writeback", 32, 1, BlockFeature.CONFIG_WCE, after_features_ok=True, writable=True
)
FIELDS = [CAPACITY, SIZE_MAX, CYLINDERS, HEADS, WRITEBACK]


def live_device(script: Script, *accept: int) -> VirtioDevice:
    device = VirtioDevice(script)
    device.initialize(PlainDriver(script.log, wish=Wish(wanted=frozenset(accept))))
    script.log.clear()
    return device


def offering(*bits: int) -> int:
    return sum(1 << bit for bit in (*bits, Feature.VERSION_1))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (ConfigField("byte", 3, 1), 3),
        (ConfigField("half", 2, 2), 0x0302),
        (ConfigField("word", 4, 4), 0x07060504),
        (ConfigField("long", 8, 8), 0x0F0E0D0C0B0A0908),
    ],
)
def test_fields_of_every_width_are_read(field: ConfigField, value: int) -> None:
    assert live_device(Script(config=bytes(range(96)))).read_config(field) == value


@clause("CFG-01")
def test_eight_bytes_are_read_as_two_halves() -> None:
    script = Script(config=bytes(range(96)))
    live_device(script).read_config(CAPACITY)
    assert script.accesses("read_config") == [
        Access("read_config", (0, 4)),
        Access("read_config", (4, 4)),
    ]


@clause("CFG-01", "CFG-03")
def test_a_value_that_changes_between_its_halves_is_never_seen_torn() -> None:
    script = Script(config=(0xFFFF_FFFF).to_bytes(8, "little") + bytes(88))

    def grow_between_the_halves() -> None:
        if len(script.accesses("read_config")) == 1:
            script.config[0:8] = (0x1_0000_0000).to_bytes(8, "little")
            script.generation += 1

    device = live_device(script)
    script.hooks["read_config"] = grow_between_the_halves
    assert device.read_config(CAPACITY) == 0x1_0000_0000


@clause("CFG-02", "CFG-03")
def test_fields_read_together_belong_to_one_generation() -> None:
    script = Script(offering(BlockFeature.SIZE_MAX), config=bytes(96))
    device = live_device(script)

    def change_after_the_first_field() -> None:
        if len(script.accesses("read_config")) == 2:
            script.config[0:12] = bytes([1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0])
            script.generation += 1

    script.hooks["read_config"] = change_after_the_first_field
    assert device.read_config_fields([CAPACITY, SIZE_MAX]) == {"capacity": 1, "size_max": 2}


@clause("CFG-03")
def test_the_generation_is_read_before_and_after() -> None:
    script = Script()
    live_device(script).read_config(CAPACITY)
    assert [each.what for each in script.log] == [
        "config_generation",
        "read_config",
        "read_config",
        "config_generation",
    ]


def test_a_configuration_that_never_holds_still_is_an_error() -> None:
    script = Script()

    def change() -> None:
        script.generation += 1

    device = live_device(script)
    script.hooks["read_config"] = change
    with pytest.raises(ProtocolError, match=f"each of {READ_ATTEMPTS_MAX} attempts to read capac"):
        device.read_config(CAPACITY)


@clause("CFG-LEG-01")
def test_without_a_generation_values_are_read_until_two_rounds_agree() -> None:
    script = Script(config=b"\xff\xff\xff\xff" + bytes(92))
    script.legacy_align = 4096

    def grow_between_the_halves() -> None:
        if len(script.accesses("read_config")) == 1:
            script.config[0:8] = (0x1_0000_0000).to_bytes(8, "little")

    script.hooks["read_config"] = grow_between_the_halves
    assert read_snapshot(script, [CAPACITY]) == {"capacity": 0x1_0000_0000}
    assert len(script.accesses("read_config")) == 6


@clause("CFG-04")
def test_a_field_is_not_touched_unless_its_feature_is_offered() -> None:
    script = Script(offering(BlockFeature.SIZE_MAX))
    device = live_device(script)
    assert device.read_config_fields(FIELDS) == {"capacity": 0, "size_max": 0}
    with pytest.raises(UnsupportedError, match=r"heads exists only with the feature geometry"):
        device.read_config(HEADS)
    touched = {each.value for each in script.accesses("read_config")}
    assert touched == {(0, 4), (4, 4), (8, 4)}


def test_a_field_may_be_read_when_its_feature_is_offered_and_not_accepted() -> None:
    script = Script(offering(BlockFeature.SIZE_MAX), config=bytes(range(96)))
    assert live_device(script).read_config(SIZE_MAX) == 0x0B0A0908


@clause("BLK-INIT-04")
def test_a_field_that_has_to_wait_for_features_ok_is_not_read_before() -> None:
    script = Script(offering(BlockFeature.CONFIG_WCE))
    driver = PlainDriver(script.log)
    driver.steps["check"] = lambda device: device.read_config_fields([CAPACITY, WRITEBACK])
    with pytest.raises(StateError, match="writeback must not be read before FEATURES_OK"):
        VirtioDevice(script).initialize(driver)
    assert not script.accesses("read_config")


@clause("CFG-05")
def test_a_configuration_space_of_any_larger_size_is_fine() -> None:
    script = Script(config=bytes(range(96)) + bytes(65536))
    assert live_device(script).read_config(CAPACITY) == 0x0706050403020100


@clause("CFG-06")
def test_a_configuration_space_needs_only_the_fields_that_are_read() -> None:
    script = Script(offering(BlockFeature.SIZE_MAX), config=bytes(8))
    device = live_device(script)
    assert device.read_config(CAPACITY) == 0
    with pytest.raises(ProtocolError, match="ends within size_max: 0 of 4 bytes at offset 8"):
        device.read_config(SIZE_MAX)


def test_a_field_is_written_in_its_width() -> None:
    script = Script(offering(BlockFeature.CONFIG_WCE))
    device = live_device(script, BlockFeature.CONFIG_WCE)
    device.write_config(WRITEBACK, 1)
    assert script.log == [Access("write_config", (32, b"\x01"))]


@pytest.mark.parametrize("value", [-1, 256])
def test_a_value_that_does_not_fit_is_refused(value: int) -> None:
    script = Script(offering(BlockFeature.CONFIG_WCE))
    device = live_device(script, BlockFeature.CONFIG_WCE)
    with pytest.raises(ValueError, match=f"writeback: {value} does not fit in 1 bytes"):
        device.write_config(WRITEBACK, value)
    assert script.log == []


def test_a_field_that_is_not_the_drivers_cannot_be_written() -> None:
    script = Script()
    with pytest.raises(UnsupportedError, match="capacity cannot be written"):
        live_device(script).write_config(CAPACITY, 1)
    assert script.accesses("write_config") == []


def test_a_field_whose_feature_was_not_accepted_cannot_be_written() -> None:
    script = Script(offering(BlockFeature.CONFIG_WCE))
    with pytest.raises(UnsupportedError, match="config_wce, which was not accepted"):
        live_device(script).write_config(WRITEBACK, 1)
    assert script.accesses("write_config") == []


def test_eight_bytes_are_not_written() -> None:
    with pytest.raises(ValueError, match="fields of 8 bytes cannot be written"):
        write_field(Script(), CAPACITY, 1)


@pytest.mark.parametrize(("offset", "width"), [(0, 3), (0, 0), (1, 2), (2, 4), (4, 16), (-4, 4)])
def test_a_field_that_no_structure_can_have_is_refused(offset: int, width: int) -> None:
    with pytest.raises(ValueError, match="field"):
        ConfigField("field", offset, width)


def test_a_field_beyond_the_end_cannot_be_written_and_that_is_the_devices_fault() -> None:
    script = Script()

    def refuse() -> None:
        raise ValueError("the device configuration has 0 bytes")

    script.hooks["write_config"] = refuse
    field = ConfigField("writeback", 0x20, 1, writable=True)
    with pytest.raises(ProtocolError, match=r"ends before writeback, .* has 0 bytes"):
        write_field(script, field, 1)
