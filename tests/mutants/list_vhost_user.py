"""Mutants of the vhost-user transport."""

from typing import Final

from tests.mutants.mutant import Mutant

PACKAGE: Final = "vioblk.transport.vhost_user"
TRANSPORT: Final = f"{PACKAGE}.transport:VhostUserTransport"
QUEUE: Final = f"{PACKAGE}.queue:VhostUserQueue"
EXCHANGE: Final = f"{PACKAGE}.exchange:Exchange"
CONFIG: Final = f"{PACKAGE}.config:ConfigSpace"

TESTS: Final = "tests/transport/test_vhost_user.py"
CONNECTION_TESTS: Final = "tests/transport/test_vhost_user_connection.py"

MUTANTS: Final = (
    Mutant(
        name="vhost-user-reset-under-load",
        violation="stops queues while requests are in flight",
        function=f"{TRANSPORT}._reset_step",
        old="and not self._reset_is_late()",
        new="and False",
        test=f"{TESTS}::test_a_reset_is_confirmed_only_when_nothing_is_in_flight",
    ),
    Mutant(
        name="vhost-user-base-believed",
        violation="takes a queue for stopped that still owns requests",
        function=f"{QUEUE}.stop",
        old="(index, base) != (self._index, used)",
        new="index != self._index",
        test=f"{TESTS}::test_requests_that_never_come_back_end_the_connection_and_not_the_wait",
    ),
    Mutant(
        name="vhost-user-protocol-bit",
        violation="does not set VHOST_USER_F_PROTOCOL_FEATURES",
        function=f"{TRANSPORT}.write_features",
        old="accepted | 1 << F_PROTOCOL_FEATURES",
        new="accepted",
        test=f"{TESTS}::test_bits_of_the_protocol_are_hidden_and_set_by_the_transport",
    ),
    Mutant(
        name="vhost-user-stale-configuration",
        violation="serves configuration from memory",
        function=f"{CONFIG}.read",
        old="self._refresh()",
        new="self._snapshot",
        test=f"{TESTS}::test_the_generation_changes_when_the_content_has",
    ),
    Mutant(
        name="vhost-user-any-reply",
        violation="takes any reply for the one that it waits for",
        function=f"{EXCHANGE}._payload_length",
        old="number != self.request",
        new="False",
        test=f"{CONNECTION_TESTS}::test_a_reply_that_breaks_the_protocol_is_refused_with_the_reason",
    ),
    Mutant(
        name="vhost-user-descriptors-opened",
        violation="lets a peer open descriptors here",
        function=f"{EXCHANGE}._receive",
        old="connected.recvmsg, missing)",
        new="connected.recvmsg, missing, 1024)",
        test=f"{CONNECTION_TESTS}::test_descriptors_that_nobody_asked_for_are_refused_and_never_opened",
    ),
)
