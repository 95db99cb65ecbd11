"""Data as the platform has it: line items, creatives, segments, spend. The same for the same seed, of any size."""

from __future__ import annotations

import base64
import random
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import aerospike
import msgspec
from dbops.errors import FinalError
from dbops_lab.aerospike.process import Row, load
from dbops_lab.aerospike.protocol import op
from dbops_lab.lab import AEROSPIKE_USER, WITH_LOGIN, Lab

EPOCH = 1_262_304_000  # 2010-01-01 UTC: void times count from here
DAY = 86_400
RECORDS = 50_000  # per namespace

_WRITE, _INTEGER, _DOUBLE, _STRING, _BLOB, _BOOL, _MAP, _LIST = 1, 1, 2, 3, 4, 17, 19, 20
_COUNTRIES = ("DE", "FR", "GB", "ES", "IT", "NL", "PL", "SE", "JP", "KR", "SG", "AU")
_STATES = ("active", "paused", "archived", "draft")
_pack = msgspec.msgpack.encode


@dataclass(frozen=True)
class SetSpec:
    """A set: its share of the namespace's records, days to live (0 = for ever), and what a record holds."""

    namespace: str
    name: str
    share: float
    days: tuple[int, int]
    bins: Callable[[random.Random, int], bytes]


def key_of(set_name: str, number: int) -> str:
    """The user key of a record: what traffic changes, by number."""
    return f"{set_name}-{number:08d}"


def _integer(name: str, value: int) -> bytes:
    return op(_WRITE, name.encode(), _INTEGER, struct.pack(">q", value))


def _double(name: str, value: float) -> bytes:
    return op(_WRITE, name.encode(), _DOUBLE, struct.pack(">d", value))


def _string(name: str, value: str) -> bytes:
    return op(_WRITE, name.encode(), _STRING, value.encode())


def _list(name: str, values: list[int]) -> bytes:
    return op(_WRITE, name.encode(), _LIST, _pack(values))


def _money_by_country(name: str, picks: random.Random, most: float) -> bytes:
    # Strings inside of lists and maps carry their particle type as a first byte.
    prices = {f"\x03{country}": round(picks.uniform(0.05, most), 4) for country in picks.sample(_COUNTRIES, 3)}
    return op(_WRITE, name.encode(), _MAP, _pack(prices))


def _line_item(picks: random.Random, number: int) -> bytes:
    return b"".join((
        _integer("order_id", number % 997),
        _string("state", picks.choice(_STATES)),
        _double("max_bid", round(picks.uniform(0.1, 12.0), 3)),
        _list("segments", [picks.randrange(1, 5000) for _ in range(6)]),
        _money_by_country("bids", picks, 9.0),
        op(_WRITE, b"pacing", _BOOL, bytes((picks.random() < 0.7,))),
    ))


def _creative(picks: random.Random, number: int) -> bytes:
    return b"".join((
        _string("title", f"Creative {number} für {picks.choice(_COUNTRIES)}"),
        _integer("width", picks.choice((300, 320, 728, 970))),
        _integer("height", picks.choice((50, 90, 250, 600))),
        op(_WRITE, b"preview", _BLOB, picks.randbytes(48)),
    ))


def _order(picks: random.Random, number: int) -> bytes:
    return b"".join((
        _integer("account_id", number % 211),
        _string("name", f"Order {number}"),
        _double("budget", round(picks.uniform(100, 90_000), 2)),
        _list("line_items", [picks.randrange(1, 20_000) for _ in range(4)]),
    ))


def _mapping(picks: random.Random, number: int) -> bytes:
    return b"".join((
        _string("user", f"{picks.getrandbits(64):016x}"),
        _list("segments", sorted(picks.sample(range(1, 5000), 8))),
        _integer("seen", 1_790_000_000 + number % 4_000_000),
    ))


def _segment(picks: random.Random, number: int) -> bytes:
    return b"".join((
        _string("name", f"segment {number}"),
        _integer("users", picks.randrange(10, 4_000_000)),
        _money_by_country("price", picks, 3.0),
    ))


def _spend(picks: random.Random, number: int) -> bytes:
    return b"".join((
        _integer("line_item", number),
        _double("spent", round(picks.uniform(0, 5_000), 4)),
        _double("budget", round(picks.uniform(5_000, 20_000), 2)),
        _integer("impressions", picks.randrange(0, 3_000_000)),
    ))


SETS = (
    SetSpec("bidder", "lineitems", 0.40, (0, 0), _line_item),
    SetSpec("bidder", "creatives", 0.30, (0, 0), _creative),
    SetSpec("bidder", "orders", 0.15, (0, 0), _order),
    SetSpec("bidder", "videos", 0.10, (0, 0), _creative),
    SetSpec("bidder", "lumen", 0.05, (30, 90), _segment),
    SetSpec("dmp", "mapping", 0.75, (7, 90), _mapping),
    SetSpec("dmp", "segments", 0.25, (7, 90), _segment),
    SetSpec("spend", "spend", 1.00, (30, 120), _spend),
)


def rows(spec: SetSpec, records: int, seed: int, now: float) -> Iterator[Row]:
    """The records of one set, ready for the stand-in: digest, generation, void time, key, bins."""
    picks = random.Random(f"{seed}/{spec.namespace}/{spec.name}")
    for number in range(records):
        key = key_of(spec.name, number)
        void = int(now) - EPOCH + picks.randint(*spec.days) * DAY + picks.randrange(DAY) if spec.days[0] else 0
        digest = bytes(aerospike.calc_digest(spec.namespace, spec.name, key))
        yield digest, 1, void, bytes((_STRING,)) + key.encode(), spec.bins(picks, number)


def seed(lab: Lab, records: int = RECORDS, seed: int = 1) -> dict[str, int]:
    """Fill every cluster of a lab; records by `cluster/namespace`.

    :param records: per namespace.
    """
    done: dict[str, int] = {}
    now = time.time()
    written = datetime.fromtimestamp(now, UTC) - timedelta(hours=1)  # long before any backup, as most of real data is
    for cluster, control in lab.settings.aerospike_control.items():
        _definitions(lab, cluster)
        for spec in SETS:
            made = rows(spec, round(records * spec.share), seed, now)
            count = load(control, spec.namespace, spec.name, made, written)
            place = f"{cluster}/{spec.namespace}"
            done[place] = done.get(place, 0) + count
    return done


def _definitions(lab: Lab, cluster: str) -> None:
    """Secondary indexes and a UDF, which a backup holds too.

    As info commands: the client's own calls poll for seconds until a real cluster has spread the definition.
    """
    module = base64.b64encode(b"function spent(rec)\n  return rec['spent']\nend\n").decode()
    client = connect(lab, cluster)
    try:
        for command in (
            "sindex-create:namespace=bidder;set=lineitems;indexname=lineitems_order_id;bin=order_id;type=NUMERIC",
            "sindex-create:namespace=spend;set=spend;indexname=spend_line_item;bin=line_item;type=NUMERIC",
            f"udf-put:filename=pacing.lua;content={module};content-len={len(module)};udf-type=LUA;",
        ):
            answer = client.info_random_node(command).rstrip()
            if "FAIL" in answer.upper() and "exist" not in answer:
                raise FinalError(f"seed cluster {cluster}: {command.partition(':')[0]} was answered {answer!r}")
    finally:
        client.close()


def connect(lab: Lab, cluster: str) -> aerospike.Client:
    """The official client on a cluster of the lab, logged in."""
    ports = lab.settings.aerospike[cluster]
    config: dict[str, object] = {"hosts": [("127.0.0.1", port) for port in ports]}
    if cluster == WITH_LOGIN:
        config |= {"user": AEROSPIKE_USER, "password": lab.settings.secrets["aerospike"]}
    return aerospike.client(config).connect()
