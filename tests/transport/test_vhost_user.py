"""The vhost-user transport against back ends of every sort: usual, minimal, rich, and bad."""

import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vioblk
from tests.clauses import clause
from tests.transport import scripted_back_end as wire
from tests.transport.scripted_back_end import (
    ScriptedBackEnd,
    no_descriptor_leak,
    open_memory,
    ring_at,
    u64,
)
from vioblk._native import Mapping
from vioblk.address import parse_address
from vioblk.block.config import FIELDS
from vioblk.errors import (
    DeviceGoneError,
    ProtocolError,
    StateError,
    TransportError,
    VioblkError,
)
from vioblk.transport.vhost_user import OPTIONS, VhostUserTransport, connect
from vioblk.transport.vhost_user.config import ConfigSpace
from vioblk.transport.vhost_user.connection import Connection
from vioblk.transport.vhost_user.connection import connect as connect_socket

WAIT_S = 30.0
FLUSH = 1 << 9


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "socket"


@contextlib.contextmanager
def reached(
    path: Path, *, timeout_s: float = WAIT_S, drain_timeout_s: float = WAIT_S, **script: Any
) -> Iterator[tuple[VhostUserTransport, ScriptedBackEnd]]:
    """A transport and the back end that it is connected to."""
    with no_descriptor_leak(), ScriptedBackEnd(path, **script) as back_end:
        transport = VhostUserTransport(
            str(path), timeout_s=timeout_s, drain_timeout_s=drain_timeout_s
        )
        try:
            yield transport, back_end
        finally:
            transport.close()
            transport.close()


def nack(_: ScriptedBackEnd, message: wire.Message) -> bytes:
    return wire.encode(message.request, u64(1))


def hang_up(back_end: ScriptedBackEnd, _: wire.Message) -> bytes:
    back_end.hang_up()
    return b""


def say_nothing(*_: object) -> bytes:
    return b""


# Handshake


def test_the_handshake_agrees_on_features_before_it_uses_them(path: Path) -> None:
    with reached(path) as (_, back_end):
        assert back_end.requests() == [
            wire.SET_OWNER,
            wire.GET_FEATURES,
            wire.GET_PROTOCOL_FEATURES,
            wire.SET_PROTOCOL_FEATURES,
            wire.GET_QUEUE_NUM,
            wire.GET_MAX_MEM_SLOTS,
            *[wire.GET_CONFIG] * 3,
            wire.SET_BACKEND_REQ_FD,
        ]
        assert back_end.messages[-1].fd_count == 1


def test_only_protocol_features_that_are_offered_and_known_are_accepted(path: Path) -> None:
    offered = wire.CONFIG | wire.MQ | 1 << 1 | 1 << 8 | 1 << 12 | 1 << 63
    with reached(path, protocol_features=offered) as (_, back_end):
        (message,) = back_end.sent(wire.SET_PROTOCOL_FEATURES)
        assert message.number == wire.CONFIG | wire.MQ


def test_a_minimal_back_end_is_enough(path: Path) -> None:
    with reached(path, protocol_features=wire.CONFIG) as (transport, back_end):
        assert transport.queue_count() == 1
        assert transport.mapping_count_max == 8
        transport.write_features(FLUSH)
        mapping = transport.map_memory(1 << 16)
        transport.enable_queue(0, ring_at(mapping.device_address))
        transport.write_status(0)
        assert transport.read_status() == 0
        assert not any(message.flags & wire.NEED_REPLY for message in back_end.messages)
        assert back_end.channel is None
        foreign = {wire.GET_QUEUE_NUM, wire.GET_MAX_MEM_SLOTS, wire.ADD_MEM_REG, wire.GET_STATUS}
        assert not foreign & set(back_end.requests())


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ({"features": wire.VERSION_1}, "no protocol features"),
        ({"protocol_features": wire.MQ}, "does not offer the protocol feature CONFIG"),
        ({"queue_count": 0}, "answered GET_QUEUE_NUM with 0"),
        ({"queue_count": 1 << 32}, "answered GET_QUEUE_NUM with 4294967296"),
        ({"slots": 0}, "answered GET_MAX_MEM_SLOTS with 0"),
        ({"config": bytes(7)}, "tells no configuration of 8 to 256 bytes"),
    ],
)
def test_a_back_end_that_cannot_serve_is_refused_with_the_reason(
    path: Path, script: dict[str, Any], reason: str
) -> None:
    with (
        no_descriptor_leak(),
        ScriptedBackEnd(path, **script),
        pytest.raises(TransportError, match=reason),
    ):
        VhostUserTransport(str(path), timeout_s=WAIT_S)


def test_a_back_end_that_serves_somebody_else_is_said_to_be_busy(path: Path) -> None:
    answers = {wire.GET_FEATURES: say_nothing}
    with (
        no_descriptor_leak(),
        ScriptedBackEnd(path, answers=answers),
        pytest.raises(TransportError, match="is another client connected"),
    ):
        VhostUserTransport(str(path), timeout_s=0.2)


@pytest.mark.parametrize("message_index", range(1, 10))
def test_a_hang_up_anywhere_in_the_handshake_is_an_error_and_leaks_nothing(
    path: Path, message_index: int
) -> None:
    def hang_up_late(back_end: ScriptedBackEnd, message: wire.Message) -> bytes | None:
        return hang_up(back_end, message) if len(back_end.messages) > message_index else None

    answers = dict.fromkeys(range(64), hang_up_late)
    with (
        no_descriptor_leak(),
        ScriptedBackEnd(path, answers=answers),
        pytest.raises(DeviceGoneError, match="hung up"),
    ):
        VhostUserTransport(str(path), timeout_s=WAIT_S)


def test_an_address_is_connected_to_with_its_options(path: Path) -> None:
    with no_descriptor_leak(), ScriptedBackEnd(path):
        address = parse_address(f"vhost-user:{path}?reply_timeout=7.5")
        options = {name: OPTIONS[name].read(value) for name, value in address.options.items()}
        transport = connect(address, options)
        try:
            assert transport.address == address.text
            assert transport.name == "vhost-user"
            assert transport.device_type == 2
        finally:
            transport.close()


def test_a_forgotten_transport_lets_go_of_everything(path: Path) -> None:
    with no_descriptor_leak(), ScriptedBackEnd(path):
        held = [VhostUserTransport(str(path), timeout_s=WAIT_S)]
        held[0].enable_queue(0, ring_at(held[0].map_memory(1 << 16).device_address))
        (thread,) = [each for each in threading.enumerate() if each.name.startswith("vioblk-")]
        with pytest.warns(ResourceWarning, match="unclosed"):
            held.clear()
        thread.join(WAIT_S)
        assert not thread.is_alive()


# Features


def test_bits_of_the_protocol_are_hidden_and_set_by_the_transport(path: Path) -> None:
    with reached(path) as (transport, back_end):
        assert transport.read_features() == wire.VERSION_1 | FLUSH
        transport.write_features(wire.VERSION_1)
        (message,) = back_end.sent(wire.SET_FEATURES)
        assert message.number == wire.VERSION_1 | wire.PROTOCOL_FEATURES


@pytest.mark.parametrize("bit", [0, 26, 30, 63])
def test_a_feature_that_is_not_offered_is_never_sent(path: Path, bit: int) -> None:
    with reached(path) as (transport, back_end):
        with pytest.raises(ValueError, match="not offered"):
            transport.write_features(1 << bit)
        assert back_end.sent(wire.SET_FEATURES) == []


# Configuration


LENGTHS = [8, 36, 48, 50, 57, 58, 60, 61, 72, 96, 104, 200]


def exactly(back_end: ScriptedBackEnd, message: wire.Message) -> bytes | None:
    """Tell the configuration to whoever asks for its very length."""
    asked = struct.unpack_from("=II", message.payload)[1]
    return None if asked == len(back_end.config) else wire.encode(message.request, b"")


@clause("CFG-05")
@pytest.mark.parametrize("answers", [{}, {wire.GET_CONFIG: exactly}], ids=["any part", "the whole"])
@pytest.mark.parametrize("length", LENGTHS)
def test_every_field_of_a_structure_of_any_length_is_read(
    path: Path, length: int, answers: dict[int, wire.Answer]
) -> None:
    config = os.urandom(length)
    with reached(path, config=config, answers=answers) as (transport, back_end):
        for field in FIELDS:
            end = field.offset + field.width
            if end <= length:
                assert (
                    transport.read_config(field.offset, field.width) == config[field.offset : end]
                )
            else:
                with pytest.raises(TransportError, match="reach past it"):
                    transport.read_config(field.offset, field.width)
        asked = [struct.unpack_from("=II", m.payload) for m in back_end.sent(wire.GET_CONFIG)]
        assert all(offset == 0 for offset, _ in asked)


@clause("CFG-06")
@pytest.mark.parametrize("length", LENGTHS)
def test_a_disk_opens_if_the_structure_covers_the_fields_of_its_features(
    path: Path, length: int
) -> None:
    config = struct.pack("<Q", 2048) + bytes(28) + struct.pack("<III", 64, 1, 1) + bytes(200)
    discard = 1 << 13
    features = wire.USUAL_FEATURES | (discard if length >= 48 else 0)
    with ScriptedBackEnd(path, features=features, config=config[:length]):
        with vioblk.open(f"vhost-user:{path}") as disk:
            assert disk.capacity_bytes == 1 << 20
            if length >= 48:
                (field,) = [each for each in FIELDS if each.name == "max_discard_sectors"]
                assert disk.device.read_config(field) == 64


@clause("CFG-06")
def test_a_structure_that_ends_before_a_field_that_is_needed_is_refused(path: Path) -> None:
    features = wire.USUAL_FEATURES | 1 << 13
    with (
        ScriptedBackEnd(path, features=features, config=bytes(47)),
        pytest.raises(TransportError, match="has 44 bytes, and 4 at offset 44 reach past it"),
    ):
        vioblk.open(f"vhost-user:{path}")


def test_the_search_for_the_length_is_bounded(path: Path) -> None:
    def refuse_slowly(*_: object) -> bytes:
        time.sleep(0.05)
        return wire.encode(wire.GET_CONFIG, b"")

    with ScriptedBackEnd(path, answers={wire.GET_CONFIG: refuse_slowly}) as back_end:
        connection = Connection(connect_socket(str(path), WAIT_S), "the peer", WAIT_S)
        with (
            contextlib.closing(connection),
            pytest.raises(TransportError, match=r"took 0\.2 s to refuse lengths"),
        ):
            ConfigSpace(connection, search_timeout_s=0.2)
        assert len(back_end.sent(wire.GET_CONFIG)) <= 5


@pytest.mark.parametrize(("offset", "width"), [(0, 3), (0, 0), (1, 2), (2, 4), (-4, 4), (6, 8)])
def test_a_read_that_is_no_field_is_refused(path: Path, offset: int, width: int) -> None:
    with (
        reached(path) as (transport, _),
        pytest.raises(ValueError, match="no configuration field"),
    ):
        transport.read_config(offset, width)


def test_a_field_past_the_end_is_an_error_that_says_so(path: Path) -> None:
    with reached(path, config=bytes(60)) as (transport, _):
        with pytest.raises(TransportError, match="has 60 bytes"):
            transport.read_config(60, 4)
        assert transport.read_config(56, 4) == bytes(4)


def test_the_generation_changes_when_the_content_has(path: Path) -> None:
    with reached(path) as (transport, back_end):
        first = transport.config_generation()
        assert transport.config_generation() == first
        back_end.config = b"\xff" * 60
        assert transport.read_config(0, 1) == b"\xff"
        second = transport.config_generation()
        assert second != first
        assert transport.config_generation() == second


@pytest.mark.parametrize(
    "reply",
    [
        wire.encode(wire.GET_CONFIG, b""),
        wire.encode(wire.GET_CONFIG, struct.pack("=III", 4, 60, 0) + bytes(60)),
        wire.encode(wire.GET_CONFIG, struct.pack("=III", 0, 59, 0) + bytes(60)),
        wire.encode(wire.GET_CONFIG, bytes(30)),
    ],
    ids=["empty", "another offset", "another length", "short"],
)
def test_a_bad_answer_to_a_configuration_read_is_an_error(path: Path, reply: bytes) -> None:
    with reached(path) as (transport, back_end):
        back_end.answers[wire.GET_CONFIG] = lambda *_: reply
        with pytest.raises(ProtocolError):
            transport.read_config(0, 8)


def test_a_configuration_write_names_offset_and_length(path: Path) -> None:
    with reached(path) as (transport, back_end):
        transport.write_config(32, b"\x01")
        (message,) = back_end.sent(wire.SET_CONFIG)
        assert message.payload == struct.pack("=III", 32, 1, 0) + b"\x01"


def test_a_back_end_that_acknowledges_a_write_and_then_hangs_up_is_found_out(path: Path) -> None:
    with reached(path) as (transport, back_end):
        back_end.answers[wire.GET_FEATURES] = hang_up
        with pytest.raises(DeviceGoneError, match="it was sent SET_CONFIG just before"):
            transport.write_config(0, bytes(8))


def test_a_config_change_calls_back_and_the_callback_may_read(path: Path) -> None:
    with reached(path) as (transport, back_end):
        seen: list[bytes] = []
        called = threading.Event()

        def changed() -> None:
            seen.append(transport.read_config(0, 1))
            called.set()

        transport.on_config_change(changed)
        back_end.config = b"\xaa" * 60
        channel = back_end.channel
        assert channel is not None
        channel.sendall(wire.encode(2, b"", flags=1))
        assert called.wait(WAIT_S)
        assert seen == [b"\xaa"]


def test_once_the_callback_is_taken_off_no_call_is_under_way(path: Path) -> None:
    with reached(path) as (transport, back_end):
        entered, leave, taken_off = threading.Event(), threading.Event(), threading.Event()

        def changed() -> None:
            entered.set()
            leave.wait(WAIT_S)

        def take_off() -> None:
            transport.on_config_change(None)
            taken_off.set()

        transport.on_config_change(changed)
        assert back_end.channel is not None
        back_end.channel.sendall(wire.encode(2, b"", flags=1))
        assert entered.wait(WAIT_S)
        thread = threading.Thread(target=take_off)
        thread.start()
        assert not taken_off.wait(0.05)
        leave.set()
        assert taken_off.wait(WAIT_S)
        thread.join(WAIT_S)


def test_a_call_that_does_not_return_is_left_behind(path: Path) -> None:
    with reached(path) as (transport, back_end):
        entered, leave = threading.Event(), threading.Event()

        def changed() -> None:
            entered.set()
            leave.wait(2 * WAIT_S)

        transport.on_config_change(changed)
        assert back_end.channel is not None
        back_end.channel.sendall(wire.encode(2, b"", flags=1))
        assert entered.wait(WAIT_S)
        try:
            start = time.monotonic()
            transport.on_config_change(None)
            assert time.monotonic() - start < WAIT_S
        finally:
            leave.set()


# Memory


def region_of(payload: bytes) -> tuple[int, ...]:
    return struct.unpack("=QQQQ", payload)


def as_region(mapping: Mapping) -> tuple[int, ...]:
    return (
        mapping.device_address,
        mapping.length,
        mapping.host_address,
        mapping.file_offset,
    )


def test_each_mapping_is_added_with_its_addresses_and_descriptor(path: Path) -> None:
    with reached(path) as (transport, back_end):
        mappings = [transport.map_memory(length) for length in (1, 4096, 5 << 20)]
        assert [mapping.length for mapping in mappings] == [4096, 4096, 5 << 20]
        messages = back_end.sent(wire.ADD_MEM_REG)
        assert [region_of(m.payload[8:]) for m in messages] == list(map(as_region, mappings))
        assert [message.fd_count for message in messages] == [1, 1, 1]
        assert list(map(as_region, transport.space.mappings)) == list(map(as_region, mappings))


def test_without_slots_the_whole_table_is_sent(path: Path) -> None:
    features = wire.CONFIG | wire.REPLY_ACK
    with reached(path, protocol_features=features) as (transport, back_end):
        mappings = [transport.map_memory(4096) for _ in range(3)]
        message = back_end.sent(wire.SET_MEM_TABLE)[-1]
        assert struct.unpack_from("=II", message.payload) == (3, 0)
        regions = [region_of(message.payload[at : at + 32]) for at in (8, 40, 72)]
        assert regions == [as_region(mapping) for mapping in mappings]
        assert message.fd_count == 3


def test_memory_grows_under_running_queues_only_with_slots(path: Path) -> None:
    with reached(path) as (transport, _):
        transport.enable_queue(0, ring_at(transport.map_memory(1 << 16).device_address))
        transport.map_memory(4096)
    path.unlink()
    with reached(path, protocol_features=wire.CONFIG) as (transport, back_end):
        transport.enable_queue(0, ring_at(transport.map_memory(1 << 16).device_address))
        with pytest.raises(StateError, match="before the queues are enabled"):
            transport.map_memory(4096)
        assert len(back_end.sent(wire.SET_MEM_TABLE)) == 1
        transport.write_status(0)
        assert transport.read_status() == 0
        transport.map_memory(4096)


def test_more_mappings_than_slots_are_refused_before_anything_is_sent(path: Path) -> None:
    with reached(path, slots=2) as (transport, back_end):
        assert transport.mapping_count_max == 2
        transport.map_memory(4096)
        transport.map_memory(4096)
        with pytest.raises(MemoryError, match="takes 2 memory regions"):
            transport.map_memory(4096)
        assert len(back_end.sent(wire.ADD_MEM_REG)) == 2
        assert len(transport.space.mappings) == 2


def test_memory_that_the_back_end_refuses_is_never_used(path: Path) -> None:
    with reached(path, answers={wire.ADD_MEM_REG: nack}) as (transport, _):
        with pytest.raises(TransportError, match="refused ADD_MEM_REG"):
            transport.map_memory(4096)
        with pytest.raises(DeviceGoneError, match="did not take a memory region"):
            transport.read_status()


def test_memory_that_the_back_end_perhaps_does_not_know_is_never_used(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    with reached(path) as (transport, _):
        with monkeypatch.context() as patch:
            patch.setattr(Connection, "tell", interrupt)
            with pytest.raises(KeyboardInterrupt):
                transport.map_memory(4096)
        with pytest.raises(DeviceGoneError, match=r"did not take a memory region \(Keyboard"):
            transport.read_status()


@pytest.mark.parametrize("length_bytes", [0, -1])
def test_no_bytes_are_no_mapping(path: Path, length_bytes: int) -> None:
    with reached(path) as (transport, _), pytest.raises(ValueError, match="at least one"):
        transport.map_memory(length_bytes)


def test_the_memory_goes_with_the_transport(path: Path) -> None:
    with ScriptedBackEnd(path):
        before = open_memory()
        transport = VhostUserTransport(str(path), timeout_s=WAIT_S)
        transport.map_memory(4096)
        assert len(open_memory()) == len(before) + 1
        transport.close()
        del transport
        assert open_memory() == before


# Queues


def test_a_queue_is_handed_over_in_the_order_of_the_protocol(path: Path) -> None:
    with reached(path) as (transport, back_end):
        mapping = transport.map_memory(1 << 16)
        already = len(back_end.messages)
        wires = transport.enable_queue(1, ring_at(mapping.device_address + 0x4000, size=64))
        messages = back_end.messages[already:]
        assert [message.request for message in messages] == [
            wire.SET_VRING_NUM,
            wire.SET_VRING_BASE,
            wire.SET_VRING_ADDR,
            wire.SET_VRING_ERR,
            wire.SET_VRING_CALL,
            wire.SET_VRING_KICK,
            wire.SET_VRING_ENABLE,
            wire.GET_FEATURES,
        ]
        host = mapping.host_address + 0x4000
        descriptors, available, used = host, host + 0x1000, host + 0x2000
        assert [message.payload for message in messages[:-1]] == [
            struct.pack("=II", 1, 64),
            struct.pack("=II", 1, 0),
            struct.pack("=IIQQQQ", 1, 0, descriptors, used, available, 0),
            u64(1),
            u64(1),
            u64(1),
            struct.pack("=II", 1, 1),
        ]
        assert [message.fd_count for message in messages[:-1]] == [0, 0, 0, 1, 1, 1, 0]
        assert wires.doorbell is not None
        assert wires.interrupt_fd is not None
        assert not os.get_inheritable(wires.interrupt_fd)
        assert not os.get_blocking(wires.interrupt_fd)
        del wires  # a doorbell has a descriptor of its own


@pytest.mark.parametrize("size", [0, 3, 100, 2048, -8])
def test_a_queue_size_that_back_ends_do_not_take_is_refused(path: Path, size: int) -> None:
    with reached(path) as (transport, back_end):
        mapping = transport.map_memory(1 << 20)
        with pytest.raises(ValueError, match="power of two up to 1024"):
            transport.enable_queue(0, ring_at(mapping.device_address, size))
        assert back_end.sent(wire.SET_VRING_NUM) == []
        assert [transport.queue_size_max(index) for index in (-1, 0, 1, 2)] == [0, 1024, 1024, 0]


@pytest.mark.parametrize(
    ("part", "shift", "reason"),
    [
        ("descriptors_address", 8, "not a multiple of 16"),
        ("driver_address", 1, "not a multiple of 2"),
        ("device_address", 2, "not a multiple of 4"),
        ("descriptors_address", -0x10000, "not in one mapping"),
        ("driver_address", 0x10000, "not in one mapping"),
        ("device_address", 0xDFFC, "not in one mapping"),
    ],
)
def test_a_ring_that_is_misplaced_is_refused_before_anything_is_sent(
    path: Path, part: str, shift: int, reason: str
) -> None:
    with reached(path) as (transport, back_end):
        ring = ring_at(transport.map_memory(1 << 16).device_address)
        moved = ring._replace(**{part: getattr(ring, part) + shift})
        with pytest.raises(ValueError, match=reason):
            transport.enable_queue(0, moved)
        assert back_end.sent(wire.SET_VRING_NUM) == []


def test_a_queue_that_does_not_exist_or_runs_already_is_refused(path: Path) -> None:
    with reached(path) as (transport, _):
        ring = ring_at(transport.map_memory(1 << 16).device_address)
        for index in (-1, 2):
            with pytest.raises(ValueError, match="there is no queue"):
                transport.enable_queue(index, ring)
        transport.enable_queue(0, ring)
        with pytest.raises(ValueError, match="enabled already"):
            transport.enable_queue(0, ring)


def test_a_reset_does_not_stop_a_queue_that_the_back_end_never_got(path: Path) -> None:
    with reached(path, answers={wire.SET_VRING_BASE: nack}) as (transport, back_end):
        back_end.bases[0] = 7  # Of a former life.
        ring = ring_at(transport.map_memory(1 << 16).device_address)
        with pytest.raises(TransportError, match="refused SET_VRING_BASE"):
            transport.enable_queue(0, ring)
        transport.write_status(0)
        assert transport.read_status() == 0
        back_end.answers.clear()
        transport.enable_queue(0, ring)


def test_a_queue_is_sent_its_descriptors_again_after_a_reset_and_keeps_its_wires(
    path: Path,
) -> None:
    kick_fds: list[int] = []
    with reached(path, kept_fds={wire.SET_VRING_KICK: kick_fds}) as (transport, back_end):
        ring = ring_at(transport.map_memory(1 << 16).device_address)
        wires = transport.enable_queue(0, ring)
        assert wires.doorbell is not None
        wires.doorbell.ring()
        assert os.eventfd_read(kick_fds[0]) == 1
        wires.doorbell.ring()
        transport.write_status(0)
        assert transport.read_status() == 0
        assert transport.enable_queue(0, ring) == wires
        del wires  # a doorbell has a descriptor of its own
        with pytest.raises(BlockingIOError):  # No notification from before is left in it.
            os.eventfd_read(kick_fds[0])
        for request in (wire.SET_VRING_CALL, wire.SET_VRING_KICK, wire.SET_VRING_ERR):
            assert [message.fd_count for message in back_end.sent(request)] == [1, 1]
        for fd in kick_fds:
            os.close(fd)


# Status and reset


def set_indices(mapping: Mapping, available: int, used: int) -> None:
    """Write both ring indices of the queue that `ring_at` lays at the start of `mapping`."""
    os.pwrite(mapping.fd, struct.pack("=H", available), 0x1002)
    os.pwrite(mapping.fd, struct.pack("=H", used), 0x2002)


def test_without_a_status_of_its_own_the_back_ends_status_is_kept_for_it(path: Path) -> None:
    with reached(path) as (transport, back_end):
        for status in (1, 3, 11, 15):
            transport.write_status(status)
            assert transport.read_status() == status
        back_end.hang_up()
        with pytest.raises(DeviceGoneError, match="hung up"):
            transport.read_status()


def test_a_status_of_the_back_ends_own_is_used(path: Path) -> None:
    features = wire.USUAL_PROTOCOL_FEATURES | wire.STATUS | wire.RESET_DEVICE_FEATURE
    with reached(path, protocol_features=features) as (transport, back_end):
        transport.write_status(11)
        back_end.status = 3
        assert transport.read_status() == 3, "FEATURES_OK is the back end's to refuse"
        transport.write_status(0)
        assert transport.read_status() == 0
        assert [message.number for message in back_end.sent(wire.SET_STATUS)] == [11, 0]
        assert len(back_end.sent(wire.RESET_DEVICE)) == 1


def test_an_error_that_the_back_end_signals_asks_for_a_reset(path: Path) -> None:
    error_fds: list[int] = []
    with reached(path, kept_fds={wire.SET_VRING_ERR: error_fds}) as (transport, _):
        ring = ring_at(transport.map_memory(1 << 16).device_address)
        transport.enable_queue(0, ring)
        transport.write_status(15)
        assert transport.read_status() == 15
        os.eventfd_write(error_fds[0], 1)
        assert transport.read_status() == 15 | 64
        transport.write_status(0)
        assert transport.read_status() == 0
        transport.enable_queue(0, ring)
        transport.write_status(15)
        assert transport.read_status() == 15, "it has been forgotten"
        for fd in error_fds:
            os.close(fd)


def test_a_reset_stops_every_queue_that_runs(path: Path) -> None:
    with reached(path, queue_count=4) as (transport, back_end):
        mapping = transport.map_memory(1 << 16)
        for index in (0, 2):
            transport.enable_queue(index, ring_at(mapping.device_address + 0x4000 * index))
        transport.write_status(0)
        assert transport.read_status() == 0
        stopped = [struct.unpack("=II", m.payload) for m in back_end.sent(wire.GET_VRING_BASE)]
        assert stopped == [(0, 0), (2, 0)]
        transport.write_status(0)
        assert len(back_end.sent(wire.GET_VRING_BASE)) == 2, "they are stopped already"


def test_a_reset_is_confirmed_only_when_nothing_is_in_flight(path: Path) -> None:
    with reached(path) as (transport, back_end):
        mapping = transport.map_memory(1 << 16)
        transport.enable_queue(0, ring_at(mapping.device_address))
        transport.write_status(15)
        set_indices(mapping, available=3, used=1)
        transport.write_status(0)
        assert transport.read_status() == 15
        assert back_end.sent(wire.GET_VRING_BASE) == [], "it would go on writing to the memory"
        set_indices(mapping, available=3, used=3)
        back_end.bases[0] = 3
        assert transport.read_status() == 0
        assert len(back_end.sent(wire.GET_VRING_BASE)) == 1


def test_requests_that_never_come_back_end_the_connection_and_not_the_wait(
    path: Path,
) -> None:
    with reached(path, drain_timeout_s=0.0) as (transport, back_end):
        mapping = transport.map_memory(1 << 16)
        transport.enable_queue(0, ring_at(mapping.device_address))
        set_indices(mapping, available=3, used=1)
        back_end.bases[0] = 3
        with pytest.raises(ProtocolError, match="still owns requests"):
            transport.write_status(0)
        with pytest.raises(DeviceGoneError, match="still owns requests"):
            transport.read_status()


def test_a_reset_that_was_given_less_time_can_be_tried_again_until_the_drain_timeout(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    monkeypatch.setattr("vioblk.transport.vhost_user.transport.time.monotonic", lambda: now)
    with reached(path, drain_timeout_s=20.0) as (transport, back_end):
        mapping = transport.map_memory(1 << 16)
        transport.enable_queue(0, ring_at(mapping.device_address))
        transport.write_status(15)
        set_indices(mapping, available=3, used=1)
        back_end.bases[0] = 3
        for _ in range(3):
            transport.write_status(0)
            assert transport.read_status() == 15
            now += 6
        transport.write_status(0)
        now += 2
        with pytest.raises(ProtocolError, match="still owns requests"):
            transport.read_status()


def test_chains_that_the_back_end_never_began_do_not_stand_in_the_way_of_a_reset(
    path: Path,
) -> None:
    with reached(path, drain_timeout_s=0.0) as (transport, back_end):
        mapping = transport.map_memory(1 << 16)
        transport.enable_queue(0, ring_at(mapping.device_address))
        set_indices(mapping, available=3, used=1)
        back_end.bases[0] = 1
        transport.write_status(0)
        assert transport.read_status() == 0


def test_an_answer_for_another_queue_does_not_confirm_a_reset(path: Path) -> None:
    def answer(*_: object) -> bytes:
        return wire.encode(wire.GET_VRING_BASE, struct.pack("=II", 1, 0))

    with reached(path, answers={wire.GET_VRING_BASE: answer}) as (transport, _):
        transport.enable_queue(0, ring_at(transport.map_memory(1 << 16).device_address))
        with pytest.raises(ProtocolError, match="it says queue 1"):
            transport.write_status(0)


@pytest.mark.parametrize("answer", [hang_up, say_nothing])
def test_a_reset_that_is_not_answered_is_bounded_and_hangs_up(
    path: Path, answer: Callable[..., bytes]
) -> None:
    answers = {wire.GET_VRING_BASE: answer}
    with reached(path, answers=answers) as (transport, _):
        transport.enable_queue(0, ring_at(transport.map_memory(1 << 16).device_address))
        transport._connection._timeout_s = 0.1
        with pytest.raises(TransportError, match="GET_VRING_BASE"):
            transport.write_status(0)
        with pytest.raises(DeviceGoneError):
            transport.read_status()


# Anything at all

HANDSHAKE = [
    wire.GET_FEATURES,
    wire.GET_PROTOCOL_FEATURES,
    wire.GET_QUEUE_NUM,
    wire.GET_MAX_MEM_SLOTS,
    wire.GET_CONFIG,
    wire.SET_BACKEND_REQ_FD,
]


@st.composite
def replies(draw: st.DrawFn) -> bytes:
    """Replies in about the right order, so that some get far, with anything in them."""
    stream = b""
    for request in HANDSHAKE:
        number = draw(st.sampled_from([0, 1, wire.USUAL_FEATURES, wire.CONFIG, (1 << 64) - 1]))
        payload = draw(st.sampled_from([u64(number)] * 6 + [b"", bytes(12), bytes(72), bytes(108)]))
        flags = draw(st.sampled_from([wire.REPLY] * 6 + [0, 1, 4, 0xFFFF]))
        stream += wire.encode(request, payload, flags)
    return stream[: draw(st.integers(0, len(stream)))]


def test_no_byte_stream_of_a_back_end_crashes_or_hangs_the_handshake() -> None:
    with TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as listener:
        path = f"{directory}/socket"
        listener.bind(path)
        listener.listen(4)

        def serve(stream: bytes) -> None:
            client, _ = listener.accept()
            with client:
                client.sendall(stream)
                client.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionResetError):
                    while client.recv(4096):
                        pass

        @given(stream=st.binary(max_size=256) | replies())
        def open_and_close(stream: bytes) -> None:
            thread = threading.Thread(target=serve, args=(stream,))
            thread.start()
            with contextlib.suppress(VioblkError):
                VhostUserTransport(path, timeout_s=WAIT_S).close()
            thread.join(WAIT_S)
            assert not thread.is_alive()

        with no_descriptor_leak():
            open_and_close()
