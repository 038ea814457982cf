"""The names of the device types."""

from vioblk.device_types import BLOCK, DEVICE_TYPES, ENTROPY, NETWORK, device_type_name


def test_every_number_of_the_specification_has_a_name() -> None:
    """VIRTIO 1.4, 5 Device Types."""
    assert set(DEVICE_TYPES) == set(range(1, 50)) - {14, 15, 37}
    assert len(set(DEVICE_TYPES.values())) == len(DEVICE_TYPES)


def test_the_types_of_the_drivers_are_where_they_should_be() -> None:
    assert (device_type_name(BLOCK), device_type_name(ENTROPY), device_type_name(NETWORK)) == (
        "block",
        "entropy source",
        "network",
    )


def test_a_number_without_a_name_says_so() -> None:
    assert device_type_name(50) == "unknown type 50"
