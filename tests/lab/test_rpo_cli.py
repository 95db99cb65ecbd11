"""`dbops backup rpo` against the lab's bucket: what it says, and what a script learns from its exit code."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from dbops.backups.store import S3Store, Store
from dbops.cli import app
from dbops_lab import connections
from dbops_lab.testing import LabS3
from points_world import HOUR, NOW, take, take_chain
from typer.testing import CliRunner, Result

Run = Callable[..., Result]
NAMESPACES = ("bidder", "dmp", "spend")


@pytest.fixture
def store(lab_s3: LabS3) -> Iterator[Store]:
    """The bucket of the lab's platform, without backups."""
    store = S3Store(lab_s3.bucket, "", lab_s3.connection)
    store.delete([item.key for item in store.list("aerospike/")])
    yield store
    lab_s3.faults()
    store.delete([item.key for item in store.list("aerospike/")])  # other tests use the same bucket


@pytest.fixture
def run(store: Store, lab_s3: LabS3, monkeypatch: pytest.MonkeyPatch) -> Run:
    made = {"dbops_s3": connections.s3(int(lab_s3.endpoint.rpartition(":")[2]))}
    for name, value in {**connections.variables(made), "DBOPS_PLATFORM": "lab", "COLUMNS": "200"}.items():
        monkeypatch.setenv(name, value)
    return lambda *args: CliRunner().invoke(app, ["backup", "rpo", *args])


def test_kept_exceeded_and_never(run: Run, store: Store) -> None:
    for namespace in NAMESPACES:
        take(store, NOW - HOUR, namespace=namespace)
    kept = run("eu")
    assert kept.exit_code == 0, kept.output
    assert kept.stdout.count(" kept") == 3
    nothing = run()
    assert nothing.exit_code == 1
    assert nothing.stdout.count("NEVER") == 3

    old = take_chain(store, 1, 1, cluster="apac")[-1]
    unread = take(store, NOW - HOUR, old, cluster="apac", ok=None)
    exceeded = run("apac", "-n", "bidder")
    assert exceeded.exit_code == 1
    for said in (old.id, "18 h", "7 h", "EXCEEDED"):
        assert said in exceeded.stdout
    assert f"apac/bidder: {unread.id}: was never read back" in exceeded.stderr
    (row,) = json.loads(run("apac", "-n", "bidder", "--json").stdout)
    assert (row["state"], row["point"], row["rpo_seconds"]) == ("exceeded", old.id, 7 * 3600)
    assert 18 * 3600 <= row["age_seconds"] < 19 * 3600  # NOW is when the tests were collected
    assert row["newer"] == {unread.id: "was never read back"}


def test_one_that_cannot_be_looked_at_is_no_pass_and_hides_none_that_is_exceeded(
    run: Run, store: Store, lab_s3: LabS3
) -> None:
    for namespace in NAMESPACES:
        take(store, NOW - HOUR, namespace=namespace)
    lab_s3.faults({"method": "GET", "key": "aerospike(/|%2F)eu(/|%2F)dmp", "status": 403, "times": 99})
    unseen = run("eu")
    assert unseen.exit_code == 2
    assert unseen.stdout.count(" kept") == 2
    assert "UNKNOWN" in unseen.stdout
    assert "eu/dmp: list" in unseen.stderr
    assert "AccessDenied" in unseen.stderr
    assert run("eu", "-n", "dmp").exit_code == 2
    (row,) = json.loads(run("eu", "-n", "dmp", "--json").stdout)
    assert (row["state"], row["point"], row["age_seconds"]) == ("unknown", None, None)
    assert "AccessDenied" in row["error"]
    assert run().exit_code == 1, "apac has none, which is certain"


def test_wrong_usage_is_2(run: Run) -> None:
    assert run("nope").exit_code == 2
    assert run("eu", "-n", "nope").exit_code == 2
