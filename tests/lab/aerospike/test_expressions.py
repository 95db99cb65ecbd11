"""Filters that conformance does not cover, built by the official client; and those that must be refused."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import aerospike
import pytest
from aerospike_helpers import expressions as exp
from dbops_lab.aerospike.process import StandIn, bins
from raw import Raw, digest_of, field, integer, query

Connect = Callable[[int], Raw]
COUNT = 60
EVERYONE = set(range(COUNT))
SEND_KEY = {"key": aerospike.POLICY_KEY_SEND}
DIGEST = 4


@pytest.fixture(scope="module")
def server() -> Iterator[StandIn]:
    with StandIn(namespaces=["dmp"]) as stand_in:
        yield stand_in


@pytest.fixture(scope="module")
def client(server: StandIn) -> Iterator[aerospike.Client]:
    connected = aerospike.client({"hosts": [("127.0.0.1", server.ports[0])]}).connect()
    for number in range(COUNT):
        policy = {"ttl": 1000 if number % 2 else aerospike.TTL_NEVER_EXPIRE}
        if number < 20:
            policy |= SEND_KEY
        content = {
            "n": number,
            "f": number / 4,
            "b": bytes((number,)),
            "t": number % 2 == 0,
            "l": [number, "x"],
            "m": {"k": number},
        }
        if number % 3 == 0:
            content["third"] = f"v{number:02d}"
        connected.put(("dmp", "s", number if number < 10 else f"k{number}"), content, policy=policy)
    yield connected
    connected.close()


def numbers(client: aerospike.Client, expression: exp._BaseExpr) -> set[int]:
    records = client.query("dmp", "s").results({"expressions": expression.compile()})
    found = [record[2]["n"] for record in records]
    assert len(found) == len(set(found))
    return set(found)


CASES = {
    "blob": (exp.GE(exp.BlobBin("b"), b"\x20"), lambda n: n >= 32),
    "bool": (exp.Eq(exp.BoolBin("t"), True), lambda n: n % 2 == 0),
    "list_equal": (exp.Eq(exp.ListBin("l"), [7, "x"]), lambda n: n == 7),
    "list_less": (exp.LT(exp.ListBin("l"), [7]), lambda n: n < 7),
    "float_equal": (exp.Eq(exp.FloatBin("f"), 2.5), lambda n: n == 10),
    "key_int": (exp.LT(exp.KeyInt(), 5), lambda n: n < 5),
    "key_string": (exp.GE(exp.KeyStr(), "k15"), lambda n: 15 <= n < 20),
    "key_exists": (exp.KeyExists(), lambda n: n < 20),
    "no_key": (exp.Not(exp.KeyExists()), lambda n: n >= 20),
    "ttl": (exp.GT(exp.TTL(), 900), lambda n: n % 2 == 1),
    "void_time": (exp.GT(exp.VoidTime(), 0), lambda n: n % 2 == 1),
    "never_expires": (exp.Eq(exp.VoidTime(), -1), lambda n: n % 2 == 0),
    "absent_is_unknown": (exp.NE(exp.StrBin("third"), "v03"), lambda n: n % 3 == 0 and n != 3),
    "not_unknown_is_unknown": (exp.Not(exp.Eq(exp.StrBin("third"), "v03")), lambda n: n % 3 == 0 and n != 3),
    "or_saves_unknown": (
        exp.Or(exp.Eq(exp.StrBin("third"), "v03"), exp.Eq(exp.IntBin("n"), 4)),
        lambda n: n in (3, 4),
    ),
    "and_false_beats_unknown": (
        exp.Not(exp.And(exp.Eq(exp.StrBin("third"), "v03"), exp.Eq(exp.IntBin("n"), 3))),
        lambda n: n != 3,
    ),
    "exclusive": (
        exp.Exclusive(exp.LT(exp.IntBin("n"), 10), exp.GE(exp.IntBin("n"), 5)),
        lambda n: not 5 <= n < 10,
    ),
    "bin_type": (exp.Eq(exp.BinType("third"), aerospike.AS_BYTES_STRING), lambda n: n % 3 == 0),
    "arithmetic": (
        exp.Eq(exp.Sub(exp.Mul(exp.IntBin("n"), 3), exp.Div(exp.IntBin("n"), 2)), 13),
        lambda n: n * 3 - n // 2 == 13,
    ),
    "modulo": (exp.Eq(exp.Mod(exp.IntBin("n"), 7), 3), lambda n: n % 7 == 3),
    "modulo_by_zero_is_unknown": (exp.GE(exp.Mod(exp.IntBin("n"), 0), 0), lambda n: False),
    "minimum": (exp.Eq(exp.Min(exp.IntBin("n"), 5), 5), lambda n: n >= 5),
    "to_float": (exp.Eq(exp.Mul(exp.ToFloat(exp.IntBin("n")), 0.25), exp.FloatBin("f")), lambda n: True),
    "floor": (exp.Eq(exp.Floor(exp.FloatBin("f")), 3.0), lambda n: 12 <= n < 16),
    "bits": (exp.Eq(exp.IntAnd(exp.IntBin("n"), 6), 6), lambda n: n & 6 == 6),
    "set_name": (exp.Eq(exp.SetName(), "s"), lambda n: True),
    "since_update": (exp.LT(exp.SinceUpdateTime(), 600_000), lambda n: True),
    "tombstone": (exp.IsTombstone(), lambda n: False),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_filter(client: aerospike.Client, case: tuple[exp._BaseExpr, Callable[[int], bool]]) -> None:
    expression, holds = case
    assert numbers(client, expression) == {n for n in EVERYONE if holds(n)}


REFUSED = {
    "regular_expression": exp.CmpRegex(aerospike.REGEX_NONE, "v.*", exp.StrBin("third")),
    "condition": exp.Cond(exp.Eq(exp.IntBin("n"), 1), True, False),
    "variable": exp.Let(exp.Def("x", exp.IntBin("n")), exp.Eq(exp.Var("x"), 1)),
    "list_size": exp.Eq(exp.ListSize(None, exp.ListBin("l")), 2),
    "map_value": exp.Eq(exp.MapSize(None, exp.MapBin("m")), 1),
    "device_size": exp.GT(exp.DeviceSize(), 0),
    "power": exp.GT(exp.Pow(exp.FloatBin("f"), 2.0), 1.0),
    "types_that_differ": exp.Eq(exp.IntBin("n"), "text"),
    "no_truth_value": exp.IntBin("n"),
}


@pytest.mark.parametrize("expression", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_supported_is_an_error_never_an_answer(
    client: aerospike.Client, server: StandIn, connect: Connect, expression: exp._BaseExpr
) -> None:
    with pytest.raises(aerospike.exception.AerospikeError) as caught:
        client.query("dmp", "s").results({"expressions": expression.compile(), "max_retries": 0})
    assert caught.value.code in (4, 16)
    with pytest.raises(aerospike.exception.AerospikeError) as caught:
        client.get(("dmp", "s", 1), {"expressions": expression.compile()})
    assert caught.value.code in (4, 16)


def test_changed_since_takes_what_was_loaded_later(server: StandIn, connect: Connect) -> None:
    """Old records are left out by the partition; a partition with one new record gives just that one."""
    now = datetime.now(UTC)
    old = [(digest_of(i), 1, 0, None, bins({"n": (1, integer(i))})) for i in range(5000)]
    assert server.load("dmp", "aged", old, updated_at=now - timedelta(days=2)) == 5000
    fresh = old[::100]
    assert server.load("dmp", "aged", fresh, updated_at=now - timedelta(minutes=1)) == 50

    def since(moment: datetime) -> set[bytes]:
        nanoseconds = int(moment.timestamp()) * 10**9
        expression = bytes((0x93, 4, 0x91, 0x42, 0xCF)) + nanoseconds.to_bytes(8, "big")
        messages = connect(server.ports[0]).stream(query(b"dmp", range(4096), field(43, expression), set_name=b"aged"))
        return {dict(item.fields)[DIGEST] for item in messages[:-1]}

    assert since(now - timedelta(days=1)) == {row[0] for row in fresh}
    assert since(now - timedelta(days=3)) == {row[0] for row in old}
    assert since(now) == set()


def test_filter_in_a_batch_leaves_rows_out_with_27(client: aerospike.Client) -> None:
    policy = {"expressions": exp.LT(exp.IntBin("n"), 5).compile()}
    answers = client.batch_read([("dmp", "s", n) for n in (1, 4, 7)], policy=policy).batch_records
    assert [answer.result for answer in answers] == [0, 0, 27]


def test_filter_with_a_clock_that_is_off(client: aerospike.Client, server: StandIn) -> None:
    """A server whose clock is an hour ahead stamps its records an hour ahead."""
    server.inject(clock_offset=3600)
    try:
        client.put(("dmp", "off", 1), {"n": 1})
    finally:
        server.inject(clock_offset=0)
    border = (time.time_ns() // 10**9 + 1800) * 10**9
    records = client.query("dmp", "off").results({"expressions": exp.GT(exp.LastUpdateTime(), border).compile()})
    assert len(records) == 1
