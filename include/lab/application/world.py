"""What exists: accounts, campaigns, line items, creatives, spend. The same for the same seed and time, of any size."""

from __future__ import annotations

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cached_property
from typing import Any

import numpy as np
from dbops_lab.application.events import HOUR, PRICE, Hour, floor_hour, hours

DAY = timedelta(days=1)
GRACE = timedelta(days=30)  # how long a campaign's records stay in Aerospike after its end
HOT = 5_000  # line items that take part in auctions, at most
USERS = 20_000
KEPT = 2_000  # creatives of a world that is so small that its rows are made only once

Row = tuple[Any, ...]

STATUSES = ("active",) * 11 + ("paused",) * 3 + ("completed",) * 3 + ("draft",) * 2 + ("deleted",)
_NAMES = (
    "Sommer-Aktion für Zürich", "Crème brûlée à l’heure", "冬のキャンペーン", "Żółć i łódź", "Back to school 2026",
    "O'Neill's \"Summer\" sale", "Prospecting — Größe XL", "retargeting", "Retargeting", "RETARGETING", "50 % off",
    "Ωmega & friends", "naïve café ☕", "日本語 / 한국어", "C:\\feeds\\spring", "tab\tand more", "İstanbul", "straße",
)  # fmt: skip
_LABELS = ("brand", "performance", "Q3", "Q4", "vip", "überregional", "test,comma", "two words", 'quo"te')
_NOTES = ("", "first line\nsecond line", 'Rücksprache mit "Jörg" nötig', "back\\slash", "None", "NULL", "  spaces  ")
_COUNTRIES = ("DE", "FR", "GB", "ES", "IT", "NL", "PL", "SE", "JP", "KR", "SG", "AU")
_TIMEZONES = ("Europe/Berlin", "Europe/Paris", "Europe/London", "Asia/Tokyo", "Asia/Singapore", "UTC")
_SIZES = ((300, 250), (320, 50), (728, 90), (970, 250), (160, 600), (1920, 1080))
_MARKUP = (
    '<a href="{url}"><img src="https://cdn.example/{n}.png" alt="Größe \'XL\'"></a>',
    "<script>\nvar id = {n};\n\tshow(\"{url}\");\n</script>",
    "<p>日本の広告 {n}</p>\r\n<!-- \\N is not null -->",
)  # fmt: skip


def ident(seed: int, table: str, number: int) -> str:
    """The id of a row: a UUID that follows from what it is."""
    found = hashlib.blake2b(f"{seed}/{table}/{number}".encode(), digest_size=16).hexdigest()
    return f"{found[:8]}-{found[8:12]}-4{found[13:16]}-a{found[17:20]}-{found[20:]}"


def is_quiet(key: str) -> bool:
    """Whether traffic leaves the row of this id (or key that begins with it) alone, so that planted drift stays."""
    return key[35] in "cdef"


@dataclass(frozen=True)
class HotLineItems:
    """The line items that take part in auctions, with what belongs to them; position by position."""

    numbers: list[int]
    ids: np.ndarray[Any, Any]
    campaigns: np.ndarray[Any, Any]
    creatives: np.ndarray[Any, Any]


@dataclass(frozen=True)
class World:
    """Everything follows from these numbers.

    :param now: aware; the present of this world, a full hour. Events and spend end there.
    :param days: of spend that is known, today included.
    :param requests_per_hour: bid requests of an average hour.
    """

    seed: int = 1
    campaigns: int = 200
    line_items: int = 800
    creatives: int = 1600
    days: int = 7
    requests_per_hour: int = 400
    now: datetime = field(default_factory=lambda: floor_hour(datetime.now(UTC)))

    def __post_init__(self) -> None:
        if self.now.tzinfo is None or self.now != floor_hour(self.now):
            raise ValueError(f"now={self.now} is no full hour with a time zone")
        if not 0 < self.campaigns <= self.line_items <= self.creatives:
            raise ValueError("there must be campaigns, and not fewer line items than them, nor fewer creatives")

    @cached_property
    def _kept(self) -> dict[str, list[Row]]:
        return {}

    @property
    def accounts(self) -> int:
        return max(1, self.campaigns // 20)

    def id(self, table: str, number: int) -> str:
        return ident(self.seed, table, number)

    def status(self, table: str, number: int) -> str:
        """Deleted ones are still rows of PostgreSQL, and no records of Aerospike."""
        digest = hashlib.blake2b(f"{self.seed}/{table}/{number}/status".encode(), digest_size=2).digest()
        return STATUSES[int.from_bytes(digest) % len(STATUSES)]

    @cached_property
    def hot_line_items(self) -> HotLineItems:
        numbers = [n for n in range(min(self.line_items, 2 * HOT)) if self.status("line_items", n) == "active"][:HOT]
        numbers = numbers or [0]
        return HotLineItems(
            numbers,
            np.array([self.id("line_items", n) for n in numbers], dtype=object),
            np.array([self.id("campaigns", n % self.campaigns) for n in numbers], dtype=object),
            np.array([self.id("creatives", n) for n in numbers], dtype=object),
        )

    @cached_property
    def user_ids(self) -> np.ndarray[Any, Any]:
        return np.array([self.id("users", n) for n in range(USERS)], dtype=object)

    def hour(self, start: datetime) -> Hour:
        """The events of an hour, of any time."""
        return Hour(self, floor_hour(start))

    @property
    def first_day(self) -> date:
        return (self.now - HOUR).date() - DAY * (self.days - 1)

    def hours(self) -> list[datetime]:
        """The hours of the days of spend."""
        return hours(datetime(*self.first_day.timetuple()[:3], tzinfo=UTC), self.now)

    def rows(self, table: str) -> Iterator[Row]:
        """The rows of a table of PostgreSQL, in the order of its columns (see `database.COLUMNS`).

        Values as psycopg2 would give them: `Decimal`, aware `datetime`, `date`, `bool`, text; jsonb is decoded.
        """
        if table in self._kept:
            return iter(self._kept[table])
        made: Iterator[Row] = getattr(self, f"_{table}")(random.Random(f"{self.seed}/{table}"))
        if self.creatives > KEPT:
            return made
        self._kept[table] = list(made)
        return iter(self._kept[table])

    def _accounts(self, picks: random.Random) -> Iterator[Row]:
        for n in range(self.accounts):
            created = self._past(picks, 900, 30)
            yield (
                self.id("accounts", n), f"Account {n} {picks.choice(_NAMES)}",
                picks.choices(("active", "suspended", "closed"), (90, 7, 3))[0], picks.choice(_COUNTRIES),
                picks.choice(("EUR", "EUR", "USD", "JPY")), picks.choice(_TIMEZONES),
                None if picks.random() < 0.3 else _money(picks, 100_000, 100_000_000),
                {"invoice": {"day": picks.randrange(1, 28), "to": f"ap{n}@example.com"}, "vat": picks.random() < 0.5},
                created, created + DAY * picks.random() * 20,
            )  # fmt: skip

    def _campaigns(self, picks: random.Random) -> Iterator[Row]:
        for n in range(self.campaigns):
            starts, ends = self._run(picks)
            cap = {"impressions": picks.randrange(1, 20), "per": picks.choice(("hour", "day")), "by": ["user", "ip"]}
            yield (
                self.id("campaigns", n), self.id("accounts", n % self.accounts), f"{picks.choice(_NAMES)} {n}",
                self.status("campaigns", n), picks.choice(("EUR", "EUR", "EUR", "USD", "JPY")),
                _money(picks, 100_000, 999_999_999), None if picks.random() < 0.15 else _money(picks, 1_000, 5_000_000),
                starts, ends, picks.random() < 0.05, cap if picks.random() < 0.6 else None,
                picks.sample(_LABELS, picks.randrange(4)), picks.choice(_NOTES) if picks.random() < 0.4 else None,
                picks.randrange(1, 40), starts - DAY * picks.random() * 10, self._past(picks, 20, 0.05),
            )  # fmt: skip

    def _line_items(self, picks: random.Random) -> Iterator[Row]:
        for n in range(self.line_items):
            starts, ends = self._run(picks)
            targeting = {
                "geo": picks.sample(_COUNTRIES, picks.randrange(1, 4)),
                "hours": {"from": picks.randrange(0, 12), "to": picks.randrange(12, 24)},
                "bid_by_country": {picks.choice(_COUNTRIES): picks.randrange(10, 900) / 100},
                "label": picks.choice(_NAMES),
                "strict": picks.random() < 0.5,
            }
            yield (
                self.id("line_items", n), self.id("campaigns", n % self.campaigns), f"{picks.choice(_NAMES)} #{n}",
                self.status("line_items", n), _money(picks, 10, 1_200),
                None if picks.random() < 0.2 else _money(picks, 500, 900_000),
                picks.choice(("even", "even", "asap", "front_loaded")),
                None if picks.random() < 0.3 else picks.choice((0.1, 1 / 3, 0.25, picks.random())),
                picks.randrange(1, 11), [picks.randrange(1, 5000) for _ in range(picks.randrange(6))],
                targeting if picks.random() < 0.95 else {}, picks.random() < 0.1, starts, ends,
                starts - DAY * picks.random() * 10, self._past(picks, 20, 0.05),
            )  # fmt: skip

    def _creatives(self, picks: random.Random) -> Iterator[Row]:
        for n in range(self.creatives):
            kind = picks.choices(("banner", "video", "native", "audio"), (60, 20, 15, 5))[0]
            width, height = picks.choice(_SIZES) if kind != "audio" else (None, None)
            url = f"https://shop.example/p/{n}?q=größe&x={picks.randrange(1000)}"
            markup = picks.choice(_MARKUP).format(url=url, n=n) if kind in ("banner", "native") else None
            meta = {
                "mime": "image/png",
                "weight": picks.randrange(1, 200),
                "tags": picks.sample(_LABELS, 2),
                "alt": None,
            }
            yield (
                self.id("creatives", n), self.id("line_items", n % self.line_items), f"{picks.choice(_NAMES)} {n}",
                self.status("creatives", n), kind, width, height, url, markup,
                Decimal(picks.randrange(5_000, 60_001)).scaleb(-3) if kind in ("video", "audio") else None,
                meta if picks.random() < 0.8 else None, picks.random() < 0.9,
                self._past(picks, 90, 20), self._past(picks, 20, 0.05),
            )  # fmt: skip

    def _targeting_rules(self, picks: random.Random) -> Iterator[Row]:
        for n in range(self.line_items):
            for _ in range(picks.randrange(3)):
                kind = picks.choice(("geo", "device", "segment", "daypart", "domain"))
                value = {"any": picks.sample(_COUNTRIES, 2)} if kind == "geo" else {"is": picks.randrange(100)}
                yield self.id("line_items", n), kind, picks.random() < 0.2, value, self._past(picks, 60, 1)

    def _spend_tracking(self, picks: random.Random) -> Iterator[Row]:
        for (number, day), (micros, impressions, clicks) in sorted(self.spend.items(), key=lambda item: item[0][::-1]):
            budget = None if picks.random() < 0.1 else _money(picks, 5_000, 900_000)
            ends = min(day + timedelta(days=picks.randrange(90)), self.now.date() + DAY * 60)
            updated = min(datetime(*day.timetuple()[:3], tzinfo=UTC) + DAY, self.now) - timedelta(
                microseconds=picks.randrange(3_000_000_000)
            )
            yield (
                self.id("line_items", number), day, self.id("campaigns", number % self.campaigns),
                _cents(micros), budget, impressions, clicks,
                None if picks.random() < 0.2 else picks.random() * 2,
                datetime(*ends.timetuple()[:3], tzinfo=UTC) + GRACE if picks.random() < 0.9 else None, updated,
            )  # fmt: skip

    def _audit_log(self, picks: random.Random) -> Iterator[Row]:
        for _ in range(self.campaigns * 2):
            number = picks.randrange(self.campaigns)
            yield (
                self._past(picks, 30, 0), f"user{picks.randrange(50)}@example.com",
                picks.choice(("insert", "update", "update", "delete")), "campaigns", self.id("campaigns", number),
                {"status": "draft"}, {"status": self.status("campaigns", number), "note": picks.choice(_NAMES)},
                f"203.0.113.{picks.randrange(256)}",
            )  # fmt: skip

    def _user_sessions(self, picks: random.Random) -> Iterator[Row]:
        for n in range(self.accounts * 5):
            started = self._past(picks, 10, 0.1)
            yield (
                self.id("user_sessions", n), self.id("accounts", n % self.accounts), f"user{n}@example.com",
                picks.randbytes(32), f"198.51.100.{picks.randrange(256)}", "Mozilla/5.0 (X11; Linux x86_64)",
                started, min(started + DAY * picks.random(), self.now), started + DAY,
            )  # fmt: skip

    def _api_access_log(self, picks: random.Random) -> Iterator[Row]:
        for _ in range(self.campaigns * 5):
            yield (
                self._past(picks, 7, 0),
                None if picks.random() < 0.1 else self.id("user_sessions", picks.randrange(self.accounts * 5)),
                picks.choice(("GET", "GET", "PUT", "POST", "DELETE")),
                f"/api/v2/campaigns/{self.id('campaigns', picks.randrange(self.campaigns))}",
                picks.choices((200, 204, 400, 404, 500), (80, 10, 4, 5, 1))[0], round(picks.uniform(1, 900), 1),
                picks.randrange(100_000),
            )  # fmt: skip

    @cached_property
    def spend(self) -> dict[tuple[int, date], tuple[int, int, int]]:
        """(line item number, day) -> spent in `PRICE`, impressions that were paid for, clicks; of `days` days."""
        numbers = dict(zip(self.hot_line_items.ids, self.hot_line_items.numbers, strict=True))
        found: dict[tuple[int, date], list[int]] = defaultdict(lambda: [0, 0, 0])
        for start in self.hours():
            events, day = self.hour(start), start.date()
            wins = events.wins
            for key, price in zip(wins["line_item_id"], wins["win_price"].tolist(), strict=True):
                entry = found[numbers[key], day]
                entry[0] += price
                entry[1] += 1
            for key in events.clicks["line_item_id"]:
                found[numbers[key], day][2] += 1
        return {key: (spent, shown, clicks) for key, (spent, shown, clicks) in found.items()}

    def _past(self, picks: random.Random, most: float, least: float) -> datetime:
        """A time between so many days ago, with microseconds."""
        return self.now - timedelta(microseconds=picks.randrange(int(least * 86_400e6), int(most * 86_400e6)))

    def _run(self, picks: random.Random) -> tuple[datetime, datetime | None]:
        """Start and end of delivery; a few ended so long ago that nothing of them is left in Aerospike."""
        starts = self._past(picks, 90, 1)
        ends = None if picks.random() < 0.2 else starts + timedelta(days=picks.randrange(10, 200), seconds=86_399)
        # None is near the edge: whether a record is there must not depend on when a test looks.
        if ends is not None and abs(ends + GRACE - self.now) < DAY * 2:
            ends += DAY * 4
        return starts, ends


def _money(picks: random.Random, least: int, most: int) -> Decimal:
    return Decimal(picks.randrange(least, most)).scaleb(-2)


def _cents(spent: int) -> Decimal:
    return (Decimal(spent) / PRICE).quantize(Decimal("0.01"))


def json_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
