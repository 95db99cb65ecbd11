"""What the syncer says of itself, and the counts of the operations guide done right."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2

from dbops.aerospike.cluster import Cluster
from dbops.connections import ConnectionInfo
from dbops.errors import FinalError
from dbops.platform import duration_text
from dbops.platform.sync import SyncPair, SyncStatus
from dbops.sync.postgres import connect, explained


class NoStatus(FinalError):
    """The syncer has written nothing of a table that it should carry."""


@dataclass(frozen=True)
class TableStatus:
    """The syncer's row of a table, and what is wrong with it."""

    table: str
    at: datetime
    last_sync: datetime | None
    status: str
    errors: int
    last_error: str | None
    max_age: timedelta
    max_errors: int

    @property
    def age(self) -> timedelta | None:
        return None if self.last_sync is None else max(timedelta(0), self.at - self.last_sync)

    @property
    def problems(self) -> list[str]:
        found = []
        if self.age is None:
            found.append("it was never in step")
        elif self.age > self.max_age:
            found.append(f"it was last in step {duration_text(self.age)} ago (limit {duration_text(self.max_age)})")
        if self.errors > self.max_errors:
            found.append(f"{self.errors} errors since then" + (f": {self.last_error}" if self.last_error else ""))
        if self.status == "paused":
            found.append("the syncer is paused")
        return found

    @property
    def message(self) -> str:
        if self.problems:
            return "; ".join(self.problems)
        return f"{self.status}, in step {duration_text(self.age or timedelta(0))} ago"


def table_status(info: ConnectionInfo, wanted: SyncStatus, pairs: tuple[SyncPair, ...]) -> list[TableStatus]:
    """One per table of the pairs. A table of which the syncer says nothing was never in step.

    :raises RetryableError, FinalError: it could not be looked at.
    """
    from psycopg2 import sql

    query = sql.SQL(
        "select table_name, last_sync_time, sync_status, error_count, to_jsonb(s) ->> 'last_error', clock_timestamp() "
        "from {} s"
    ).format(sql.Identifier(wanted.table))
    connection = connect(info)
    try:
        connection.set_session(readonly=True, autocommit=True)
        with connection.cursor() as cursor:
            cursor.execute(query)
            rows = {row[0]: row for row in cursor.fetchall()}
    except psycopg2.Error as error:
        raise explained(error, f"read {wanted.table} (connection {info.conn_id})") from None
    finally:
        connection.close()
    made = []
    for table in dict.fromkeys(pair.table for pair in pairs):
        name, last, status, errors, text, at = rows.get(table) or (table, None, "unknown", 0, None, datetime.now(UTC))
        if last is not None and last.tzinfo is None:
            last = last.replace(tzinfo=UTC)  # a column without time zone, as in the guide: UTC
        made.append(
            TableStatus(
                name, at.astimezone(UTC), last, status, int(errors or 0), text, wanted.max_age, wanted.max_errors
            )
        )
    return made


def counts(cluster: Cluster, pair: SyncPair) -> dict[str, Any]:
    """How many records nodes say there are, without reading any: what the guide's `SELECT COUNT(*)` was for.

    A node counts replicas in a set's `objects`, so their sum is divided by the replication factor; that is exact only
    while no partition migrates. `master_objects` of the namespace are exact. Neither knows of records whose time is
    over and that wait to be removed.
    """
    state = cluster.namespace_state(pair.namespace)
    command = f"sets/{pair.namespace}/{pair.set}"
    objects = 0
    for answer in cluster.ask_all(command).values():
        found = re.search(r"(?:^|[:;])objects=(\d+)", answer.get(command, ""))
        objects += int(found[1]) if found else 0
    return {
        "set_objects": objects // max(1, state.replication_factor),
        "namespace_master_objects": state.master_objects,
        "replication_factor": state.replication_factor,
        "exact": state.migrating == 0,
    }
