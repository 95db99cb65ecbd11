"""The application in a whole lab: three systems that hold the same world, and hold it again after a second seeding."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest
from application_world import records
from dbops_lab import seed as aerospike_only
from dbops_lab.application import lab as application
from dbops_lab.application.mapping import PAIRS
from dbops_lab.application.world import World
from dbops_lab.cli import app
from dbops_lab.lab import Lab
from typer.testing import CliRunner

WORLD = World(campaigns=20, line_items=60, creatives=80, days=2, requests_per_hour=60)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("application") / "lab", guarded=True)
    lab.up()
    yield lab
    lab.down()


def test_every_system_holds_the_world_whatever_was_there_before(lab: Lab) -> None:
    aerospike_only.seed(lab, 200)
    home = application.database(lab)
    home.create()
    with pytest.raises(LookupError, match="nothing was seeded"):
        home.world()
    done = application.seed(lab, WORLD, hourly=2)
    assert_holds(lab, WORLD, done)
    assert home.world() == WORLD


def assert_holds(lab: Lab, world: World, done: dict[str, int]) -> None:
    for pair in PAIRS.values():
        keys = [records(cluster, pair).keys() for cluster in application.clusters(lab)]
        assert len(keys) == 2
        assert keys[0] == keys[1]
        assert len(keys[0]) == done[f"{pair.namespace}.{pair.set}"]
    etl = application.etl(lab, world)
    with closing(etl.connect()) as connection, closing(connection.cursor()) as cursor:
        for table in ("wins", "users"):
            cursor.execute(f'select count(*), max("timestamp") from {table}')
            count, last = cursor.fetchone()
            assert count == done[table] == sum(world.hour(start).count(table) for start in world.hours())
            assert world.now.replace(tzinfo=None) - last < timedelta(hours=1)
    assert len(list(etl.runs("wins"))) == len(world.hours())


def run(lab: Lab, *words: str) -> Any:
    done = CliRunner().invoke(app, ["application", *words, "--state", str(lab.state), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_the_command_line_fills_changes_and_breaks_a_lab(lab: Lab) -> None:
    sizes = ["--campaigns", "20", "--line-items", "60", "--creatives", "80", "--requests", "60", "--seed", "2"]
    done = run(lab, "seed", *sizes, "--days", "1", "--hourly", "1")
    assert_holds(lab, application.database(lab).world(), done)
    changes = run(lab, "traffic", "--seconds", "0.5", "--rate", "40")
    assert 0 < sum(changes.values()) <= 21
    planted = run(lab, "drift", "--cluster", "apac", "--count", "2", "--kind", "missing")
    cluster = next(one for one in application.clusters(lab) if one.name == "apac")
    for one in planted:
        pair = PAIRS[one["table"]]
        assert one["key"] not in records(cluster, pair)
    loads = {load["table"]: load for load in run(lab, "hour", "--fault", "wins=glue_failed")}
    assert (loads["wins"]["state"], loads["wins"]["loaded"]) == ("FAILED", "0")
    assert loads["users"]["loaded"] == loads["users"]["expected"] != "0"
