"""Traffic of the application: people edit campaigns, budgets are spent, creatives come and go, all in PostgreSQL.

Rows that are quiet (`world.is_quiet`) are never touched, nor is the spend of days that are over: drift that is planted
there stays, and what the warehouse says of those days stays true.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from decimal import Decimal
from types import TracebackType
from typing import Any, Self

import psycopg2
from dbops_lab.application.database import Database
from dbops_lab.application.world import World, ident, is_quiet

_NAMES = ("Herbst-Aktion für Köln", "秋のセール", "Élan d'été", 'Q4 "always on"', "größer\nund besser")
_DEVICES = ("phone", "desktop", "tablet", "tv")


class Traffic:
    """Changes in the same order for the same seed: so many by `step`, or at a rate between `start` and `close`."""

    def __init__(self, database: Database, world: World, seed: int = 2) -> None:
        self.done: Counter[str] = Counter()
        self._database, self._world, self._seed = database, world, seed
        self._picks = random.Random(f"{world.seed}/{seed}/traffic")
        self._fresh = 0
        self._creatives: list[str] = []  # those that this traffic made, and may delete
        self._connection: psycopg2.extensions.connection | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def step(self, changes: int = 1) -> None:
        """Make so many changes, each a transaction."""
        if self._connection is None:
            self._connection = self._database.connect("terminal")
        for _ in range(changes):
            (what,) = self._picks.choices(list(_CHANGES), [weight for weight, _ in _CHANGES.values()])
            with self._connection, self._connection.cursor() as cursor:
                _CHANGES[what][1](self, cursor)
            self.done[what] += 1

    def start(self, rate: float = 50.0) -> None:
        """Go on in the background.

        :param rate: changes per second, at most.
        """
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, args=[rate], name="traffic", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(30)
            self._thread = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, rate: float) -> None:
        began, made = time.monotonic(), 0
        while not self._stop.is_set():
            ahead = made / rate - (time.monotonic() - began)
            if ahead > 0:
                self._stop.wait(min(ahead, 0.1))
                continue
            self.step()
            made += 1

    # ------------------------------------------------------------------ what to change

    def _key(self, table: str) -> str:
        counts = {"accounts": self._world.accounts, "campaigns": self._world.campaigns,
                  "line_items": self._world.line_items, "creatives": self._world.creatives}  # fmt: skip
        while is_quiet(key := self._world.id(table, self._picks.randrange(counts[table]))):
            pass
        return key

    def _new_key(self, table: str) -> str:
        while True:
            self._fresh += 1
            key = ident(self._world.seed, f"{self._seed}/traffic/{table}", self._fresh)
            if not is_quiet(key):
                return key

    def _money(self, most: int) -> Decimal:
        return Decimal(self._picks.randrange(1, most)).scaleb(-2)

    def _campaign(self, cursor: psycopg2.extensions.cursor) -> None:
        cursor.execute(
            "update campaigns set budget_daily = %s, name = %s, version = version + 1 where id = %s",
            [
                None if self._picks.random() < 0.1 else self._money(5_000_000),
                f"{self._picks.choice(_NAMES)} {self._picks.randrange(1000)}",
                self._key("campaigns"),
            ],
        )

    def _bid(self, cursor: psycopg2.extensions.cursor) -> None:
        cursor.execute(
            "update line_items set max_bid = %s, win_rate_goal = %s, "
            "targeting = targeting || jsonb_build_object('device', %s) where id = %s",
            [self._money(1_200), self._picks.random(), self._picks.choice(_DEVICES), self._key("line_items")],
        )

    def _pause(self, cursor: psycopg2.extensions.cursor) -> None:
        cursor.execute(
            "update line_items set "
            "status = case when status = 'active' then 'paused' else 'active' end::delivery_status where id = %s",
            [self._key("line_items")],
        )

    def _delete(self, cursor: psycopg2.extensions.cursor) -> None:
        """Softly; somebody may take it back."""
        cursor.execute(
            "update campaigns set "
            "status = case when status = 'deleted' then 'active' else 'deleted' end::delivery_status where id = %s",
            [self._key("campaigns")],
        )

    def _approve(self, cursor: psycopg2.extensions.cursor) -> None:
        cursor.execute("update creatives set is_approved = not is_approved where id = %s", [self._key("creatives")])

    def _create(self, cursor: psycopg2.extensions.cursor) -> None:
        key, item = self._new_key("creatives"), self._key("line_items")
        cursor.execute(
            "insert into creatives (id, line_item_id, name, status, kind, width, height, landing_url, metadata) "
            "values (%s, %s, %s, 'draft', 'banner', 300, 250, 'https://shop.example/neu', '{\"by\": \"traffic\"}')",
            [key, item, self._picks.choice(_NAMES)],
        )
        self._creatives.append(key)

    def _drop(self, cursor: psycopg2.extensions.cursor) -> None:
        """Really."""
        if self._creatives:
            key = self._creatives.pop(self._picks.randrange(len(self._creatives)))
            cursor.execute("delete from creatives where id = %s", [key])

    def _launch(self, cursor: psycopg2.extensions.cursor) -> None:
        campaign, item = self._new_key("campaigns"), self._new_key("line_items")
        cursor.execute(
            "insert into campaigns (id, account_id, name, status, budget_total, starts_at) "
            "values (%s, %s, %s, 'active', %s, now())",
            [campaign, self._world.id("accounts", self._picks.randrange(self._world.accounts)),
             self._picks.choice(_NAMES), self._money(9_999_999)],
        )  # fmt: skip
        cursor.execute(
            "insert into line_items (id, campaign_id, name, status, max_bid, starts_at) "
            "values (%s, %s, %s, 'active', %s, now())",
            [item, campaign, self._picks.choice(_NAMES), self._money(1_200)],
        )

    def _spend(self, cursor: psycopg2.extensions.cursor) -> None:
        number = self._picks.choice(self._world.hot_line_items.numbers)
        key = self._world.id("line_items", number)
        if is_quiet(key):
            key = self._key("line_items")
        cursor.execute(
            "insert into spend_tracking as s (line_item_id, day, campaign_id, spent, impressions) "
            "select id, %s, campaign_id, %s, 1 from line_items where id = %s "
            "on conflict (line_item_id, day) do update "
            "set spent = s.spent + excluded.spent, impressions = s.impressions + 1",
            [self._world.now.date(), self._money(900), key],
        )

    def _visit(self, cursor: psycopg2.extensions.cursor) -> None:
        account = self._world.id("accounts", self._picks.randrange(self._world.accounts))
        session = self._new_key("user_sessions")
        cursor.execute(
            "insert into user_sessions values (%s, %s, 'somebody@example.com', %s, '203.0.113.7', 'curl/8', "
            "now(), now(), now() + interval '1 day')",
            [session, account, self._picks.randbytes(32)],
        )
        cursor.execute(
            "insert into api_access_log (session_id, method, path, status, duration_ms) "
            "values (%s, 'GET', %s, 200, %s)",
            [session, f"/api/v2/accounts/{account}", self._picks.uniform(1, 100)],
        )


_CHANGES: Mapping[str, tuple[int, Callable[[Traffic, Any], None]]] = {
    "campaign": (15, Traffic._campaign),
    "bid": (20, Traffic._bid),
    "pause": (8, Traffic._pause),
    "delete": (4, Traffic._delete),
    "approve": (8, Traffic._approve),
    "create": (5, Traffic._create),
    "drop": (3, Traffic._drop),
    "launch": (2, Traffic._launch),
    "spend": (30, Traffic._spend),
    "visit": (5, Traffic._visit),
}
"""How often of a hundred, and what."""
