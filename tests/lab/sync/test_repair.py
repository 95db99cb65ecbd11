"""Repairs and the command: by the syncer, directly, refused; what a lost connection does on either side."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from dbops.aerospike.cluster import Access
from dbops.cli import app as command
from dbops.errors import RetryableError
from dbops.platform.sync import SyncPair
from dbops.sync import postgres
from dbops.sync.postgres import PostgresUnreachable
from dbops.sync.repair import SyncerRefused, SyncerUnreachable, TooMuchDrift, plan_repair, repair
from dbops.sync.status import counts, table_status
from dbops.sync.validate import ClusterChanged, Validation
from dbops_lab import connections
from dbops_lab.application.drift import KINDS, plant
from dbops_lab.supervisor import free_port
from dbops_lab.testing import LabApp
from sync_world import PROJECT, access, named, pairs, sync, validate
from typer.testing import CliRunner


@pytest.fixture
def app(lab_app: LabApp) -> LabApp:
    lab_app.reset()
    return lab_app


def drifted(app: LabApp, count: int = 8) -> list[Any]:
    """Every kind of drift, and what a validation says of all pairs."""
    for number, kind in enumerate(KINDS):
        plant(app.database, app.cluster, number, kinds=[kind], tables=["campaigns", "creatives"], count=1)
    return [validate(app, pair, listed=1000, sleep=lambda seconds: None) for pair in pairs().values()]


@pytest.mark.parametrize("by", ["syncer", "direct"])
def test_a_repair_makes_both_sides_the_same_and_once_more_changes_nothing(app: LabApp, by: str) -> None:
    config = sync().model_copy(update={"repair": by})
    plan = plan_repair(drifted(app), 100)
    assert {one.kind for one in plan} == {"missing", "extra", "different"}
    reach = {"postgres": app.info(), "syncer": app.info("dbops_syncer"), "accesses": {"app": access(app)}}
    for _ in range(2):
        done = repair(config, plan, **reach)  # type: ignore[arg-type]
        assert done["published"] > 0
        for pair in pairs().values():
            result = validate(app, pair, sleep=lambda seconds: None)
            assert result.ok, (pair.name, result.differences)


@pytest.mark.parametrize("table", list(pairs()))
def test_a_direct_repair_writes_the_types_that_the_syncer_writes(app: LabApp, table: str) -> None:
    pair, config = pairs()[table], sync().model_copy(update={"repair": "direct"})
    with closing(app.cluster.connect()) as client:
        found = client.query(pair.namespace, pair.set).results()[:40]
        written = {bytes(key[3]): _types(pair, bins) for key, _, bins in found}
        for key, _, _ in found:
            client.remove(key)
        plan = plan_repair([validate(app, pair, listed=1000, sleep=lambda seconds: None)], 100)
        assert [one.kind for one in plan] == ["missing"] * len(written)
        repair(config, plan, postgres=app.info(), syncer=None, accesses={"app": access(app)})
        assert {bytes(key[3]): _types(pair, client.get(key)[2]) for key, _, _ in found} == written
    assert {name for types in written.values() for name in types} == {one.bin for one in pair.columns}


def _types(pair: SyncPair, bins: dict[str, Any]) -> dict[str, type]:
    return {one.bin: type(bins[one.bin]) for one in pair.columns if one.bin in bins}


def test_too_much_drift_is_not_repaired(app: LabApp) -> None:
    with pytest.raises(TooMuchDrift, match=r"more than `most_repaired` \(1\)"):
        plan_repair(drifted(app), 1)


def test_a_syncer_that_refuses_or_is_not_there_is_told_apart(app: LabApp) -> None:
    plan, config, info = plan_repair(drifted(app), 100), sync(), app.info("dbops_syncer")
    reach = {"postgres": app.info(), "accesses": {}}
    with pytest.raises(SyncerRefused, match=r"401.*the token is not the syncer's"):
        repair(config, plan, syncer=replace(info, password="wrong"), **reach)  # type: ignore[arg-type]
    nowhere = replace(info, host=f"http://127.0.0.1:{free_port()}", port=None)
    with pytest.raises(SyncerUnreachable, match="is it running"):
        repair(config, plan, syncer=nowhere, **reach)  # type: ignore[arg-type]
    app.syncer.pause()
    with pytest.raises(SyncerUnreachable, match=r"503.*paused"):
        repair(config, plan, syncer=info, **reach)  # type: ignore[arg-type]
    with pytest.raises(SyncerRefused, match="does not store the key"):
        repair(config, [replace(plan[0], key=None)], syncer=info, **reach)  # type: ignore[arg-type]


def test_status_and_counts_say_what_syncer_and_nodes_say(app: LabApp) -> None:
    from dbops.aerospike.cluster import Cluster

    config = sync()
    assert config.status is not None
    before = table_status(app.info(), config.status, config.pairs)
    assert {one.table: one.problems for one in before}["campaigns"] == ["it was never in step"]
    app.syncer.step()
    assert [one.problems for one in table_status(app.info(), config.status, config.pairs)] == [[]] * 4
    app.syncer.pause(announce=True)
    paused = table_status(app.info(), config.status, config.pairs)
    assert {tuple(one.problems) for one in paused} == {("the syncer is paused",)}
    app.syncer.resume()
    app.syncer.order({"kind": "fail", "table": "creatives", "times": 99})
    with app.database.session() as cursor:
        cursor.execute("update creatives set width = 1 where id in (select id from creatives limit 1)")
    app.syncer.step()
    failing = {one.table: one for one in table_status(app.info(), config.status, config.pairs)}["creatives"]
    assert failing.problems
    assert "the lab was told to fail" in failing.problems[0]
    with Cluster(access(app)) as cluster:
        cluster.refresh()
        found = {pair.set: counts(cluster, pair) for pair in pairs().values()}
    objects = app.standin.state()["objects"]
    assert {name: one["set_objects"] for name, one in found.items()} == {**objects["bidder"], **objects["spend"]}
    assert found["orders"]["namespace_master_objects"] == sum(objects["bidder"].values())


def test_the_driver_reads_where_the_socket_is_not_to_be_read(app: LabApp, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(app.database, app.cluster, 5, tables=["creatives"], count=5)
    quick = validate(app, pairs()["creatives"], sleep=lambda seconds: None)
    monkeypatch.setattr(postgres, "copy_out", postgres._copy_by_driver)  # as with TLS
    slow = validate(app, pairs()["creatives"], sleep=lambda seconds: None)
    assert named(slow) == named(quick)
    assert len(named(slow)) == 5
    assert (slow.rows, slow.records) == (quick.rows, quick.records)


def test_a_connection_of_postgresql_that_is_lost_in_mid_stream_can_be_tried_again(
    app: LabApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_BLOCK", 1 << 14)
    cut = []
    read = postgres._read_copy

    def dying(link: Any, parse: Any) -> None:
        def once(source: Any, pos: int, end: int) -> tuple[int, int]:
            if not cut:
                with app.database.session() as cursor:
                    cursor.execute(
                        "select pg_terminate_backend(pid) from pg_stat_activity "
                        "where application_name = 'dbops sync' and datname = current_database()"
                    )
                    cut.append(cursor.rowcount)
            return parse(source, pos, end)  # type: ignore[no-any-return]

        read(link, once)

    monkeypatch.setattr(postgres, "_read_copy", dying)
    with app.database.session() as cursor:
        cursor.execute("update creatives set markup = repeat('x', 60000)")
    try:
        with pytest.raises(PostgresUnreachable, match=r"read creatives \(connection dbops_app\)"):
            validate(app, pairs()["creatives"])
        assert cut == [1]
        assert validate(app, pairs()["creatives"], sleep=lambda seconds: None).rows > 0
    finally:
        app.reset()


def test_a_connection_of_aerospike_that_is_lost_is_taken_up_again(app: LabApp) -> None:
    app.standin.inject(drop_query={"records": 100, "times": 3})
    try:
        result = validate(app, pairs()["creatives"])
    finally:
        app.standin.inject(drop_query={"records": 1, "times": 0})
    assert result.ok, result.message
    assert result.rows == result.records


def test_a_cluster_that_changes_while_it_is_read_gives_no_answer(app: LabApp, monkeypatch: pytest.MonkeyPatch) -> None:
    from dbops.sync.records import Records

    keys = iter(("A1", "A1", "B2"))
    state = Records.state

    def changing(self: Records) -> str:
        state(self)
        return next(keys)

    monkeypatch.setattr(Records, "state", changing)
    assert validate(app, pairs()["campaigns"]).ok
    keys = iter(("A1", "B2"))
    with pytest.raises(ClusterChanged, match="the cluster changed while it was read"):
        validate(app, pairs()["campaigns"])


def test_a_side_that_is_not_there_is_said_so(app: LabApp) -> None:
    info = replace(app.info(), port=free_port())
    with pytest.raises(PostgresUnreachable, match=r"connect to PostgreSQL at 127\.0\.0\.1"):
        validate(app, pairs()["campaigns"], postgres=info)
    nobody = Access("app", (("127.0.0.1", free_port()),))
    with pytest.raises(RetryableError, match="none of 1 addresses answers"):
        Validation(pairs()["campaigns"], "app", app.info(), nobody, lag=timedelta(0)).run()


# ------------------------------------------------------------------ the command


@pytest.fixture
def environment(app: LabApp, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> LabApp:
    made = {
        "aerospike_eu": app.connections["aerospike_app"],
        "dbops_app": app.connections["dbops_app"],
        "dbops_syncer": app.connections["dbops_syncer"],
    }
    for name, value in connections.variables(made).items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "lab.yaml"
    file.write_text((PROJECT / "include/platform/lab.yaml").read_text().replace("  lag: 5s", "  lag: 0s"))
    monkeypatch.setenv("DBOPS_PLATFORM", str(file))
    return app


def test_the_command_finds_names_and_repairs(environment: LabApp) -> None:
    run = CliRunner().invoke
    clean = run(command, ["sync", "validate", "-c", "eu"])
    assert clean.exit_code == 0, clean.output
    assert "0 differences" in clean.output

    planted = plant(environment.database, environment.cluster, 9, count=4, tables=["campaigns"])
    found = run(command, ["sync", "validate", "-c", "eu", "--json"])
    assert found.exit_code == 1
    document = json.loads(found.stdout)
    (orders,) = (one for one in document["results"] if one["target"] == "eu/bidder.orders")
    assert {one["key"] for one in orders["differences"]} == {one.key for one in planted}

    dry = run(command, ["sync", "repair", "-c", "eu", "-p", "campaigns"])
    assert dry.exit_code == 0
    assert "nothing was touched; --apply 4 does it" in dry.output
    wrong = run(command, ["sync", "repair", "-c", "eu", "-p", "campaigns", "--apply", "3"])
    assert wrong.exit_code == 2
    done = run(command, ["sync", "repair", "-c", "eu", "-p", "campaigns", "--apply", "4"])
    assert done.exit_code == 0, done.output
    assert "0 differences" in done.output
    assert run(command, ["sync", "status"]).exit_code == 1
    environment.syncer.step()
    assert run(command, ["sync", "status"]).exit_code == 0


def test_the_command_says_what_it_could_not_look_at(environment: LabApp, monkeypatch: pytest.MonkeyPatch) -> None:
    run = CliRunner().invoke
    nowhere = {"aerospike_apac": connections.aerospike([free_port()])}
    for name, value in connections.variables(nowhere).items():
        monkeypatch.setenv(name, value)
    found = run(command, ["sync", "validate", "-p", "campaigns", "--json"])
    assert found.exit_code == 2
    document = json.loads(found.stdout)
    assert [one["target"] for one in document["results"]] == ["eu/bidder.orders"]
    assert "none of 1 addresses answers" in document["failed"]["apac/bidder.orders"]
    assert run(command, ["sync", "validate", "-p", "nothing"]).exit_code == 2


def test_a_pair_that_does_not_fit_its_table_keeps_no_other_from_being_compared(environment: LabApp) -> None:
    with environment.database.session() as cursor:
        cursor.execute("alter table creatives rename column is_approved to approved")
    try:
        found = CliRunner().invoke(command, ["sync", "validate", "-c", "eu", "--json"])
    finally:
        with environment.database.session() as cursor:
            cursor.execute("alter table creatives rename column approved to is_approved")
    assert found.exit_code == 2
    document = json.loads(found.stdout)
    assert len(document["results"]) == 3
    assert "has no column is_approved" in document["failed"]["eu/bidder.creatives"]
