"""Addresses and their options."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vioblk
from vioblk.address import (
    Address,
    Option,
    choice,
    feature_list,
    flag,
    integer,
    parse_address,
    parse_size,
    seconds,
    sort_options,
    text,
)
from vioblk.block import options as driver
from vioblk.block.features import BLOCK_DEVICE_TYPE, BlockFeature
from vioblk.errors import AddressError
from vioblk.features import Feature
from vioblk.transport import software, vhost_user

TRANSPORT_OPTIONS = {
    "queues": integer(1, 64, "queues"),
    "seg_max": integer(1, 126, "segments"),
    "cache": choice(("writeback", "volatile"), "cache"),
    "read_only": flag("read only"),
}
DRIVER_OPTIONS = {"timeout_s": seconds("time-out")}


def sort(address: str, **keywords: object) -> tuple[dict[str, object], dict[str, object]]:
    sorted_options = sort_options(
        parse_address(address),
        keywords,
        transport_options=TRANSPORT_OPTIONS,
        driver_options=DRIVER_OPTIONS,
        device_type=BLOCK_DEVICE_TYPE,
    )
    return sorted_options.transport, sorted_options.driver


def forced(address: str, **keywords: object) -> tuple[frozenset[int], frozenset[int]]:
    sorted_options = sort_options(
        parse_address(address),
        keywords,
        transport_options=TRANSPORT_OPTIONS,
        driver_options=DRIVER_OPTIONS,
        device_type=BLOCK_DEVICE_TYPE,
    )
    return sorted_options.force_on, sorted_options.force_off


def test_an_address_is_scheme_target_and_options() -> None:
    assert parse_address("file:disk.img?queues=2&cache=volatile") == Address(
        text="file:disk.img?queues=2&cache=volatile",
        scheme="file",
        target="disk.img",
        options={"queues": "2", "cache": "volatile"},
    )


def test_an_address_needs_no_options() -> None:
    assert parse_address("vhost-user:/run/a.sock").options == {}


def test_an_empty_option_list_is_refused() -> None:
    with pytest.raises(AddressError, match="name=value"):
        parse_address("mem:1M?")


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("a%3Fb", "a?b"),
        ("a%3fb", "a?b"),
        ("100%.img", "100%.img"),
        ("a%20b", "a%20b"),
        ("a%253Fb", "a%3Fb"),
        ("a:b&c=d#e", "a:b&c=d#e"),
        (" spaces and ünïcode ", " spaces and ünïcode "),
    ],
)
def test_a_path_may_contain_anything(written: str, path: str) -> None:
    assert parse_address(f"file:{written}").target == path


@given(st.text(min_size=1))
def test_every_path_can_be_written(path: str) -> None:
    written = path.replace("%25", "%2525").replace("%3F", "%253F").replace("%3f", "%253f")
    address = parse_address("file:" + written.replace("?", "%3F") + "?queues=1")
    assert address.target == path
    assert address.options == {"queues": "1"}


def test_option_values_are_percent_decoded() -> None:
    assert parse_address("mem:1M?serial=a%26b%3Dc").options == {"serial": "a&b=c"}


@pytest.mark.parametrize("wrong", ["disk.img", "/dev/sda", "", ":64M", "/a/b:c"])
def test_an_address_without_a_scheme_shows_what_one_looks_like(wrong: str) -> None:
    with pytest.raises(AddressError, match=r"has no scheme.*mem:64M.*qemu:disk.img"):
        parse_address(wrong)


def test_an_address_without_a_target_is_refused() -> None:
    with pytest.raises(AddressError, match="names nothing after mem:"):
        parse_address("mem:?queues=1")


def test_an_option_given_twice_is_refused() -> None:
    with pytest.raises(AddressError, match="queues is given twice"):
        parse_address("mem:1M?queues=1&queues=2")


@pytest.mark.parametrize(
    ("size", "size_bytes"),
    [
        ("0", 0),
        ("512", 512),
        ("64K", 64 << 10),
        ("64M", 64 << 20),
        ("1G", 1 << 30),
        ("2T", 2 << 40),
        ("3k", 3 << 10),
        ("3KiB", 3 << 10),
        ("3MB", 3 << 20),
    ],
)
def test_sizes_are_binary(size: str, size_bytes: int) -> None:
    assert parse_size(size) == size_bytes


@pytest.mark.parametrize(
    "wrong",
    ["", "M", "64X", "-1", "1.5M", "64 M", "1KK", "1iB", "K", "1\n", "9" * 5000, "9999999T", "٣M"],
)
def test_a_wrong_size_is_refused_with_its_text(wrong: str) -> None:
    with pytest.raises(AddressError) as refusal:
        parse_size(wrong)
    assert repr(wrong) in str(refusal.value)


def test_options_go_to_whom_they_are_for() -> None:
    assert sort("mem:1M?queues=2&timeout_s=0.5&cache=volatile") == (
        {"queues": 2, "cache": "volatile"},
        {"timeout_s": 0.5},
    )


def test_keywords_win_over_the_address() -> None:
    assert sort("mem:1M?queues=2", queues=3) == ({"queues": 3}, {})
    assert forced("mem:1M?event_idx=on", event_idx=False) == (
        frozenset(),
        frozenset({Feature.EVENT_IDX}),
    )


def test_any_feature_can_be_forced_on_or_off() -> None:
    assert forced("mem:1M?event_idx=off&flush=on&discard=off&indirect=auto") == (
        frozenset({BlockFeature.FLUSH}),
        frozenset({Feature.EVENT_IDX, BlockFeature.DISCARD}),
    )


def test_the_short_names_of_features_are_understood() -> None:
    assert forced("mem:1M?indirect=off&packed=on") == (
        frozenset({Feature.RING_PACKED}),
        frozenset({Feature.INDIRECT_DESC}),
    )


def test_a_name_that_is_a_feature_and_an_option_is_told_apart_by_its_value() -> None:
    assert sort("mem:1M?seg_max=7") == ({"seg_max": 7}, {})
    assert forced("mem:1M?seg_max=off") == (frozenset(), frozenset({BlockFeature.SEG_MAX}))


def test_an_unknown_option_names_those_that_look_like_it() -> None:
    with pytest.raises(AddressError, match=r"no option 'queue' for mem:; did you mean queues"):
        sort("mem:1M?queue=1")


def test_an_unknown_option_names_those_that_share_a_word_with_it() -> None:
    with pytest.raises(AddressError, match=r"for vhost-user:; did you mean .*queue_count\? help"):
        sort_options(
            parse_address("vhost-user:/a.sock?queues=2"),
            {},
            transport_options=vhost_user.OPTIONS,
            driver_options=driver.OPTIONS,
            device_type=BLOCK_DEVICE_TYPE,
        )


def test_an_option_like_no_other_is_told_where_all_are_named() -> None:
    with pytest.raises(AddressError, match=r"'zzz' for mem:; help\(vioblk.open\) names all$"):
        sort("mem:1M?zzz=1")


def test_the_help_of_open_names_every_option() -> None:
    text = vioblk.open.__doc__ or ""
    named = set(re.findall(r"`(\w+)`", text))
    assert named >= {*driver.OPTIONS, *software.OPTIONS, *vhost_user.OPTIONS}


def test_a_feature_takes_only_on_off_and_auto() -> None:
    with pytest.raises(AddressError, match="event_idx is on, off or auto, not 'maybe'"):
        sort("mem:1M?event_idx=maybe")


@pytest.mark.parametrize(
    ("option", "value", "valid"),
    [
        (integer(1, 64, ""), "65", "from 1 to 64"),
        (integer(1, 64, ""), "two", "from 1 to 64"),
        (integer(1, 64, ""), True, "from 1 to 64"),
        (integer(1, 64, "", power_of_two=True), "3", "power of two"),
        (flag(""), "yes", "on or off"),
        (flag(""), "auto", "on or off"),
        (choice(("writeback", "volatile"), ""), "none", "writeback, volatile"),
        (seconds(""), "0", "above 0"),
        (seconds(""), "nan", "above 0"),
        (seconds(""), None, "above 0"),
        (text("", length_bytes_max=4), "fünf", "at most 4 bytes"),
        (feature_list("", BLOCK_DEVICE_TYPE), "flush,evnt_idx", "did you mean event_idx"),
        (feature_list("", BLOCK_DEVICE_TYPE), "64", "below 64"),
        (feature_list("", BLOCK_DEVICE_TYPE), 5, "with commas"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_valid(
    option: Option, value: object, valid: str
) -> None:
    with pytest.raises(AddressError) as refusal:
        sort_options(
            Address("mem:1M", "mem", "1M"),
            {"name": value},
            transport_options={"name": option},
            driver_options={},
            device_type=BLOCK_DEVICE_TYPE,
        )
    assert valid in str(refusal.value)
    assert f"name={value}" in str(refusal.value)


@pytest.mark.parametrize(
    ("option", "value", "read"),
    [
        (integer(1, 1 << 30, ""), "64K", 65536),
        (integer(1, 64, "", power_of_two=True), 4, 4),
        (flag(""), True, True),
        (flag(""), "off", False),
        (seconds(""), "2.5", 2.5),
        (seconds(""), 3, 3.0),
        (text("", length_bytes_max=4), "abcd", b"abcd"),
        (text("", length_bytes_max=4), b"\xff", b"\xff"),
        (feature_list("", BLOCK_DEVICE_TYPE), "flush,29", frozenset({9, 29})),
        (feature_list("", BLOCK_DEVICE_TYPE), {9, 29}, frozenset({9, 29})),
    ],
)
def test_values_are_read_from_text_and_from_keywords(
    option: Option, value: object, read: object
) -> None:
    assert option.read(value) == read


@pytest.mark.parametrize("address", [None, 7, b"mem:1M"])
def test_what_is_no_text_is_no_address(address: Any) -> None:
    with pytest.raises(AddressError, match="an address is text"):
        vioblk.open(address)


@pytest.mark.parametrize("offer", [[None], ["flush"], [1.5]])
def test_a_list_of_features_that_are_no_numbers_is_refused(offer: Any) -> None:
    with pytest.raises(AddressError, match="a list of bit numbers"):
        vioblk.open("mem:1M", offer=offer)


def test_two_names_of_one_feature_must_agree() -> None:
    with pytest.raises(AddressError, match="indirect is on and indirect_desc is off"):
        vioblk.open("mem:1M?indirect=on&indirect_desc=off")
    assert forced("mem:1M?indirect=off&indirect_desc=off") == forced("mem:1M?indirect=off")
    with vioblk.open("mem:1M?indirect=on", indirect_desc=False) as disk:
        assert not disk.device.has(Feature.INDIRECT_DESC), "a keyword wins"
