"""Putting differing records right: by the syncer, which carries their rows again, or by writing them from here."""

from __future__ import annotations

import json
import logging
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from dbops.aerospike.cluster import Access
from dbops.connections import ConnectionInfo
from dbops.errors import ConfigurationError, FinalError, RetryableError
from dbops.platform.sync import Sync, SyncColumn, SyncPair
from dbops.sync.plan import identities
from dbops.sync.postgres import Snapshot
from dbops.sync.records import mask_of
from dbops.sync.validate import PairResult

log = logging.getLogger(__name__)

SECONDS = 60
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class SyncerUnreachable(RetryableError):
    """The syncer does not answer, or cannot carry now."""


class SyncerRefused(FinalError):
    """The syncer refuses the request."""


class TooMuchDrift(FinalError):
    """More differs than a repair may touch."""


@dataclass(frozen=True)
class Repair:
    """A record to put right."""

    pair: str
    cluster: str
    kind: str
    key: str | None
    digest: str
    row_key: tuple[str, ...] | None = None


def plan_repair(results: Iterable[PairResult], most: int) -> list[Repair]:
    """What a repair of these results would touch. They must list all of their differences.

    :raises TooMuchDrift: more than `most`, or not all are listed.
    """
    made: list[Repair] = []
    for result in results:
        if result.drift > most:
            raise TooMuchDrift(
                f"repair {result.target}: {result.drift:,} differences are more than `most_repaired` ({most:,}): find "
                "out what happened, and let the syncer publish the whole table"
            )
        made += [
            Repair(result.pair, result.cluster, one.kind, one.key, one.digest, one.row_key)
            for one in result.differences
            if one.kind != "duplicate"  # rows of PostgreSQL: nothing in Aerospike puts that right
        ]
    if len(made) > most:
        raise TooMuchDrift(f"repair: {len(made):,} differences are more than `most_repaired` ({most:,})")
    return made


def in_words(plan: Sequence[Repair], sync: Sync, most: int = 20) -> str:
    """What would be done, for the person who approves it."""
    lines = [f"{len(plan)} records are put right {'by the syncer' if sync.repair == 'syncer' else 'from here'}."]
    verbs = {"missing": "write", "different": "replace", "extra": "remove"}
    groups: dict[tuple[str, str, str], int] = {}
    for one in plan:
        group = (one.cluster, one.pair, one.kind)
        groups[group] = groups.get(group, 0) + 1
    lines += [f"- {cluster} {pair}: {verbs[kind]} {count}" for (cluster, pair, kind), count in sorted(groups.items())]
    lines += [f"  {one.cluster} {one.pair} {one.kind} {one.key or one.digest}" for one in plan[:most]]
    if len(plan) > most:
        lines.append(f"  and {len(plan) - most} more")
    return "\n".join(lines)


def by_syncer(sync: Sync, info: ConnectionInfo, plan: Sequence[Repair]) -> dict[str, int]:
    """Have the syncer carry the rows of these keys again, to all of its clusters; how many it says it put and removed.

    It makes each record what PostgreSQL says now, so asking again changes nothing.

    :raises SyncerUnreachable, SyncerRefused: and what was asked before stays done.
    """
    assert sync.syncer is not None
    unknown = [one for one in plan if one.key is None]
    if unknown:
        raise SyncerRefused(
            f"repair: of {len(unknown)} extra records the cluster does not store the key, so the syncer cannot be "
            f"asked for them ({unknown[0].cluster} {unknown[0].digest}, ...): set `repair: direct`"
        )
    done = {"published": 0, "removed": 0}
    for name in dict.fromkeys(one.pair for one in plan):
        table = sync.pair(name).table
        keys = list(dict.fromkeys(str(one.key) for one in plan if one.pair == name))
        for at in range(0, len(keys), sync.syncer.batch):
            answer = _ask(info, sync.syncer.path, {"table": table, "keys": keys[at : at + sync.syncer.batch]})
            for what in done:
                done[what] += int(answer.get(what, 0))
    return done


def _ask(info: ConnectionInfo, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    if not info.host:
        raise SyncerRefused(f"repair: connection {info.conn_id} has no host; give it the syncer's address")
    host = info.host if "://" in info.host else f"{info.schema or 'http'}://{info.host}"
    url = host.rstrip("/") + (f":{info.port}" if info.port else "") + path
    if not url.startswith(("http://", "https://")):
        raise SyncerRefused(f"repair: connection {info.conn_id} is no address of HTTP")
    headers = {"Content-Type": "application/json"}
    if info.password:
        headers["Authorization"] = f"Bearer {info.password}"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="POST")  # noqa: S310
    what = f"ask the syncer at {url} for {len(body['keys'])} keys of {body['table']}"
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:  # noqa: S310
            found: dict[str, Any] = json.loads(answer.read())
            return found
    except urllib.error.HTTPError as error:
        text = error.read(500).decode("utf-8", "replace")
        kind = SyncerUnreachable if error.code >= 500 or error.code == 429 else SyncerRefused
        raise kind(f"{what}: it answered {error.code}: {text}") from None
    except (OSError, ValueError) as error:
        raise SyncerUnreachable(f"{what}: {error}; is it running?") from None


def directly(
    sync: Sync, pair: SyncPair, postgres: ConnectionInfo, access: Access, plan: Sequence[Repair]
) -> dict[str, int]:
    """Write or remove these records of one pair and cluster ourselves, from what PostgreSQL says now.

    A record's other bins go with it: it is replaced. Once more changes nothing. A record that somebody changes between
    our look at its row and our write is left as it is.

    :raises ConfigurationError: PostgreSQL is a replica: what it says may be old.
    :raises RetryableError: what was written before stays written.
    """
    from aerospike.exception import AerospikeError

    done = {"published": 0, "removed": 0}
    try:
        client = official_client(access)
        try:
            place = (pair.namespace, pair.set, None)
            # Before the rows: whoever writes a record after that knew a newer row than we do.
            seen = {one.digest: _generation(client, (*place, bytearray.fromhex(one.digest))) for one in plan}
            rows = _rows(sync, pair, postgres, plan)
            for one in plan:
                what = _put_right(client, pair, bytearray.fromhex(one.digest), seen[one.digest], rows.get(one.digest))
                if what is not None:
                    done[what] += 1
        finally:
            client.close()
    except AerospikeError as error:
        raise RetryableError(f"repair {access.cluster}/{pair.namespace}.{pair.set}: {error}") from None
    return done


def _generation(client: Any, key: tuple[Any, ...]) -> int | None:
    """None: there is no such record."""
    _, meta = client.exists(key)
    return None if meta is None else int(meta["gen"])


def _put_right(
    client: Any, pair: SyncPair, digest: bytearray, generation: int | None, row: tuple[Any, ...] | None
) -> str | None:
    """Write or remove one record if it is as it was seen; what was done."""
    import aerospike
    from aerospike.exception import RecordExistsError, RecordGenerationError, RecordNotFound

    same = {"gen": aerospike.POLICY_GEN_EQ}  # the generation itself has no other place than the old `meta`
    try:
        if row is None:
            if generation is None:
                return None
            client.remove((pair.namespace, pair.set, None, digest), {"gen": generation}, same)
            return "removed"
        bins, ttl, key = row
        if not bins:
            log.warning("%s.%s %s: its row has no value for any bin, and no record is without; left as it is",
                        pair.namespace, pair.set, key)  # fmt: skip
            return None
        exists = aerospike.POLICY_EXISTS_CREATE if generation is None else aerospike.POLICY_EXISTS_REPLACE
        client.put(
            (pair.namespace, pair.set, key), bins, {"gen": generation or 0},
            {"key": aerospike.POLICY_KEY_SEND, "exists": exists,
             "ttl": aerospike.TTL_NEVER_EXPIRE if ttl is None else ttl} | (same if generation is not None else {}),
        )  # fmt: skip
    except (RecordExistsError, RecordGenerationError, RecordNotFound):
        log.info(
            "%s.%s %s: somebody else has changed it meanwhile; left as it is", pair.namespace, pair.set, digest.hex()
        )
        return None
    return "published"


def official_client(access: Access) -> Any:
    """A connected official client.

    :raises AerospikeError: nothing answers.
    """
    import aerospike

    config: dict[str, Any] = {"hosts": list(access.seeds), "use_services_alternate": access.alternate_addresses}
    if access.user:
        config |= {"user": access.user, "password": access.password}
    if access.tls:
        config["hosts"] = [(host, port, access.tls.name or host) for host, port in access.seeds]
        config["tls"] = {"enable": True, "cafile": access.tls.ca_file}
        if access.tls.cert_file:
            config["tls"] |= {"certfile": access.tls.cert_file, "keyfile": access.tls.key_file}
    return aerospike.client(config).connect()


def _rows(
    sync: Sync, pair: SyncPair, postgres: ConnectionInfo, plan: Sequence[Repair]
) -> dict[str, tuple[dict[str, Any], int | None, Any]]:
    """By digest: bins, seconds to live and key of the rows that have a record now."""
    made: dict[str, tuple[dict[str, Any], int | None, Any]] = {}
    with Snapshot(postgres, pair, sync.max_replica_lag) as snapshot:
        if snapshot.is_replica:
            raise ConfigurationError(
                f"repair of {pair.name}: connection {postgres.conn_id} leads to a replica, which may be behind; set "
                "`repair: syncer`, or let the connection lead to the primary"
            )
        # A record that had no row may have one by now, made of whatever columns.
        unknown = [bytes.fromhex(one.digest) for one in plan if one.row_key is None]
        rows = snapshot.alive_rows([
            *(one.row_key for one in plan if one.row_key is not None),
            *_rows_of(snapshot, unknown),
        ])
        digests = snapshot.plan.digests(str(key) for key, _, _ in rows)
        for digest, (key, left, values) in zip(digests, rows, strict=True):
            bins = {
                one.bin: to_bin(one, value)
                for one, value in zip(pair.columns, values, strict=True)
                if value is not None
            }
            bins = {
                one.bin: bins[one.bin]
                for one in pair.columns
                if one.bin in bins and (one.default is None or bins[one.bin] != one.default)
            }
            made[digest.hex()] = (bins, None if left is None else max(1, round(left)), key)
    return made


def _rows_of(snapshot: Snapshot, digests: list[bytes]) -> list[tuple[str, ...]]:
    """Values of the key columns of the rows that have these digests now; the whole table is gone through."""
    if not digests:
        return []
    wanted, found = set(digests), snapshot.keys_of(mask_of(digests))
    ours = [one in wanted for one in identities(found[:, 0], found[:, 1], found[:, 2])]
    return [row_key for _, row_key in snapshot.keys_at(found[ours, 4])]


def to_bin(column: SyncColumn, value: Any) -> Any:
    """A value of the driver as the bin holds it."""
    form = column.form
    if form == "integer":
        return int(value)
    if form == "double":
        return float(value)
    if form == "bool":
        return bool(value)
    if form == "bool_int":
        return int(bool(value))
    if form == "scaled":
        scaled = Decimal(value).scaleb(column.scale)
        if scaled != int(scaled):
            raise FinalError(f"repair: {column.column} is {value}, which has no form of 10**-{column.scale}")
        return int(scaled)
    if form == "decimal":
        return format(Decimal(value), "f")
    if form == "json_text":
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if form == "json":
        return value
    if form == "iso":
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if form.startswith("epoch_"):
        moment = value if isinstance(value, datetime) else datetime.combine(value, time())
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        micros = (moment - EPOCH) // timedelta(microseconds=1)
        return micros // {"epoch_us": 1, "epoch_ms": 1000, "epoch_s": 1_000_000}[form]
    return str(value)


def repair(
    sync: Sync,
    plan: Sequence[Repair],
    *,
    postgres: ConnectionInfo,
    syncer: ConnectionInfo | None,
    accesses: Mapping[str, Access],
) -> dict[str, int]:
    """Carry a plan out; how many records were put and removed."""
    if not plan:
        return {"published": 0, "removed": 0}
    if sync.repair == "syncer":
        assert syncer is not None
        return by_syncer(sync, syncer, plan)
    done = {"published": 0, "removed": 0}
    for name, cluster in dict.fromkeys((one.pair, one.cluster) for one in plan):
        mine = [one for one in plan if (one.pair, one.cluster) == (name, cluster)]
        part = directly(sync, sync.pair(name), postgres, accesses[cluster], mine)
        done = {what: count + part[what] for what, count in done.items()}
    return done
