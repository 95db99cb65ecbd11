"""Seconds to plan the retention of many restore points, on one core.

    python bench/retention.py [--points 100000] [--rounds 5] [--json]

A full a day and an incremental each hour, for years; one in fifty is damaged, one in fifty not verified, one in a
hundred pinned. Kept 30 and 7 days (nearly everything goes), or all of it. All seconds are of the processor.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from datetime import UTC, datetime, timedelta

from dbops.backups.retention import Point, plan_retention
from dbops.platform import Retention
from report import Report, machine

START = datetime(2010, 1, 1, tzinfo=UTC)
TARGET = 2.0


def history(count: int) -> list[Point]:
    """In no order."""
    rng = random.Random(20261123)
    points: list[Point] = []
    for number in range(count):
        full = number % 24 == 0
        at = START + timedelta(hours=number)
        points.append(
            Point(
                id=f"{at:%Y%m%dT%H%M%SZ}-{'full' if full else 'incremental'}",
                snapshot_at=at,
                full=full,
                parent=None if full else points[-1].id,
                verified=rng.random() > 0.02,
                problem="slice_0000_0063.asb is missing" if rng.random() < 0.02 else None,
                pinned="by ops: audit" if rng.random() < 0.01 else None,
            )
        )
    rng.shuffle(points)
    return points


def main() -> int:
    parser = argparse.ArgumentParser(description="seconds to plan the retention of many restore points")
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    points = history(args.points)
    now = START + timedelta(hours=args.points)
    day = timedelta(days=1)
    policies = {
        "kept 30 d and 7 d": Retention(full=30 * day, incremental=7 * day),
        "kept 30 d, chains as a whole": Retention(full=30 * day, incremental=30 * day),
        "all kept": Retention(full=36500 * day, incremental=36500 * day),
    }
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in policies}
    for _ in range(args.rounds):
        for name, policy in policies.items():
            began = time.thread_time()
            plan = plan_retention(points, policy, now)
            seconds = time.thread_time() - began
            samples[name].append({"seconds": seconds, "points/s": args.points / seconds, "kept": len(plan.keep)})

    report = Report(machine())
    for name, values in samples.items():
        report.add(name, values)
    for name in policies:
        report.target(f"{args.points:,} points, {name}: seconds", report.figures[name]["seconds"], most=TARGET)
    return report.show(as_json=args.json)


if __name__ == "__main__":
    sys.exit(main())
