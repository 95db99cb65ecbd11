"""Faults through the control port, loading, and the process itself."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
from captures import Message, messages
from dbops_lab.aerospike import process
from dbops_lab.aerospike.process import StandIn, StandInError, bins
from raw import Raw, digest_of, field, integer, message, op, partition_of, query

Connect = Callable[[int], Raw]
COUNT = 8000
DIGEST, KEY = 4, 2
EVERYTHING = query(b"dmp", range(4096))


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn(namespaces=["dmp", "bidder"]) as stand_in:
        rows = [(digest_of(i), 1, 0, None, bins({"n": (1, integer(i)), "s": (3, b"x" * 200)})) for i in range(COUNT)]
        assert stand_in.load("dmp", "s", rows) == COUNT
        yield stand_in


def records(messages: list[Message]) -> list[bytes]:
    return [dict(item.fields)[DIGEST] for item in messages if item.fields]


def messages_until_cut(raw: Raw, request: bytes) -> list[Message]:
    """What arrives before the server breaks off, at the end of a frame."""
    raw.socket.sendall(request)
    found: list[Message] = []
    while head := raw.socket.recv(8, socket.MSG_WAITALL):
        found += messages(raw.exactly(int.from_bytes(head[2:], "big")))
    return found


def read_until_cut(raw: Raw, request: bytes) -> bytes:
    raw.socket.sendall(request)
    data = bytearray()
    while part := raw.socket.recv(1 << 20):
        data += part
    return bytes(data)


# ---------------------------------------------------------------- faults


def test_query_is_cut_after_so_many_bytes_and_the_next_is_not(server: StandIn, connect: Connect) -> None:
    server.inject(drop_query={"bytes": 100_000, "times": 1})
    assert len(read_until_cut(connect(server.ports[0]), EVERYTHING)) == 100_000
    assert len(records(connect(server.ports[0]).stream(EVERYTHING))) == COUNT


def test_query_is_cut_after_so_many_records_for_so_many_queries(server: StandIn, connect: Connect) -> None:
    server.inject(drop_query={"records": 1000, "times": 2})
    for _ in range(2):
        found = messages_until_cut(connect(server.ports[0]), EVERYTHING)
        assert len(records(found)) == 1000
        assert not any(item.info3 & 1 for item in found)
    assert len(records(connect(server.ports[0]).stream(EVERYTHING))) == COUNT


def test_a_cut_query_resumes_after_its_last_digest_of_each_partition(server: StandIn, connect: Connect) -> None:
    server.inject(drop_query={"records": 1234, "times": 1})
    first = messages_until_cut(connect(server.ports[0]), EVERYTHING)
    assert len(first) == 1234
    last = {partition_of(digest): digest for digest in records(first)}
    rest = query(b"dmp", [pid for pid in range(4096) if pid not in last], field(12, b"".join(last.values())))
    found = records(first) + records(connect(server.ports[0]).stream(rest))
    assert sorted(found) == sorted(digest_of(i) for i in range(COUNT))


def test_queries_are_refused_with_the_wanted_code(server: StandIn, connect: Connect) -> None:
    server.inject(refuse_query={"code": 18, "times": 2})
    raw = connect(server.ports[0])
    for _ in range(2):
        (answer,) = raw.stream(EVERYTHING)
        assert (answer.result, answer.info3) == (18, 0)
    assert raw.stream(EVERYTHING)[-1].result == 0


def test_answers_are_delayed_and_info_is_not(server: StandIn, connect: Connect) -> None:
    raw = connect(server.ports[0])
    place = (field(0, b"dmp"), field(1, b"s"), field(4, digest_of(1)))
    server.inject(delay=0.4)
    started = time.monotonic()
    assert raw.info("build")
    assert time.monotonic() - started < 0.3
    assert raw.one(message(3, fields=place)).result == 0
    assert time.monotonic() - started >= 0.4
    server.inject(delay=0)
    started = time.monotonic()
    assert raw.one(message(3, fields=place)).result == 0
    assert time.monotonic() - started < 0.3


def test_partitions_can_be_taken_away_and_given_back(server: StandIn, connect: Connect) -> None:
    raw = connect(server.ports[0])
    pid = partition_of(digest_of(5))
    server.inject(unavailable=[pid])
    done, last = raw.stream(query(b"dmp", [pid]))
    assert (done.info3, done.result) == (4, 11)
    assert (last.info3, last.result) == (1, 0)
    place = (field(0, b"dmp"), field(1, b"s"), field(4, digest_of(5)))
    assert raw.one(message(3, fields=place)).result == 11
    assert "unavailable_partitions=1;" in raw.info("namespace/dmp")
    server.inject(unavailable=[])
    assert digest_of(5) in records(raw.stream(query(b"dmp", [pid])))


def test_a_fault_that_is_not_known_is_refused(server: StandIn) -> None:
    with pytest.raises(StandInError, match="earthquake"):
        server.inject(earthquake=9)
    with pytest.raises(StandInError, match="IndexError"):
        server.stop_node(7)


# ---------------------------------------------------------------- loading


def test_loaded_records_are_like_written_ones(server: StandIn, connect: Connect) -> None:
    digest = digest_of(COUNT + 1)
    content = bins({"i": (1, integer(-5)), "s": (3, b"text"), "m": (19, bytes.fromhex("81a2036101"))})
    assert server.load("bidder", "own", [(digest, 7, 2_000_000_000, b"\x03user", content)]) == 1
    raw = connect(server.ports[0])
    place = (field(0, b"bidder"), field(1, b"own"), field(4, digest))
    found = raw.one(message(3, fields=place))
    assert (found.result, found.expires) == (0, True)
    assert [item[1:] for item in found.ops] == [
        (1, b"i", integer(-5)), (3, b"s", b"text"), (19, b"m", bytes.fromhex("81a2036101")),
    ]  # fmt: skip
    (record, _) = raw.stream(query(b"bidder", [partition_of(digest)]))
    assert dict(record.fields) == {0: b"bidder", 1: b"own", DIGEST: digest, KEY: b"\x03user"}
    _, body = raw.ask(message(0x21, fields=place))
    assert int.from_bytes(body[6:10], "big") == 7
    assert (
        raw.one(message(0, 1, fields=(*place, field(KEY, b"\x03other")), ops=(op(2, b"i", 1, integer(1)),))).result
        == 19
    )
    assert "objects=1:" in raw.info("sets/bidder/own")


def test_loading_again_replaces_and_counts_stay_exact(server: StandIn, connect: Connect) -> None:
    again = [(digest_of(i), 2, 0, None, bins({"n": (1, integer(i))})) for i in range(0, COUNT, 2)]
    assert server.load("dmp", "s", again) == COUNT // 2
    raw = connect(server.ports[0])
    found = raw.stream(EVERYTHING)[:-1]
    assert len({dict(item.fields)[DIGEST] for item in found}) == len(found) == COUNT
    assert sum(len(item.ops) == 1 for item in found) == COUNT // 2
    assert server.state()["objects"] == {"dmp": {"s": COUNT}, "bidder": {}}


def test_a_load_that_is_cut_short_is_an_error(server: StandIn) -> None:
    with pytest.raises(StandInError, match="cut short"):
        process.call(server.control, "POST", "/load?namespace=dmp&set=s", digest_of(1) + bytes(20))


def test_changes_between_two_queries_are_seen_in_order(server: StandIn, connect: Connect) -> None:
    """Writes, updates and removes go beside the packed run and are merged at the right places."""
    raw = connect(server.ports[0])
    raw.stream(EVERYTHING)
    place = {i: (field(0, b"dmp"), field(1, b"s"), field(4, digest_of(i))) for i in range(COUNT + 400)}
    for i in range(COUNT, COUNT + 400):
        assert raw.one(message(0, 1, fields=place[i], ops=(op(2, b"n", 1, integer(i)),))).result == 0
    for i in range(400):
        assert raw.one(message(0, 3, fields=place[i])).result == 0
    for i in range(400, 800):
        assert raw.one(message(0, 1, fields=place[i], ops=(op(2, b"new", 1, integer(i)),))).result == 0
    found = raw.stream(EVERYTHING)[:-1]
    digests = records(found)
    assert sorted(digests) == sorted(digest_of(i) for i in range(400, COUNT + 400))
    for one, other in pairwise(digests):
        assert partition_of(one) != partition_of(other) or one > other
    assert sum(len(item.ops) == 3 for item in found) == 400


def test_expired_records_are_left_out_of_a_query_and_reaped(connect: Connect) -> None:
    with StandIn(namespaces=["dmp"]) as stand_in:
        soon = int(time.time()) - 1_262_304_000 + 1
        rows = [(digest_of(i), 1, soon if i % 2 else 0, None, bins({"n": (1, integer(i))})) for i in range(100)]
        stand_in.load("dmp", "s", rows)
        raw = connect(stand_in.ports[0])
        assert len(raw.stream(EVERYTHING)) == 101
        stand_in.inject(clock_offset=10)
        assert len(raw.stream(EVERYTHING)) == 51
        assert stand_in.state()["objects"] == {"dmp": {"s": 50}}


def test_a_slow_reader_is_given_up_after_its_socket_timeout(server: StandIn, connect: Connect) -> None:
    rows = [(digest_of(i), 1, 0, None, bins({"b": (4, bytes(200_000))})) for i in range(200)]
    server.load("bidder", "big", rows)
    raw = connect(server.ports[0])
    raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    request = query(b"bidder", range(4096)).replace(struct.pack(">I", 30_000), struct.pack(">I", 300))
    raw.socket.sendall(request)
    time.sleep(1.5)
    with pytest.raises(ConnectionError):
        raw.exactly(200 * 200_000)


# ---------------------------------------------------------------- the process


def test_it_ends_with_its_parent_even_if_that_is_killed() -> None:
    code = (
        "import sys, time; from dbops_lab.aerospike.process import StandIn;"
        "s = StandIn(namespaces=['dmp']); print(s.pid, s.ports[0], flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid, port = map(int, parent.stdout.readline().split())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    limit = time.monotonic() + 10
    while time.monotonic() < limit:
        try:
            os.kill(pid, 0)
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return
        time.sleep(0.05)
    pytest.fail(f"process {pid} still listens")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_cleanly(number: signal.Signals) -> None:
    stand_in = StandIn(namespaces=["dmp"])
    os.kill(stand_in.pid, number)
    assert stand_in.wait() == (0, "")
    stand_in.close()


def test_a_taken_port_is_a_clear_error(server: StandIn) -> None:
    with pytest.raises(StandInError, match="cannot start"):
        StandIn(ports=[server.ports[0]])
