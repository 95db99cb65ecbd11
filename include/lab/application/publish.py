"""Records of Aerospike from rows of PostgreSQL: some by the official client, all of them straight into a stand-in."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import aerospike
import msgspec
from aerospike_helpers.batch import records as batch
from aerospike_helpers.operations import operations
from dbops_lab.aerospike.process import Row as Loaded
from dbops_lab.aerospike.process import call, load
from dbops_lab.aerospike.protocol import op
from dbops_lab.application.mapping import EPOCH, PAIRS, SYNCED_AT, Pair
from dbops_lab.application.world import Row, World

BATCH = 500
AEROSPIKE_EPOCH = 1_262_304_000  # 2010-01-01 UTC: void times count from here
_WRITE, _INTEGER, _DOUBLE, _STRING, _BOOL, _MAP, _LIST = 1, 1, 2, 3, 17, 19, 20
_OK, _NOT_FOUND = 0, 2
_pack = msgspec.msgpack.encode


@dataclass(frozen=True)
class Cluster:
    """An Aerospike cluster that follows the application's database.

    :param control: port of a stand-in's control, for what only a stand-in can do.
    """

    name: str
    ports: tuple[int, ...]
    control: int | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    def connect(self) -> aerospike.Client:
        config: dict[str, Any] = {"hosts": [("127.0.0.1", port) for port in self.ports]}
        if self.user:
            config |= {"user": self.user, "password": self.password}
        return aerospike.client(config).connect()


@dataclass(frozen=True)
class Change:
    """What a record shall be from now on: its bins, or None for no record.

    :param ttl: seconds; None: for ever.
    """

    key: str
    bins: Mapping[str, Any] | None
    ttl: int | None = None


def change(pair: Pair, key: str, row: Row | None, now: datetime) -> Change:
    """What the record of a key shall be when its row is this (None: there is no row)."""
    if row is None or not pair.has_record(row, now):
        return Change(key, None)
    end = pair.expiry(row)
    synced = (now - EPOCH).total_seconds() * 1000
    return Change(
        key, pair.record(row) | {SYNCED_AT: int(synced)}, max(1, round((end - now).total_seconds())) if end else None
    )


class PublishFailed(Exception):
    """The cluster did not take a record."""


def publish(client: aerospike.Client, pair: Pair, changes: Iterable[Change]) -> tuple[int, int]:
    """Put and remove records; how many were put, and how many are gone now.

    :raises PublishFailed: the first record that was not taken.
    """
    pending = list(changes)
    for start in range(0, len(pending), BATCH):
        part = pending[start : start + BATCH]
        done = client.batch_write(batch.BatchRecords([_write(pair, one) for one in part]))
        for one, answer in zip(part, done.batch_records, strict=True):
            if answer.result not in ((_OK,) if one.bins is not None else (_OK, _NOT_FOUND)):
                raise PublishFailed(f"{pair.namespace}.{pair.set} {one.key}: result {answer.result}")
    put = sum(one.bins is not None for one in pending)
    return put, len(pending) - put


def _write(pair: Pair, one: Change) -> Any:
    key = (pair.namespace, pair.set, one.key)
    if one.bins is None:
        return batch.Remove(key)
    return batch.Write(
        key,
        [operations.write(name, value) for name, value in one.bins.items()],
        policy={
            "key": aerospike.POLICY_KEY_SEND,
            "exists": aerospike.POLICY_EXISTS_CREATE_OR_REPLACE,
            "ttl": aerospike.TTL_NEVER_EXPIRE if one.ttl is None else one.ttl,
        },
    )


def publish_all(world: World, clusters: Iterable[Cluster]) -> dict[str, int]:
    """Replace the synchronised sets of stand-ins by what the world's rows say; records of each set.

    Goes through their control ports, as those take records faster than a client can send them.
    """
    done: dict[str, int] = {}
    now = datetime.now(UTC)
    for cluster in clusters:
        assert cluster.control is not None, f"{cluster.name} is no stand-in"
        for pair in PAIRS.values():
            updated = None if _empty(cluster, pair) else world.now
            made = records(pair, world.rows(pair.table), now)
            done[f"{pair.namespace}.{pair.set}"] = load(cluster.control, pair.namespace, pair.set, made, updated)
    return done


def _empty(cluster: Cluster, pair: Pair) -> bool:
    """Drop what a set holds; whether there was something. What is older than the truncation cannot be put there."""
    assert cluster.control is not None
    if not call(cluster.control, "GET", "/state")["objects"][pair.namespace].get(pair.set):
        return False
    with closing(cluster.connect()) as client:
        client.truncate(pair.namespace, pair.set, 0)
    return True


def records(pair: Pair, rows: Iterable[Row], now: datetime) -> Iterator[Loaded]:
    """The records of rows as the stand-in takes them: what `publish` would have put there."""
    for row in rows:
        key = pair.key(row)
        made = change(pair, key, row, now)
        if made.bins is not None:
            void = int(now.timestamp()) + made.ttl - AEROSPIKE_EPOCH if made.ttl is not None else 0
            digest = bytes(aerospike.calc_digest(pair.namespace, pair.set, key))
            yield digest, 1, void, bytes((_STRING,)) + key.encode(), encoded(made.bins)


def encoded(bins: Mapping[str, Any]) -> bytes:
    return b"".join(op(_WRITE, name.encode(), *_particle(value)) for name, value in bins.items())


def _particle(value: Any) -> tuple[int, bytes]:
    return _PARTICLES[type(value)](value)


def _nested(value: Any) -> Any:
    """Texts inside of lists and maps carry their particle type as a first byte."""
    if isinstance(value, str):
        return "\x03" + value
    if isinstance(value, list):
        return [_nested(item) for item in value]
    if isinstance(value, dict):
        return {_nested(key): _nested(item) for key, item in value.items()}
    return value


_PARTICLES: Mapping[type, Callable[[Any], tuple[int, bytes]]] = {
    int: lambda value: (_INTEGER, struct.pack(">q", value)),
    float: lambda value: (_DOUBLE, struct.pack(">d", value)),
    str: lambda value: (_STRING, value.encode()),
    bool: lambda value: (_BOOL, bytes((value,))),
    dict: lambda value: (_MAP, _pack(_nested(value))),
    list: lambda value: (_LIST, _pack(_nested(value))),
}
