"""The checks of every quarter of an hour, on real servers with real trouble."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from dbops.errors import FinalError
from dbops.platform import Platform, Postgres, PostgresHealth, Severity, load_platform
from dbops.platform.postgres import DurationLevels, Levels
from dbops.postgres.health import (
    BLOCKED,
    CHECKSUMS,
    CONNECTIONS,
    DISK,
    IDLE,
    LAG,
    LONG,
    QUERIES,
    REACHABLE,
    RUNBOOKS,
    SEQUENCES,
    SLOTS,
    TITLES,
    WRAPAROUND,
    Check,
    Health,
    check_health,
    could_not_look,
)
from dbops.postgres.reports import ExtensionMissing
from dbops.postgres.session import PostgresUnreachable, RightsMissing, Session
from dbops.postgres.statements import Counters
from dbops_lab.supervisor import Supervisor, free_port
from postgres_world import MONITOR, OWNER, World, grant, start_standby

PROJECT = Path(__file__).resolve().parents[3]
QUICK = PostgresHealth(
    idle_in_transaction=DurationLevels(warn=timedelta(milliseconds=200), critical=timedelta(hours=1)),
    blocked=DurationLevels(warn=timedelta(milliseconds=200), critical=timedelta(hours=1)),
    slot_kept_mb=Levels(warn=1, critical=1000),
    least_calls=10,
)


@pytest.fixture
def platform() -> Platform:
    return load_platform(PROJECT / "include/platform/lab.yaml")


def look(
    world: World,
    platform: Platform,
    database: str,
    before: Counters | None = None,
    role: str = MONITOR,
    bytes_behind: float = 50,
    **more: Any,
) -> Health:
    health = QUICK.model_copy(update={"replication_lag_mb": Levels(warn=bytes_behind, critical=1000)})
    postgres = Postgres(name="shop", databases=(database,), health=health, **more)
    return check_health(
        platform, postgres, lambda name: world.session(name, role, read_only=True), before, datetime.now(UTC)
    )


def by_name(health: Health) -> Mapping[str, Check]:
    assert len({check.key for check in health.checks}) == len(health.checks)
    return {check.name: check for check in health.checks}


def test_a_healthy_instance_is_well_in_every_check(every_world: World, platform: Platform) -> None:
    database = every_world.new_database()
    found = by_name(look(every_world, platform, database, storage_gb=100))
    assert set(found) == set(TITLES) == set(RUNBOOKS)
    assert [check for check in found.values() if not check.ok] == []
    assert found[CONNECTIONS].unit == "%"
    assert "PostgreSQL" in found[REACHABLE].message
    assert found[SEQUENCES].target == f"shop/{database}"
    assert found[DISK].value is not None
    assert found[LAG].message == "no standby streams from this server"


def test_a_volume_whose_size_cannot_be_asked_for_is_an_error_of_that_check_alone(
    world17: World, platform: Platform
) -> None:
    database = world17.new_database()
    postgres = Postgres(name="shop", databases=(database,))

    def checks(volume: Callable[[], float | None]) -> Mapping[str, Check]:
        return by_name(check_health(platform, postgres, world17.session, None, datetime.now(UTC), volume))

    def unknown() -> float:
        raise FinalError("describe instance shop: not allowed")

    found = checks(unknown)
    assert [check.name for check in found.values() if check.error] == [DISK]
    assert found[DISK].message == "could not look: describe instance shop: not allowed"
    assert DISK not in checks(lambda: None)
    assert checks(lambda: 0.001)[DISK].severity is Severity.CRITICAL


def test_idle_transactions_and_those_who_wait_for_them_are_named(world: World, platform: Platform) -> None:
    database = world.new_database()
    world.run(database, "create table t (id int)")
    idle, waiting = world.connect(database), world.connect(database)
    with idle.cursor() as cursor:
        cursor.execute("set application_name = 'terminal'")
        cursor.execute("lock table t")
    waiting.autocommit = True
    thread = threading.Thread(target=lambda: waiting.cursor().execute("set application_name='syncer'; table t"))
    thread.start()
    time.sleep(0.6)
    found = by_name(look(world, platform, database))
    idle.close()
    thread.join()
    waiting.close()
    assert found[IDLE].severity is Severity.WARNING
    assert "'terminal'" in found[IDLE].message
    assert found[BLOCKED].severity is Severity.WARNING
    assert f"{OWNER}@{database} 'syncer'" in found[BLOCKED].message
    assert f"held by pid {found[IDLE].details['sessions'][0]['pid']} " in found[BLOCKED].message
    assert "public.t" in found[BLOCKED].message
    assert found[LONG].ok


def test_what_statements_took_is_counted_between_two_looks(world: World, platform: Platform) -> None:
    database = world.new_database()
    with world.admin(database) as cursor:
        cursor.execute("select pg_stat_statements_reset()")
    world.run(database, *["select pg_sleep(0.2) /* before */"] * 2)
    first = look(world, platform, database)
    assert "nothing to compare" in by_name(first)[QUERIES].message
    assert by_name(first)[QUERIES].undecided
    assert first.counters is not None
    world.run(database, *["select 1 as one"] * 400)
    second = look(world, platform, database, first.counters)
    fast = by_name(second)[QUERIES]
    assert fast.ok
    assert fast.value is not None
    assert fast.value < 50, "the slow ones were before"
    limit = platform.limits[QUERIES].model_copy(update={"warn": 100.0})
    slow = platform.model_copy(update={"limits": {**platform.limits, QUERIES: limit}})
    world.run(database, *["select pg_sleep(0.12)"] * 15)
    third = by_name(look(world, slow, database, second.counters))[QUERIES]
    assert (third.severity, third.limit) == (Severity.WARNING, 100.0)
    assert "select pg_sleep($1)" in third.message
    assert f"{OWNER}@{database}" in third.message
    with world.admin(database) as cursor:
        cursor.execute("select pg_stat_statements_reset()")
    assert "too few" in by_name(look(world, slow, database, second.counters))[QUERIES].message


def test_a_slot_that_nobody_reads_is_found_before_the_disk_is_full(world: World, platform: Platform) -> None:
    database = world.new_database()
    with world.admin(database) as cursor:
        cursor.execute("select pg_create_physical_replication_slot('forgotten', true)")
        try:
            found = by_name(look(world, platform, database))[SLOTS]
            assert (found.severity, "forgotten: nobody reads it" in found.message) == (Severity.WARNING, True)
        finally:
            cursor.execute("select pg_drop_replication_slot('forgotten')")


def test_a_sequence_and_the_disk_that_run_out_are_told_with_their_limits(world17: World, platform: Platform) -> None:
    database = world17.new_database()
    world17.run(database, "create table small (id smallserial)", "select setval('small_id_seq', 32000)")
    grant(world17.server, database, MONITOR)
    found = by_name(look(world17, platform, database, storage_gb=0.001))
    assert (found[SEQUENCES].severity, found[SEQUENCES].limit) == (Severity.CRITICAL, 90)
    assert "small_id_seq of small.id" in found[SEQUENCES].message
    assert (found[DISK].severity, found[DISK].limit) == (Severity.CRITICAL, 85)


def test_what_a_role_may_not_see_is_an_error_and_no_good_news(world: World, platform: Platform) -> None:
    database = world.new_database()
    world.run(database, "create table t (id serial)")
    with world.admin() as cursor:
        cursor.execute("create role nobody_special login password 'x'")
    world.passwords["nobody_special"] = "x"
    health = look(world, platform, database, role="nobody_special")
    found = by_name(health)
    for name in (IDLE, LONG, BLOCKED, QUERIES, LAG, SEQUENCES):
        assert isinstance(found[name].error, RightsMissing), name
        assert not found[name].ok
    assert found[WRAPAROUND].ok
    error = could_not_look(health.checks)
    assert isinstance(error, FinalError)
    assert "pg_monitor" in str(error)
    with world.admin() as cursor:
        cursor.execute("drop role nobody_special")


def test_without_pg_stat_statements_only_that_check_is_blind(world17: World, platform: Platform) -> None:
    database = world17.new_database()
    with world17.admin(database) as cursor:
        cursor.execute("drop extension pg_stat_statements")
    health = look(world17, platform, database)
    assert [check.name for check in health.checks if not check.ok] == [QUERIES]
    assert isinstance(by_name(health)[QUERIES].error, ExtensionMissing)
    assert health.counters is None


def test_a_server_that_does_not_answer_is_critical_and_every_check_could_not_look(
    world17: World, platform: Platform
) -> None:
    info = replace(world17.info(MONITOR), host="127.0.0.1", port=free_port())
    postgres = Postgres(name="shop", databases=("a", "b"))
    health = check_health(
        platform, postgres, lambda database: Session(info, database=database), None, datetime.now(UTC)
    )
    reachable = [check for check in health.checks if check.name == REACHABLE]
    assert [check.severity for check in reachable] == [Severity.CRITICAL]
    assert all(check.error for check in health.checks if check.name != REACHABLE)
    assert isinstance(could_not_look(health.checks), PostgresUnreachable)


def test_a_connection_that_is_lost_in_the_middle_leaves_no_check_well(world17: World, platform: Platform) -> None:
    database = world17.new_database()

    def cut(name: str) -> Session:
        session = world17.session(name)
        with world17.admin() as cursor:
            cursor.execute("select pg_terminate_backend(%s, 5000)", [session.pid])
        return session

    postgres = Postgres(name="shop", databases=(database,))
    health = check_health(platform, postgres, cut, None, datetime.now(UTC))
    assert all(check.error for check in health.checks if check.name != REACHABLE)
    assert isinstance(could_not_look(health.checks), PostgresUnreachable)
    assert CHECKSUMS in {check.name for check in health.checks}


def test_a_standby_that_falls_behind_is_told_by_both_sides_and_can_be_looked_at_itself(
    world17: World, platform: Platform, lab_supervisor: Supervisor
) -> None:
    database = world17.new_database()
    world17.run(database, "create table t (id int)")
    standby = start_standby(lab_supervisor, world17)
    strict = platform.model_copy(
        update={"limits": {**platform.limits, LAG: platform.limits[LAG].model_copy(update={"warn": 0.3})}}
    )
    info = replace(world17.info(MONITOR), port=standby.port)
    postgres = Postgres(name="replica", databases=(database,))
    other = standby.connect("postgres")
    other.autocommit = True
    try:
        until = time.monotonic() + 10
        while "streaming" not in (said := by_name(look(world17, platform, database))[LAG].message):
            assert time.monotonic() < until, said
            time.sleep(0.1)
        itself = check_health(platform, postgres, lambda name: Session(info, database=name), None, datetime.now(UTC))
        assert [check.message for check in itself.checks if not check.ok] == []
        assert "this server: standby" in by_name(itself)[LAG].message

        with other.cursor() as cursor:
            cursor.execute("select pg_wal_replay_pause()")
            world17.run(database, "insert into t select generate_series(1, 40000)")
            time.sleep(1)
            behind = by_name(look(world17, strict, database, bytes_behind=1))[LAG]
            itself = check_health(strict, postgres, lambda name: Session(info, database=name), None, datetime.now(UTC))
            cursor.execute("select pg_wal_replay_resume()")
        assert by_name(itself)[LAG].severity is Severity.WARNING
        assert behind.severity is not None, behind.message
        assert behind.details["standbys"][0]["behind_bytes"] > 1_000_000
    finally:
        other.close()
        lab_supervisor.stop([standby.part.name])
