"""What tests of the lab's application share: what is on both sides, and a slow, plain comparison of them."""

from __future__ import annotations

import json
import unicodedata
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from dbops_lab.application.mapping import PAIRS, SYNCED_AT, Pair
from dbops_lab.application.publish import Cluster
from dbops_lab.testing import LabApp

NEVER = 0xFFFFFFFF


@dataclass(frozen=True)
class Record:
    """What a record holds, and the seconds that it has left, which differ from look to look."""

    bins: dict[str, Any]
    ttl: float = field(compare=False)


def records(cluster: Cluster, pair: Pair) -> dict[str, Record]:
    """All records of a set by key, through the official client; without `synced_at`."""
    with closing(cluster.connect()) as client:
        found = client.query(pair.namespace, pair.set).results()
    assert all(SYNCED_AT in bins for _, _, bins in found)
    return {
        key[2]: Record(_decoded(pair, {k: v for k, v in bins.items() if k != SYNCED_AT}), meta["ttl"])
        for key, meta, bins in found
    }


def wanted(app: LabApp, pair: Pair) -> dict[str, Record]:
    """What the rows of PostgreSQL imply now."""
    with app.database.session() as cursor:
        cursor.execute(f"select {', '.join(pair.columns)} from {pair.table}")
        rows = cursor.fetchall()
    now = datetime.now(UTC)
    made = {}
    for row in rows:
        if pair.has_record(row, now):
            end = pair.expiry(row)
            made[pair.key(row)] = Record(
                _decoded(pair, pair.record(row)), (end - now).total_seconds() if end is not None else NEVER
            )
    return made


def _decoded(pair: Pair, bins: dict[str, Any]) -> dict[str, Any]:
    """Bins that hold JSON by value: PostgreSQL keeps no order of keys."""
    texts = {one.name for one in pair.bins if one.form == "json_text"}
    return {name: json.loads(value) if name in texts else value for name, value in bins.items()}


def assert_in_step(app: LabApp, cluster: Cluster | None = None) -> None:
    """Both sides are the same, type by type."""
    for pair in PAIRS.values():
        found, made = records(cluster or app.cluster, pair), wanted(app, pair)
        assert found.keys() == made.keys()
        for key, record in found.items():
            assert abs(record.ttl - made[key].ttl) < 60, key
            assert record == made[key]
            assert {k: type(v) for k, v in record.bins.items()} == {k: type(v) for k, v in made[key].bins.items()}


def differences(app: LabApp) -> set[tuple[str, str, str, frozenset[str]]]:
    """(missing, extra or different, table, key, columns that differ) by plain comparison."""
    found = set()
    for pair in PAIRS.values():
        there, made = records(app.cluster, pair), wanted(app, pair)
        found |= {("missing", pair.table, key, frozenset[str]()) for key in made.keys() - there.keys()}
        found |= {("extra", pair.table, key, frozenset[str]()) for key in there.keys() - made.keys()}
        for key in made.keys() & there.keys():
            if columns := _columns(pair, made[key].bins, there[key].bins):
                found.add(("different", pair.table, key, columns))
    return found


def _columns(pair: Pair, made: dict[str, Any], there: dict[str, Any]) -> frozenset[str]:
    return frozenset(
        one.column
        for one in pair.bins
        if _plain(made.get(one.name, one.default)) != _plain(there.get(one.name, one.default))
    )


def _plain(value: Any) -> Any:
    return unicodedata.normalize("NFC", value) if isinstance(value, str) else value
