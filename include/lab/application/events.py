"""Events of the auctions, hour by hour: bid requests, impressions, wins, clicks, users, segment events.

An hour is made from the world's seed and the hour alone, so that what its files hold, what the warehouse should hold,
and what was spent that day are the same numbers without anything being stored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from dbops_lab.application.world import World

HOUR = timedelta(hours=1)
MICROS = 3_600_000_000  # of an hour
PRICE = 10_000  # prices are whole numbers of 1/10000, as decimal(12,4) holds them
TABLES = ("bidstream_v2", "impressions", "wins", "clicks", "users", "dmp_events")
EXCHANGES = np.array(["bidswitch", "adx", "pubmatic", "openx", "smaato"], dtype=object)
COUNTRIES = np.array(["DE", "FR", "GB", "ES", "IT", "NL", "PL", "SE", "JP", "KR", "SG", "AU"], dtype=object)
DEVICES = np.array(["phone", "desktop", "tablet", "tv"], dtype=object)
DOMAINS = np.array(
    ["news.example", "wetter.example", "マンガ.example", "foot.example", "jeux.example", "shop.example"], dtype=object
)
PARTNERS = np.array(["bidswitch", "liveramp", "id5", "unified_id"], dtype=object)
_WEEKDAYS = (1.0, 1.02, 1.03, 1.01, 0.97, 0.82, 0.8)

Column = np.ndarray[Any, Any]
Rows = Mapping[str, Column]
"""The rows of an hour by column: `timestamp` in microseconds since 1970, prices as `PRICE` says, None for NULL."""


def busyness(hour: datetime) -> float:
    """How busy an hour is beside the average one: nights are quiet, evenings are not, weekends are a fifth quieter."""
    return (1 + 0.55 * math.sin((hour.hour - 9) / 24 * 2 * math.pi)) * _WEEKDAYS[hour.weekday()]


@dataclass(frozen=True)
class Hour:
    """All events of one hour, each table made when it is first asked for."""

    world: World
    start: datetime

    def rows(self, table: str) -> Rows:
        """:param table: one of `TABLES`."""
        found: Rows = getattr(self, table)
        return found

    def count(self, table: str) -> int:
        return len(self.rows(table)["timestamp"])

    @cached_property
    def bidstream_v2(self) -> Rows:
        draw = self._draw("requests")
        count = max(1, round(self.world.requests_per_hour * busyness(self.start) * draw.uniform(0.95, 1.05)))
        hot = self.world.hot_line_items
        # Few line items get most of the traffic: the square of a uniform number prefers low ones.
        picks = (draw.random(count) ** 2 * len(hot.numbers)).astype(np.int64)
        bids = draw.integers(PRICE // 10, 12 * PRICE, count)
        share = draw.uniform(0.55, 0.98, count)
        offsets = np.sort(draw.integers(0, MICROS - 60_000_000, count))  # what follows a request is in the same hour
        won = draw.random(count) < 0.22
        return {
            "request_id": self._ids("b1d", count),
            "timestamp": self._start + offsets,
            "exchange": EXCHANGES[draw.integers(0, len(EXCHANGES), count)],
            "country": COUNTRIES[draw.integers(0, len(COUNTRIES), count)],
            "device": DEVICES[draw.integers(0, len(DEVICES), count)],
            "domain": DOMAINS[draw.integers(0, len(DOMAINS), count)],
            "user_id": self.world.user_ids[draw.integers(0, len(self.world.user_ids), count)],
            "order_id": hot.campaigns[picks],
            "line_item_id": hot.ids[picks],
            "creative_id": hot.creatives[picks],
            "bid_price": bids,
            "win_price": np.where(won, (bids * share).astype(np.int64).astype(object), None),
        }

    @cached_property
    def impressions(self) -> Rows:
        """Every request that was won was shown, and some others that another system won for us."""
        requests, draw = self.bidstream_v2, self._draw("impressions")
        won = np.array([price is not None for price in requests["win_price"]])
        shown = np.flatnonzero(won | (draw.random(len(won)) < 0.15))
        clicked = draw.random(len(shown)) < 0.04
        return {
            "impression_id": self._ids("1a9", len(shown)),
            "timestamp": requests["timestamp"][shown] + draw.integers(50_000, 2_000_000, len(shown)),
            "request_id": requests["request_id"][shown],
            "order_id": requests["order_id"][shown],
            "line_item_id": requests["line_item_id"][shown],
            "creative_id": requests["creative_id"][shown],
            "user_id": requests["user_id"][shown],
            "country": requests["country"][shown],
            "event_type": np.where(clicked, "click", "impression").astype(object),
            "bid_price": requests["bid_price"][shown],
        }

    @cached_property
    def wins(self) -> Rows:
        impressions, draw = self.impressions, self._draw("wins")
        prices = dict(zip(self.bidstream_v2["request_id"], self.bidstream_v2["win_price"], strict=True))
        paid = np.array([prices[request] for request in impressions["request_id"]], dtype=object)
        won = np.flatnonzero([price is not None for price in paid])
        return {
            "win_id": self._ids("3a1", len(won)),
            "timestamp": impressions["timestamp"][won] + draw.integers(100_000, 20_000_000, len(won)),
            "impression_id": impressions["impression_id"][won],
            "request_id": impressions["request_id"][won],
            "order_id": impressions["order_id"][won],
            "line_item_id": impressions["line_item_id"][won],
            "creative_id": impressions["creative_id"][won],
            "win_price": paid[won].astype(np.int64),
        }

    @cached_property
    def clicks(self) -> Rows:
        impressions, draw = self.impressions, self._draw("clicks")
        clicked = np.flatnonzero(impressions["event_type"] == "click")
        return {
            "click_id": self._ids("c11", len(clicked)),
            "timestamp": impressions["timestamp"][clicked] + draw.integers(500_000, 30_000_000, len(clicked)),
            "impression_id": impressions["impression_id"][clicked],
            "order_id": impressions["order_id"][clicked],
            "line_item_id": impressions["line_item_id"][clicked],
            "creative_id": impressions["creative_id"][clicked],
            "user_id": impressions["user_id"][clicked],
        }

    @cached_property
    def users(self) -> Rows:
        draw = self._draw("users")
        count = max(1, self.count("bidstream_v2") // 5)
        return {
            "sync_id": self._ids("0e5", count),
            "timestamp": self._start + np.sort(draw.integers(0, MICROS, count)),
            "user_id": self.world.user_ids[draw.integers(0, len(self.world.user_ids), count)],
            "partner": PARTNERS[draw.integers(0, len(PARTNERS), count)],
            "country": COUNTRIES[draw.integers(0, len(COUNTRIES), count)],
            "has_consent": draw.random(count) < 0.85,
        }

    @cached_property
    def dmp_events(self) -> Rows:
        draw = self._draw("dmp_events")
        count = max(1, self.count("bidstream_v2") // 4)
        return {
            "event_id": self._ids("d3b", count),
            "timestamp": self._start + np.sort(draw.integers(0, MICROS, count)),
            "user_id": self.world.user_ids[draw.integers(0, len(self.world.user_ids), count)],
            "segment_id": draw.integers(1, 5000, count),
            "source": PARTNERS[draw.integers(0, len(PARTNERS), count)],
        }

    @property
    def _number(self) -> int:
        return int(self.start.timestamp()) // 3600

    @property
    def _start(self) -> int:
        return self._number * MICROS

    def _draw(self, what: str) -> np.random.Generator:
        return np.random.default_rng([self.world.seed, self._number, *what.encode()])

    def _ids(self, kind: str, count: int) -> Column:
        """Identifiers like UUIDs that no other hour or table has; `kind` is three hexadecimal digits."""
        head, random = f"{self._number:08x}", self._draw(kind).integers(0, 1 << 48, count).tolist()
        ids = [
            f"{head}-{i >> 14:04x}-4{kind}-{0x8000 | i & 0x3FFF:04x}-{number:012x}" for i, number in enumerate(random)
        ]
        return np.array(ids, dtype=object)


def floor_hour(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def hours(start: datetime, end: datetime) -> list[datetime]:
    """Hours from `start` to before `end`."""
    first = floor_hour(start)
    return [first + HOUR * number for number in range(max(0, math.ceil((end - first) / HOUR)))]
