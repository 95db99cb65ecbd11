"""The syncer carries every change, in every form, and goes wrong only as it is told to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from application_world import NEVER, assert_in_step, records
from dbops_lab.aerospike.process import StandIn
from dbops_lab.application.mapping import PAIRS
from dbops_lab.application.publish import Cluster, publish_all
from dbops_lab.application.traffic import Traffic
from dbops_lab.application.world import is_quiet
from dbops_lab.parts import syncer_part
from dbops_lab.supervisor import Supervisor, direct, free_port
from dbops_lab.testing import LabApp

DAY = 86_400


@pytest.fixture(autouse=True)
def _obedient(lab_app: LabApp) -> Iterator[None]:
    """Each test leaves a syncer without orders, and both sides in step."""
    lab_app.syncer.done.clear()
    yield
    lab_app.syncer.order()
    lab_app.syncer.resume()
    lab_app.syncer.lag = 0.0
    lab_app.syncer.wait()


def change(app: LabApp, query: str, *values: Any) -> int:
    with app.database.session() as cursor:
        cursor.execute(query, values)
        return cursor.rowcount


def status(app: LabApp) -> dict[str, tuple[Any, ...]]:
    with app.database.session() as cursor:
        cursor.execute("select table_name, last_sync_time, sync_status, error_count, last_error from sync_status")
        return {row[0]: row[1:] for row in cursor.fetchall()}


def some(app: LabApp, table: str, count: int = 1) -> list[str]:
    """Keys of rows that have a record."""
    pair = PAIRS[table]
    with app.database.session() as cursor:
        cursor.execute(f"select {', '.join(pair.columns)} from {table} order by 1")
        keys = [pair.key(row) for row in cursor.fetchall() if pair.has_record(row, datetime.now(UTC))]
    return keys[:count]


def call(app: LabApp, path: str, body: Any = None, token: str | None = None) -> tuple[int, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{app.control.port}{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {token}"} if token else {},
    )
    try:
        with direct.open(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as problem:
        return problem.code, json.load(problem)


def test_the_seeded_cluster_is_in_step_with_the_database(lab_app: LabApp) -> None:
    assert_in_step(lab_app)


def test_publishing_through_the_client_makes_the_records_that_seeding_made(lab_app: LabApp) -> None:
    lab_app.reset()
    before = {table: records(lab_app.cluster, pair) for table, pair in PAIRS.items()}
    for pair in PAIRS.values():
        keys = [pair.key(row) for row in lab_app.world.rows(pair.table)]
        put, removed = lab_app.syncer.publish(pair.table, keys)
        assert (put, put + removed) == (len(before[pair.table]), len(keys))
    for table, pair in PAIRS.items():
        found = records(lab_app.cluster, pair)
        assert found == before[table]
        assert all(abs(record.ttl - before[table][key].ttl) < 60 for key, record in found.items())


def test_every_change_of_busy_traffic_is_carried(lab_app: LabApp) -> None:
    traffic = Traffic(lab_app.database, lab_app.world, seed=5)
    with closing(traffic), lab_app.syncer:
        for _ in range(4):
            traffic.step(60)
        lab_app.syncer.wait()
    assert len(traffic.done) == 10
    assert_in_step(lab_app)


def test_traffic_makes_the_same_changes_for_the_same_seed_and_leaves_quiet_rows_alone(lab_app: LabApp) -> None:
    def held() -> dict[str, Any]:
        found = {}
        for table in ("campaigns", "line_items", "creatives"):
            columns = [name for name in PAIRS[table].columns if not name.endswith("_at")]
            with lab_app.database.session() as cursor:
                cursor.execute(f"select {', '.join(columns)} from {table}")
                found |= {row[0]: row for row in cursor.fetchall()}
        return found

    before, results = held(), []
    for _ in range(2):
        lab_app.reset()
        with closing(Traffic(lab_app.database, lab_app.world, seed=6)) as traffic:
            traffic.step(120)
        results.append(held())
    assert results[0] == results[1] != before
    assert all(results[0][key] == row for key, row in before.items() if is_quiet(key))
    assert not any(is_quiet(key) for key in results[0].keys() - before.keys())


def test_deletes_soft_and_hard_remove_the_record_and_a_revival_brings_it_back(lab_app: LabApp) -> None:
    (campaign,), (creative,) = some(lab_app, "campaigns"), some(lab_app, "creatives")
    change(lab_app, "update campaigns set status = 'deleted' where id = %s", campaign)
    change(lab_app, "delete from creatives where id = %s", creative)
    lab_app.syncer.wait()
    assert campaign not in records(lab_app.cluster, PAIRS["campaigns"])
    assert creative not in records(lab_app.cluster, PAIRS["creatives"])
    change(lab_app, "update campaigns set status = 'active' where id = %s", campaign)
    lab_app.syncer.wait()
    assert_in_step(lab_app)


def test_a_record_expires_thirty_days_after_its_campaign(lab_app: LabApp) -> None:
    soon, over = some(lab_app, "campaigns", 2)
    now = datetime.now(UTC)
    change(lab_app, "update campaigns set ends_at = %s where id = %s", now + timedelta(days=3), soon)
    change(lab_app, "update campaigns set ends_at = %s where id = %s", now - timedelta(days=31), over)
    lab_app.syncer.wait()
    found = records(lab_app.cluster, PAIRS["campaigns"])
    assert found[soon].ttl == pytest.approx(33 * DAY, abs=10)
    assert over not in found
    change(lab_app, "update campaigns set ends_at = null where id = %s", soon)
    lab_app.syncer.wait()
    assert records(lab_app.cluster, PAIRS["campaigns"])[soon].ttl == NEVER


def test_a_value_that_becomes_null_loses_its_bin(lab_app: LabApp) -> None:
    (key,) = some(lab_app, "line_items")
    change(lab_app, "update line_items set budget_daily = 12.30, pacing = 'asap' where id = %s", key)
    lab_app.syncer.wait()
    record = records(lab_app.cluster, PAIRS["line_items"])[key].bins
    assert (record["daily_micros"], record["pacing"]) == (12_300_000, "asap")
    change(lab_app, "update line_items set budget_daily = null, pacing = 'even' where id = %s", key)
    lab_app.syncer.wait()
    assert not {"daily_micros", "pacing"} & records(lab_app.cluster, PAIRS["line_items"])[key].bins.keys()


def test_a_change_waits_for_the_lag(lab_app: LabApp) -> None:
    lab_app.syncer.lag = 1.0
    (key,) = some(lab_app, "campaigns")
    began = time.monotonic()
    change(lab_app, "update campaigns set name = 'late' where id = %s", key)
    lab_app.syncer.step()
    assert lab_app.syncer.pending() == 1
    lab_app.syncer.wait()
    assert 0.9 < time.monotonic() - began < 5
    assert records(lab_app.cluster, PAIRS["campaigns"])[key].bins["name"] == "late"


def test_a_lost_change_leaves_the_old_record_and_nothing_else_is_lost(lab_app: LabApp) -> None:
    lost, kept = some(lab_app, "campaigns", 2)
    before = records(lab_app.cluster, PAIRS["campaigns"])
    lab_app.syncer.order({"kind": "lose", "keys": [lost]})
    change(lab_app, "update campaigns set name = 'new' where id in (%s, %s)", lost, kept)
    lab_app.syncer.wait()
    found = records(lab_app.cluster, PAIRS["campaigns"])
    assert found[lost].bins["name"] == before[lost].bins["name"]
    assert found[kept].bins["name"] == "new"
    assert [(one.kind, one.key) for one in lab_app.syncer.done] == [("lose", lost)]
    change(lab_app, "update campaigns set version = version where id = %s", lost)
    lab_app.syncer.wait()
    assert_in_step(lab_app)


def test_a_corrupt_a_doubled_and_a_delayed_change_are_what_the_syncer_says_they_are(lab_app: LabApp) -> None:
    spoiled, doubled, delayed = some(lab_app, "line_items", 3)
    lab_app.syncer.order(
        {"kind": "corrupt", "keys": [spoiled], "bin": "max_bid"},
        {"kind": "duplicate", "keys": [doubled]},
        {"kind": "delay", "keys": [delayed], "seconds": 1.5},
    )
    change(lab_app, "update line_items set max_bid = 3.00 where id in (%s, %s, %s)", spoiled, doubled, delayed)
    lab_app.syncer.step()
    found = records(lab_app.cluster, PAIRS["line_items"])
    assert found[spoiled].bins["max_bid"] == 3.01
    assert found[doubled] == found[doubled.upper()]
    assert found[delayed].bins["max_bid"] != 3.00
    done = {one.kind: one for one in lab_app.syncer.done}
    assert (done["corrupt"].bin, done["corrupt"].wanted, done["corrupt"].found) == ("max_bid", 3.00, 3.01)
    assert (done["duplicate"].key, done["delay"].key) == (doubled.upper(), delayed)
    lab_app.syncer.wait()
    assert records(lab_app.cluster, PAIRS["line_items"])[delayed].bins["max_bid"] == 3.00
    lab_app.syncer.publish("line_items", [spoiled, doubled.upper()])
    assert_in_step(lab_app)


def test_sync_status_says_how_each_table_is_doing(lab_app: LabApp) -> None:
    (key,) = some(lab_app, "creatives")
    before, began = status(lab_app)["creatives"][0], datetime.now(UTC)
    lab_app.syncer.order({"kind": "fail", "table": "creatives", "times": 2})
    change(lab_app, "update creatives set name = 'x' where id = %s", key)
    change(lab_app, "update campaigns set version = 99 where id = %s", some(lab_app, "campaigns")[0])
    lab_app.syncer.step()
    lab_app.syncer.step()
    found = status(lab_app)
    assert found["campaigns"][1:] == ("ok", 0, None)
    assert began <= found["campaigns"][0] <= datetime.now(UTC)
    at, state, errors, text = found["creatives"]
    assert (at, state, errors) == (before, "error", 2)
    assert key in text
    lab_app.syncer.wait()
    assert status(lab_app)["creatives"][1:] == ("ok", 0, None)
    assert_in_step(lab_app)


def test_a_failed_pass_uses_up_no_other_fault(lab_app: LabApp) -> None:
    lost, failed = some(lab_app, "campaigns", 2)
    lab_app.syncer.order({"kind": "lose", "keys": [lost]}, {"kind": "fail", "keys": [failed]})
    change(lab_app, "update campaigns set name = 'both' where id in (%s, %s)", lost, failed)
    lab_app.syncer.step()
    assert lab_app.syncer.done == []
    lab_app.syncer.step()
    assert [(one.kind, one.key) for one in lab_app.syncer.done] == [("lose", lost)]
    found = records(lab_app.cluster, PAIRS["campaigns"])
    assert (found[failed].bins["name"], found[lost].bins["name"] == "both") == ("both", False)
    lab_app.syncer.publish("campaigns", [lost])


def test_a_syncer_that_is_behind_says_so(lab_app: LabApp) -> None:
    (key,) = some(lab_app, "campaigns")
    note = "insert into sync_outbox (table_name, key, changed_at) values ('campaigns', %s, now() - interval '2 min')"
    change(lab_app, note, key)
    lab_app.syncer.step()
    assert status(lab_app)["campaigns"][1] == "lagging"
    lab_app.syncer.step()
    assert status(lab_app)["campaigns"][1] == "ok"


def test_a_paused_syncer_stands_still_and_says_so_only_when_asked(lab_app: LabApp) -> None:
    (key,) = some(lab_app, "campaigns")
    lab_app.syncer.step()
    before = status(lab_app)
    with lab_app.syncer:
        lab_app.syncer.pause()
        change(lab_app, "update campaigns set name = 'paused' where id = %s", key)
        time.sleep(0.3)
        assert lab_app.syncer.pending() == 1
        assert status(lab_app) == before
        lab_app.syncer.pause(announce=True)
        assert {row[1] for row in status(lab_app).values()} == {"paused"}
        assert {table: row[0] for table, row in status(lab_app).items()} == {t: row[0] for t, row in before.items()}
        lab_app.syncer.resume()
        lab_app.syncer.wait()
    assert {row[1] for row in status(lab_app).values()} == {"ok"}


def test_republishing_repairs_what_is_missing_wrong_or_too_much(lab_app: LabApp) -> None:
    pair = PAIRS["campaigns"]
    gone, wrong = some(lab_app, "campaigns", 2)
    stranger = "12345678-1234-4234-a234-123456789abc"
    with closing(lab_app.cluster.connect()) as client:
        client.remove((pair.namespace, pair.set, gone))
        client.put((pair.namespace, pair.set, wrong), {"name": "nonsense", "junk": 1})
        for key in (stranger, wrong.upper(), "no uuid at all"):
            client.put((pair.namespace, pair.set, key), {"ID": key})
    keys = [gone, wrong, stranger, wrong.upper(), "no uuid at all"]
    answer = call(lab_app, "/publish", {"table": "campaigns", "keys": keys}, lab_app.syncer.token)
    assert answer == (200, {"published": 2, "removed": 3})
    assert_in_step(lab_app)


def test_the_interface_refuses_strangers_and_nonsense(lab_app: LabApp) -> None:
    token, keys = lab_app.syncer.token, some(lab_app, "campaigns")
    assert call(lab_app, "/publish", {"table": "campaigns", "keys": keys})[0] == 401
    assert call(lab_app, "/publish", {"table": "campaigns", "keys": keys}, "guess")[0] == 401
    assert call(lab_app, "/publish", {"table": "accounts", "keys": keys}, token)[0] == 400
    assert call(lab_app, "/publish", {"table": "campaigns"}, token)[0] == 400
    assert call(lab_app, "/publish", {"table": "campaigns", "keys": keys * 10_001}, token)[0] == 413
    assert call(lab_app, "/faults", [{"kind": "explode"}])[0] == 400
    assert call(lab_app, "/faults", [{"kind": "lose", "table": "accounts"}])[0] == 400
    assert call(lab_app, "/nowhere", {})[0] == 404
    call(lab_app, "/pause", {})
    assert call(lab_app, "/publish", {"table": "campaigns", "keys": keys}, token)[0] == 503
    assert call(lab_app, "/resume", {})[1]["paused"] is False
    assert call(lab_app, "/lag", {"seconds": 2.5})[1]["lag"] == 2.5
    assert call(lab_app, "/state")[1]["pending"] == 0


def test_the_syncer_outlives_its_connections(lab_app: LabApp) -> None:
    (key,) = some(lab_app, "campaigns")
    with lab_app.syncer:
        change(lab_app, "update campaigns set name = 'one' where id = %s", key)
        lab_app.syncer.wait()
        change(lab_app, "select pg_terminate_backend(pid) from pg_stat_activity "
               "where application_name = 'syncer' and datname = current_database()")  # fmt: skip
        lab_app.standin.stop_node(0)
        change(lab_app, "update campaigns set name = 'two' where id = %s", key)
        time.sleep(0.8)
        lab_app.standin.start_node(0)
        lab_app.syncer.wait()
    assert records(lab_app.cluster, PAIRS["campaigns"])[key].bins["name"] == "two"
    assert status(lab_app)["campaigns"][1:] == ("ok", 0, None)


def test_a_process_serves_two_clusters_until_it_is_told_to_end(lab_app: LabApp) -> None:
    lab_app.reset()
    info, port = lab_app.database.info, free_port()
    with StandIn(name="with-login", namespaces=["bidder", "spend"], users={"dbops": "secret-1"}) as other:
        second = Cluster("second", tuple(other.ports), other.control, user="dbops", password="secret-1")
        publish_all(lab_app.world, [second])
        command = [sys.executable, "-m", "dbops_lab.syncer", "--port", str(port), "--postgres-port", str(info.port)]
        command += ["--user", info.login or "", "--database", info.schema or ""]
        command += ["--cluster", f"app={lab_app.standin.ports[0]}", "--cluster", f"dbops@second={other.ports[0]}"]
        secrets = {
            "LAB_POSTGRES_PASSWORD": info.password,
            "LAB_AEROSPIKE_PASSWORD": "secret-1",
            "LAB_SYNCER_TOKEN": "t",
        }
        process = subprocess.Popen(command, env=os.environ | secrets)
        try:
            with closing(Traffic(lab_app.database, lab_app.world, seed=7)) as traffic:
                traffic.step(50)
            deadline = time.monotonic() + 20
            while lab_app.syncer.pending() and time.monotonic() < deadline:
                time.sleep(0.05)
            with direct.open(f"http://127.0.0.1:{port}/state", timeout=5) as answer:
                assert json.load(answer)["published"] > 0
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(15) == 0
        assert_in_step(lab_app)
        assert_in_step(lab_app, second)


def test_the_part_of_the_lab_shows_no_secret_in_its_command_line(lab_app: LabApp, lab_supervisor: Supervisor) -> None:
    info, port = lab_app.database.info, free_port()
    assert info.port
    part = syncer_part(
        port, "token-1", postgres_port=info.port, login=info.login or "", database=info.schema or "",
        password=info.password or "", clusters={"app": lab_app.standin.ports}, users={"app": "dbops"},
        aerospike_password="secret-2",
    )  # fmt: skip
    assert not any(secret in word for word in part.command for secret in ("token-1", "secret-2", info.password or "-"))
    lab_supervisor.start(part)
    lab_supervisor.wait([part])
    with direct.open(f"http://127.0.0.1:{port}/state", timeout=5) as answer:
        assert json.load(answer)["paused"] is False
    assert lab_supervisor.stop(["syncer"]) == ["syncer"]
