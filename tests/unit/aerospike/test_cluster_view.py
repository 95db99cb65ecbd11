"""Addresses, peers and replica maps as texts, without a server."""

from __future__ import annotations

import pytest
from dbops.aerospike.backup import partition_slices
from dbops.aerospike.cluster import Access, Cluster, _bits, _host_port, _peers
from dbops.aerospike.wire import ConnectionLost, Refused, ServerBusy, result_error
from dbops.connections import ConnectionInfo
from dbops.errors import FinalError
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1:3100", ("10.0.0.1", 3100)),
        ("db.example.com", ("db.example.com", 3000)),
        ("[::1]:3001", ("::1", 3001)),
        ("::1", ("::1", 3000)),
        (" a:1 ", ("a", 1)),
    ],
)
def test_host_and_port(text: str, expected: tuple[str, int]) -> None:
    assert _host_port(text) == expected


def test_peers_with_several_addresses_and_tls_names() -> None:
    text = "5,3000,[[BB9A,,[10.0.0.1,[2001:db8::1]:3100]],[BB9B,db.example.com,[10.0.0.2:4000]]]"
    assert _peers(text) == [
        ("BB9A", (("10.0.0.1", 3000), ("2001:db8::1", 3100))),
        ("BB9B", (("10.0.0.2", 4000),)),
    ]
    assert _peers("0,3000,[]") == []


@given(st.sets(st.integers(0, 4095)))
def test_bits_of_a_replica_map(owned: set[int]) -> None:
    data = bytearray(512)
    for partition in owned:
        data[partition >> 3] |= 0x80 >> (partition & 7)
    assert _bits(bytes(data)) == sorted(owned)


def test_a_replica_map_of_another_size_is_refused() -> None:
    with pytest.raises(ConnectionLost, match="511 bytes, not 512"):
        _bits(bytes(511))


def test_the_connections_host_wins_over_the_seeds_of_the_file() -> None:
    info = ConnectionInfo("aerospike_eu", "aerospike", "a,b:3100", 3200, "me", "secret", None, {})
    access = Access.of("eu", ["c:1"], info)
    assert access.seeds == (("a", 3200), ("b", 3100))
    assert (access.user, access.password) == ("me", "secret")
    assert "secret" not in repr(access)
    assert Access.of("eu", ["c:1"], None) == Access("eu", (("c", 1),))
    with pytest.raises(FinalError, match="cluster eu: no address"):
        Access.of("eu", [], ConnectionInfo("aerospike_eu"))


def test_tls_of_a_connection() -> None:
    extra = {"tls": "true", "tls_name": "db", "tls_ca_file": "/ca.pem", "use_services_alternate": True}
    access = Access.of("eu", [], ConnectionInfo("aerospike_eu", host="a", extra=extra))
    assert access.tls is not None
    assert (access.tls.name, access.tls.ca_file, access.alternate_addresses) == ("db", "/ca.pem", True)
    assert Access.of("eu", ["a"], ConnectionInfo("x", extra={"tls": False})).tls is None


def test_a_node_that_left_is_a_lost_connection() -> None:
    with pytest.raises(ConnectionLost, match="node BB9 of cluster eu has left"):
        Cluster(Access("eu", (("a", 1),))).connect("BB9")


@pytest.mark.parametrize(
    ("code", "kind"), [(11, ServerBusy), (18, ServerBusy), (20, Refused), (65, Refused), (80, Refused)]
)
def test_results_are_final_or_worth_a_retry(code: int, kind: type[Exception]) -> None:
    assert type(result_error("read", code)) is kind


@given(st.integers(1, 4096))
def test_slices_cover_every_partition_once_and_are_even(count: int) -> None:
    slices = partition_slices(count)
    assert [number for first, last in slices for number in range(first, last + 1)] == list(range(4096))
    sizes = {last - first + 1 for first, last in slices}
    assert len(slices) == count
    assert max(sizes) - min(sizes) <= 1
