"""The three databases compared with each other: what is planted is found in the system where it was planted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from consistency_world import World
from dbops import ledger
from dbops.cli import app as command
from dbops.consistency.campaigns import check_campaigns
from dbops.errors import ConfigurationError, RetryableError
from dbops_lab import connections
from dbops_lab.application.drift import plant_spend
from dbops_lab.testing import LabApp, LabEtl, LabPostgres, LabRedshift
from typer.testing import CliRunner


@pytest.fixture(scope="module")
def world(lab_app: LabApp, lab_etl: LabEtl, _redshift: LabRedshift, tmp_path_factory: pytest.TempPathFactory) -> World:
    lab_etl.seed(lab_app.world.days)
    return World(lab_app, lab_etl, _redshift, tmp_path_factory.mktemp("platform"))


@pytest.fixture(autouse=True)
def as_the_world_says(world: World) -> Iterator[None]:
    """Prices of wins and rows of spend are put back after each test."""
    yield
    world.app.reset()
    first, last = world.days[0], world.days[-1] + timedelta(days=1)
    with closing(world.etl.connect()) as connection, closing(connection.cursor()) as cursor:
        cursor.execute(
            "update wins set win_price = b.win_price from bidstream_v2 b where b.request_id = wins.request_id "
            'and wins."timestamp" >= %s and wins."timestamp" < %s and b.win_price <> wins.win_price',
            (f"{first:%Y-%m-%d}", f"{last:%Y-%m-%d}"),
        )


def test_a_world_is_consistent(world: World) -> None:
    found = world.spend()
    assert list(found) == list(world.systems.values())
    assert all(one.ok for one in found.values()), [one.message for one in found.values()]
    assert len({one.compared for one in found.values()}) == 1
    assert found[world.systems["postgres"]].compared > 300
    for one in check_campaigns(world.platform, world.connection, world.days):
        assert one.ok
        assert one.events > 0


@pytest.mark.parametrize("seed", range(6))
def test_planted_spend_is_found_in_its_system_and_nowhere_else(world: World, seed: int) -> None:
    planted = plant_spend(world.app.database, world.app.cluster, world.etl, seed, count=4)
    found = world.spend()
    wanted = {(world.systems[one.system], one.line_item_id, one.day, one.amount) for one in planted}
    got = {
        (item.system, item.line_item, item.day, item.off.quantize(Decimal("0.01")))
        for one in found.values()
        for item in one.differences
    }
    # The rounding of the row to cents is part of what differs.
    assert {one[:3] for one in got} == {one[:3] for one in wanted}
    for one in wanted:
        (near,) = [item for item in got if item[:3] == one[:3]]
        assert abs(near[3] - one[3]) <= Decimal("0.01")
    for system, one in found.items():
        mine = [item for item in planted if world.systems[item.system] == system]
        assert (one.differ, one.wrong_days) == (len(mine), tuple(sorted({item.day for item in mine})))


def test_what_is_within_the_tolerance_is_the_same(world: World) -> None:
    spend = world.platform.consistency
    assert spend is not None
    assert spend.spend is not None
    plant_spend(
        world.app.database, world.app.cluster, world.etl, 9, count=3, least=Decimal("1.00"), most=Decimal("2.00")
    )
    assert not all(one.ok for one in world.spend().values())
    tolerance = spend.spend.tolerance.model_copy(update={"amount": 2.01})
    part = spend.spend.model_copy(update={"tolerance": tolerance})
    before = world.platform
    world.platform = before.model_copy(update={"consistency": spend.model_copy(update={"spend": part})})
    try:
        assert all(one.ok for one in world.spend().values())
    finally:
        world.platform = before


def test_a_correction_that_is_on_its_way_is_no_difference(world: World) -> None:
    with world.app.database.session() as cursor:
        cursor.execute(
            "update spend_tracking set spent = spent + 5 where day = %s and line_item_id = "
            "(select min(line_item_id::text)::uuid from spend_tracking where day = %s)",
            [world.days[0], world.days[0]],
        )

    def carried(seconds: float) -> None:
        world.app.syncer.step()
        with closing(world.etl.connect()) as connection, closing(connection.cursor()) as cursor:
            cursor.execute(
                "update wins set win_price = win_price + 5 where win_id = (select min(win_id) from wins where "
                'line_item_id = (select min(line_item_id) from wins where "timestamp" >= %s and "timestamp" < %s) '
                'and "timestamp" >= %s and "timestamp" < %s)',
                (f"{world.days[0]}", f"{world.days[1]}") * 2,
            )

    assert all(one.ok for one in world.spend(sleep=carried).values())


def test_a_record_whose_time_is_over_is_not_asked_for(world: World) -> None:
    day = world.days[-1]
    with world.app.database.session() as cursor:
        cursor.execute("update spend_tracking set keep_until = now() - interval '1 hour' where day = %s", [day])
    world.app.syncer.step()
    found = world.spend([day])
    assert all(one.ok for one in found.values()), [one.message for one in found.values()]


def test_a_record_that_is_missing_is_a_difference(world: World) -> None:
    with world.app.database.session() as cursor:
        cursor.execute(
            "select line_item_id || ':' || to_char(day, 'YYYYMMDD'), spent from spend_tracking where day = %s "
            "order by spent desc limit 1",
            [world.days[-1]],
        )
        key, spent = cursor.fetchone()
    with closing(world.app.cluster.connect()) as client:
        client.remove(("spend", "spend", key))
    one = world.spend()[world.systems["aerospike"]]
    assert (one.differ, one.amount) == (1, spent)


def test_events_of_campaigns_that_do_not_exist_are_counted_by_table(world: World) -> None:
    hour = datetime(*world.days[-1].timetuple()[:3], 23, tzinfo=UTC)
    world.etl.forget(hour)
    loads = world.etl.run(hour, {"clicks": "unknown_campaign", "wins": "unknown_campaign"})
    try:
        found = {
            one.system.rpartition(".")[2]: one for one in check_campaigns(world.platform, world.connection, world.days)
        }
        assert {name: one.unknown for name, one in found.items()} == {
            "bidstream_v2": 0, "impressions": 0, "wins": loads["wins"].affected, "clicks": loads["clicks"].affected,
        }  # fmt: skip
        assert found["wins"].wrong_days == (world.days[-1],)
        assert found["wins"].campaigns == len(found["wins"].found) == loads["wins"].affected
        with world.app.database.session() as cursor:  # a campaign that is deleted softly is one
            cursor.execute("update campaigns set status = 'deleted'")
        again = check_campaigns(world.platform, world.connection, world.days)
        assert sum(one.unknown for one in again) == loads["wins"].affected + loads["clicks"].affected
    finally:
        world.etl.forget(hour)
        world.etl.run(hour)


def test_events_without_a_campaign_are_of_none_that_exists(world: World) -> None:
    day = world.days[-1]
    with closing(world.etl.connect()) as connection, closing(connection.cursor()) as cursor:
        cursor.execute(
            'select click_id, order_id from clicks where "timestamp" >= %s and "timestamp" < %s limit 2',
            (f"{day}", f"{day + timedelta(days=1)}"),
        )
        before = cursor.fetchall()
        for click, _ in before:
            cursor.execute("update clicks set order_id = null where click_id = %s", (click,))
        try:
            found = {one.system: one for one in check_campaigns(world.platform, world.connection, world.days)}
        finally:
            for click, campaign in before:
                cursor.execute("update clicks set order_id = %s where click_id = %s", (campaign, click))
    clicks = found[f"redshift/{world.etl.schema}.clicks"]
    assert (clicks.ok, clicks.unknown, clicks.campaigns) == (False, len(before), 1)
    assert [(one.campaign, one.day) for one in clicks.found] == [("NULL", day)]


def test_a_day_of_which_no_system_has_anything_is_not_well(world: World) -> None:
    day = world.days[0] - timedelta(days=300)
    for one in world.spend([day]).values():
        assert (one.ok, one.wrong_days) == (False, (day,))
        assert "there is nothing to compare" in one.message
    for found in check_campaigns(world.platform, world.connection, [day]):
        assert (found.ok, found.wrong_days) == (False, (day,))
        assert "there is nothing to look at" in found.message


def test_a_database_that_does_not_answer_is_no_result(world: World) -> None:
    down = world.connection("dbops_redshift")
    lost = {"dbops_redshift": type(down)(**{**vars(down), "port": 1})}
    before = world._infos
    world._infos = before | lost
    try:
        with pytest.raises(RetryableError, match="connect to Redshift"):
            world.spend()
    finally:
        world._infos = before


def test_a_table_that_is_not_there_is_said(world: World) -> None:
    with world.app.database.session() as cursor:
        cursor.execute("alter table spend_tracking rename column spent to paid")
    try:
        with pytest.raises(ConfigurationError, match="has no column spent"):
            world.spend()
    finally:
        with world.app.database.session() as cursor:
            cursor.execute("alter table spend_tracking rename column paid to spent")


def test_the_command_says_what_differs_and_where(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in world.environment().items():
        monkeypatch.setenv(name, value)
    run = CliRunner().invoke
    days = ["--first-day", str(world.days[0]), "--last-day", str(world.days[-1])]
    assert run(command, ["consistency", "check", *days]).exit_code == 0
    (planted,) = plant_spend(world.app.database, world.app.cluster, world.etl, 3, count=1, systems=["postgres"])
    shown = run(command, ["consistency", "check", *days])
    assert shown.exit_code == 1
    assert f"postgres/spend_tracking: {planted.day} {planted.line_item_id}" in shown.stdout
    found = json.loads(run(command, ["consistency", "check", *days, "--json"]).stdout)
    assert {one["system"]: one["ok"] for one in found["results"] if "differ" in one} == {
        system: system != "postgres/spend_tracking" for system in world.systems.values()
    }
    assert run(command, ["consistency", "check", "--first-day", "2020-01-01"]).exit_code == 2


def test_the_command_tells_what_could_not_be_looked_at(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in world.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AIRFLOW_CONN_AEROSPIKE_EU", json.dumps({"conn_type": "aerospike", "host": "127.0.0.1:1"}))
    shown = CliRunner().invoke(command, ["consistency", "check"])
    assert shown.exit_code == 2
    assert "spend:" in shown.stderr
    assert "redshift/" in shown.stdout  # the campaigns were looked at


def test_the_history_of_checks_is_shown_by_target(
    lab_postgres: LabPostgres, monkeypatch: pytest.MonkeyPatch, world: World
) -> None:
    info = lab_postgres.new_database()
    engine = ledger.connect(info)
    ledger.migrate(engine)
    made = {"dbops_ledger": connections.postgres(info.port or 0, info.login or "", info.password or "", info.schema)}
    for name, value in {**world.environment(), **connections.variables(made)}.items():
        monkeypatch.setenv(name, value)
    now = datetime.now(UTC)
    for days, value in ((3, 0.0), (2, 8.0), (0, 4.0)):
        at = now - timedelta(days=days)
        ledger.record_check(
            engine, name="sync_validation", target="eu/bidder.orders", run=str(days), at=at, ok=not value, value=value,
            limit=0, unit="rows", message=f"{value:g} differ",
        )  # fmt: skip
    run = CliRunner().invoke
    shown = run(command, ["ledger", "checks", "--name", "sync_"], env={"COLUMNS": "200"})
    assert shown.exit_code == 1
    for part in ("eu/bidder.orders", "2 of 3", "▁█ ▅"):
        assert part in shown.stdout, part
    (found,) = json.loads(run(command, ["ledger", "checks", "--json"]).stdout)
    assert [day["failed"] for day in found["days"]] == [0, 1, 1]
    assert run(command, ["ledger", "checks", "--name", "etl_"]).exit_code == 0
