"""Users and TLS: who gets in, with the official client, with the engine's own, and by hand."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import aerospike
import pytest
from aerospike import exception
from dbops.aerospike.wire import Connection, ServerBusy, Tls
from dbops_lab.aerospike.process import StandIn, StandInError
from dbops_lab.certificates import certificate
from raw import Raw, digest_of, field, message, query

Connect = Callable[[int], Raw]
SECURITY = 2
LOGIN, AUTHENTICATE, QUERY_USERS = 20, 0, 9
USER, CREDENTIAL, TOKEN = 0, 3, 5
PASSWORD = "correct horse"


@pytest.fixture(scope="module")
def guarded() -> Iterator[StandIn]:
    with StandIn(namespaces=["dmp"], nodes=2, users={"backup": PASSWORD, "other": "x"}) as stand_in:
        yield stand_in


def config(stand_in: StandIn, user: str, password: str) -> dict[str, object]:
    return {
        "hosts": [("127.0.0.1", stand_in.ports[0])],
        "user": user,
        "password": password,
        "policies": {"auth_mode": aerospike.AUTH_INTERNAL, "login_timeout_ms": 3000},
    }


def security(command: int, *fields: bytes) -> bytes:
    body = bytes((0, 0, command, len(fields))).ljust(16, b"\0") + b"".join(fields)
    return struct.pack(">Q", 2 << 56 | SECURITY << 48 | len(body)) + body


def test_official_client_works_with_the_right_password(guarded: StandIn) -> None:
    client = aerospike.client(config(guarded, "backup", PASSWORD)).connect()
    for number in range(50):  # some on each node
        client.put(("dmp", "s", number), {"n": number})
    assert len(client.get_node_names()) == 2
    assert len(client.query("dmp", "s").results()) == 50
    client.close()


def test_official_client_with_a_wrong_password_is_refused_with_65(guarded: StandIn) -> None:
    with pytest.raises(exception.AerospikeError) as caught:
        aerospike.client(config(guarded, "backup", "wrong")).connect()
    assert "65" in str(caught.value) or caught.value.code == 65


def test_wrong_password_and_unknown_user_have_their_codes(guarded: StandIn, connect: Connect) -> None:
    raw = connect(guarded.ports[0])
    _, body = raw.ask(security(LOGIN, field(USER, b"backup"), field(CREDENTIAL, b"$2a$10$nonsense")))
    assert (body[1], body[3]) == (65, 0)
    _, body = raw.ask(security(LOGIN, field(USER, b"nobody"), field(CREDENTIAL, b"x")))
    assert body[1] == 60
    _, body = raw.ask(security(AUTHENTICATE, field(USER, b"backup"), field(TOKEN, b"made up")))
    assert body[1] == 66
    _, body = raw.ask(security(QUERY_USERS))
    assert body[1] == 54
    assert raw.ask(message(3, fields=()))[1][5] == 80, "nothing of this let the connection in"


def test_another_users_session_does_not_let_in(guarded: StandIn) -> None:
    with Connection("127.0.0.1", guarded.ports[0], timeout=5) as connection:
        token = connection.login("other", "x")
    assert token
    with (
        Connection("127.0.0.1", guarded.ports[0], timeout=5) as connection,
        pytest.raises(ServerBusy, match="66"),
    ):
        connection.authenticate("backup", token)


def test_without_login_data_is_refused_with_80(guarded: StandIn, connect: Connect) -> None:
    raw = connect(guarded.ports[0])
    place = (field(0, b"dmp"), field(1, b"s"), field(4, digest_of(1)))
    assert raw.one(message(3, fields=place)).result == 80
    assert raw.one(message(0, 3, fields=place)).result == 80
    assert raw.stream(query(b"dmp", range(4096)))[-1].result == 80
    batch = struct.pack(">IB", 1, 0x0D) + struct.pack(">I20sBBHH", 0, digest_of(1), 0, 3, 1, 0) + field(0, b"dmp")
    (answer,) = raw.stream(message(8, fields=(field(41, batch),)))
    assert (answer.result, answer.info3) == (80, 1)


def test_without_login_info_is_refused_with_80(guarded: StandIn, connect: Connect) -> None:
    raw = connect(guarded.ports[0])
    body = b"build\n"
    _, answer = raw.ask(struct.pack(">Q", 2 << 56 | 1 << 48 | len(body)) + body)
    assert answer == b"ERROR:80:not authenticated\n"


def test_the_engines_connection_logs_in_and_uses_its_session_elsewhere(guarded: StandIn) -> None:
    with Connection("127.0.0.1", guarded.ports[0], timeout=5) as first:
        token = first.login("backup", PASSWORD)
        assert first.info("build") == {"build": "8.1.2.0"}
    assert token
    with Connection("127.0.0.1", guarded.ports[1], timeout=5) as second:
        second.authenticate("backup", token)
        assert second.info("namespaces") == {"namespaces": "dmp"}


def test_without_users_security_is_not_supported_as_in_the_community_edition(connect: Connect) -> None:
    with StandIn(namespaces=["dmp"]) as stand_in:
        raw = connect(stand_in.ports[0])
        kind, body = raw.ask(security(LOGIN, field(USER, b"a"), field(CREDENTIAL, b"b")))
        assert (kind, body[1]) == (SECURITY, 51)
        assert raw.info("build")


def test_a_user_without_a_password_is_a_clear_error() -> None:
    with pytest.raises(StandInError, match="LAB_PASSWORD_ME"):
        StandIn(options=["--user", "me"])


# ---------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[StandIn, Path]]:
    files = certificate(tmp_path_factory.mktemp("tls"))
    with StandIn(namespaces=["dmp"], nodes=2, tls=files, tls_name="localhost") as stand_in:
        yield stand_in, files[0]


def test_official_client_speaks_tls(encrypted: tuple[StandIn, Path]) -> None:
    stand_in, authority = encrypted
    client = aerospike.client({
        "hosts": [("127.0.0.1", stand_in.ports[0], "localhost")],
        "tls": {"enable": True, "cafile": str(authority)},
    }).connect()
    for number in range(300):
        client.put(("dmp", "s", number), {"n": number, "b": b"x" * 2000})
    assert len(client.get_node_names()) == 2
    assert len(client.query("dmp", "s").results()) == 300
    client.close()


def test_the_engines_connection_speaks_tls(encrypted: tuple[StandIn, Path]) -> None:
    stand_in, authority = encrypted
    tls = Tls(ca_file=str(authority), name="localhost")
    with Connection("127.0.0.1", stand_in.ports[0], timeout=5, tls=tls) as connection:
        assert connection.info("service-tls-std") == {"service-tls-std": stand_in.address}


def test_plain_text_to_a_tls_port_is_closed(encrypted: tuple[StandIn, Path], connect: Connect) -> None:
    raw = connect(encrypted[0].ports[0])
    with pytest.raises(ConnectionError):
        raw.info("build")
