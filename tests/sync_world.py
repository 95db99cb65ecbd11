"""The application's pairs as validation takes them, and traffic that changes rows while it looks."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from dbops.aerospike.cluster import Access
from dbops.platform import load_platform
from dbops.platform.sync import Sync, SyncPair
from dbops.sync.validate import Difference, PairResult, Validation
from dbops_lab.testing import LabApp

PROJECT = Path(__file__).resolve().parents[1]


def sync() -> Sync:
    found = load_platform(PROJECT / "include/platform/lab.yaml").sync
    assert found is not None
    return found


def pairs() -> dict[str, SyncPair]:
    """By table."""
    return {pair.table: pair for pair in sync().pairs}


def access(app: LabApp) -> Access:
    return Access("app", tuple(("127.0.0.1", port) for port in app.standin.ports))


def validate(app: LabApp, pair: SyncPair, *, since: datetime | None = None, **more: Any) -> PairResult:
    more = {"lag": timedelta(0), "sleep": lambda seconds: carried(app), **more}
    return Validation(pair, "app", more.pop("postgres", app.info()), more.pop("access", access(app)), **more).run(since)


def carried(app: LabApp, seconds: float = 60) -> None:
    """Wait until everything that has changed so far was carried: a lag that is right however slow the machine is."""
    until, deadline = datetime.now(UTC), time.monotonic() + seconds
    while True:
        with app.database.session() as cursor:
            cursor.execute("select count(*) from sync_outbox where changed_at <= %s", [until])
            if cursor.fetchone() == (0,):
                return
        assert time.monotonic() < deadline, "the syncer does not carry what has changed"
        time.sleep(0.02)


def named(result: PairResult) -> set[tuple[str, str]]:
    return {(one.kind, one.key or "") for one in result.differences}


def of(result: PairResult, key: str) -> Difference:
    (found,) = (one for one in result.differences if one.key == key)
    return found


@contextmanager
def traffic(app: LabApp, seed: int = 1, pause: float = 0.01) -> Iterator[list[int]]:
    """Change, insert and delete rows that drift is not planted in, with the syncer running; how many changes so far."""
    stop, done, failed = threading.Event(), [0], []

    def run() -> None:
        picks = random.Random(seed)
        try:
            while not stop.wait(pause):
                with app.database.session() as cursor:
                    for _ in range(3):
                        change(cursor, picks)
                        done[0] += 1
        except Exception as problem:  # shown by the test
            failed.append(problem)

    with app.syncer:
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield done
        finally:
            stop.set()
            thread.join(30)
            carried(app)
    assert not failed, failed


BUSY = "right({}::text, 1) in ('0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b')"


def change(cursor: Any, picks: random.Random) -> None:
    """One change to one table."""
    table = picks.choice(("campaigns", "line_items", "creatives", "spend_tracking"))
    what = picks.random()
    if table == "spend_tracking":
        cursor.execute(
            f"update spend_tracking set spent = spent + 0.07, impressions = impressions + 1 where line_item_id in "
            f"(select line_item_id from spend_tracking where {BUSY.format('line_item_id')} order by random() limit 2)"
        )
    elif what < 0.6:
        column = {"campaigns": "budget_total", "line_items": "max_bid", "creatives": "width"}[table]
        cursor.execute(
            f"update {table} set {column} = coalesce({column}, 0) + 1 where id in "
            f"(select id from {table} where {BUSY.format('id')} order by random() limit 2)"
        )
    elif what < 0.8:
        cursor.execute(
            f"update {table} set status = case status when 'deleted' then 'active' else 'deleted' end::delivery_status "
            f"where id = (select id from {table} where {BUSY.format('id')} order by random() limit 1)"
        )
    elif what < 0.9:
        key = str(uuid.UUID(int=picks.getrandbits(128)))[:35] + "7"
        cursor.execute(
            "insert into creatives (id, line_item_id, name, kind, landing_url, metadata) "
            "select %s, id, 'fresh ☕', 'video', 'https://x', '{\"n\": [1, 2.5]}' from line_items limit 1",
            [key],
        )
    else:
        cursor.execute(f"delete from creatives where id = (select id from creatives where {BUSY.format('id')} limit 1)")
