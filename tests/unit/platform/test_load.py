"""A platform file is refused with file, path, line and reason, for all that is wrong at once."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from dbops.errors import ConfigurationError, FinalError
from dbops.platform import ArchiveTable, LegalHold, PlatformError, PlatformFileError, Severity, load_platform
from dbops.platform.load import DIRECTORY
from hypothesis import given
from hypothesis import strategies as st

PRODUCTION = (DIRECTORY / "production.yaml").read_text()
PLAIN = json.dumps(yaml.safe_load(PRODUCTION))  # without anchors
H, D = timedelta(hours=1), timedelta(days=1)

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        file = tmp_path / "mine.yaml"
        file.write_text(text)
        return file

    return write


def changed(path: str, value: Any) -> str:
    """production.yaml with another value at a path such as `aerospike.clusters.0.name`; `...` removes it."""
    data = json.loads(PLAIN)
    *parents, last = [int(part) if part.isdecimal() else part for part in path.split(".")]
    node = data
    for part in parents:
        node = node[part]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return yaml.safe_dump(data)


def refusal(write: Write, text: str) -> PlatformFileError:
    with pytest.raises(PlatformFileError) as caught:
        load_platform(write(text))
    return caught.value


def test_every_file_of_the_project_is_valid() -> None:
    assert {file.stem for file in DIRECTORY.glob("*.yaml")} >= {"production", "staging", "lab"}
    for file in DIRECTORY.glob("*.yaml"):
        assert load_platform(file).name == file.stem


def test_production_is_what_the_guide_describes() -> None:
    platform = load_platform(DIRECTORY / "production.yaml")
    eu, apac = platform.aerospike.clusters
    assert (eu.name, eu.seeds) == ("eu", ("aero.eu-west1.bedrockplatform.bid:31000",))
    assert (apac.name, apac.seeds) == ("apac", ("aero.apac-tokyo.bedrockplatform.bid:31000",))
    for cluster in (eu, apac):
        assert {namespace.name: namespace.sets for namespace in cluster.namespaces} == {
            "bidder": ("lineitems", "creatives", "orders", "videos", "lumen"),
            "dmp": ("mapping", "segments"),
            "spend": ("spend",),
        }
        assert [name.track_deletes for name in cluster.namespaces] == [True, False, True]
        assert (cluster.schedules.full, cluster.schedules.incremental) == ("0 2 * * *", "0 0,6,12,18 * * *")
        assert (cluster.connection, cluster.pool) == (f"aerospike_{cluster.name}", f"aerospike_{cluster.name}")
        assert cluster.clock_skew_overlap == timedelta(seconds=60)
    assert platform.storage.bucket == "bedrock-backups"
    assert (platform.storage.region, platform.storage.connection) == ("eu-west-1", "dbops_s3")
    assert platform.storage.replica_region not in {None, "eu-west-1"}
    retention = platform.retention
    assert (retention.full, retention.incremental) == (30 * D, 30 * D)
    assert (retention.floor, retention.max_share, retention.grace) == (2, 0.5, D)
    objectives = platform.objectives
    assert (objectives.aerospike.guide_rpo, objectives.aerospike.rto) == (6 * H, 0.25 * H)
    assert (objectives.postgres.rpo, objectives.postgres.rto) == (H / 12, H / 2)
    assert (objectives.redshift.rpo, objectives.redshift.rto) == (24 * H, H)
    assert (objectives.configuration_rpo, objectives.full_platform_rto) == (H, 2 * H)
    memory, query = platform.limits["aerospike_memory"], platform.limits["postgres_query_p95"]
    assert (memory.target, memory.warn, memory.critical, memory.unit) == (80, 75, 90, "%")
    assert (query.target, query.warn, query.critical, query.unit) == (100, 1000, 5000, "ms")
    assert platform.alerts.slack.channel == "#alerts"


def test_staging_keeps_seven_days_and_pages_nobody() -> None:
    platform = load_platform(DIRECTORY / "staging.yaml")
    assert (platform.retention.full, platform.retention.incremental) == (7 * D, 7 * D)
    assert platform.alerts.channels(Severity.CRITICAL) == ("slack",)
    assert platform.storage.bucket != load_platform(DIRECTORY / "production.yaml").storage.bucket


def test_the_lab_has_productions_clusters_and_namespaces_and_no_address() -> None:
    lab, production = load_platform(DIRECTORY / "lab.yaml"), load_platform(DIRECTORY / "production.yaml")
    for mine, real in zip(lab.aerospike.clusters, production.aerospike.clusters, strict=True):
        assert (mine.name, mine.connection, mine.seeds) == (real.name, real.connection, ())
        assert [(n.name, n.sets) for n in mine.namespaces] == [(n.name, n.sets) for n in real.namespaces]
        assert mine.slices == 8


def test_encryption_is_off_until_it_is_asked_for(write: Write) -> None:
    assert load_platform(DIRECTORY / "production.yaml").storage.encryption is None
    storage = load_platform(write(changed("storage.encryption", {"mode": "aes256"}))).storage
    assert storage.encryption
    assert (storage.encryption.connection, storage.encryption.older_keys) == ("dbops_backup_key", ())
    key = "1234abcd-12ab-34cd-56ef-1234567890ab"
    for name in (key, "mrk-" + "0a" * 16, "alias/aws/s3", f"arn:aws:kms:eu-west-1:111122223333:key/{key}"):
        assert load_platform(write(changed("storage.kms_key", name))).storage.kms_key == name


def test_severities_go_to_their_channels() -> None:
    alerts = load_platform(DIRECTORY / "production.yaml").alerts
    assert alerts.channels(Severity.CRITICAL) == ("slack", "pagerduty")
    assert alerts.channels(Severity.WARNING) == ("slack",)
    assert alerts.channels(Severity.SUMMARY) == ("email",)


def test_a_namespace_or_cluster_may_have_its_own_retention_and_objectives(write: Write) -> None:
    data = json.loads(PLAIN)
    apac = data["aerospike"]["clusters"][1]
    apac["objectives"] = {"rpo": "12h", "rto": "1h"}
    apac["namespaces"][1]["retention"] = {"full": "3d", "incremental": "2d"}
    eu, apac = load_platform(write(yaml.safe_dump(data))).aerospike.clusters
    assert (eu.objectives.rpo, apac.objectives.rpo) == (7 * H, 12 * H)
    assert [name.retention.full for name in apac.namespaces] == [30 * D, 3 * D, 30 * D]
    assert eu.namespace("dmp").retention.full == 30 * D


def test_a_cluster_may_be_read_by_an_official_program_that_tracks_no_deletes(write: Write) -> None:
    data = json.loads(PLAIN)
    eu = data["aerospike"]["clusters"][0]
    eu |= {"engine": "asbackup", "engine_path": "/opt/aerospike/bin/asbackup"}
    for namespace in eu["namespaces"]:
        namespace["track_deletes"] = False
    eu, apac = load_platform(write(yaml.safe_dump(data))).aerospike.clusters
    assert (eu.engine, eu.engine_path) == ("asbackup", "/opt/aerospike/bin/asbackup")
    assert (apac.engine, apac.engine_path) == ("native", None)


REFUSED: list[tuple[str, Any, str]] = [
    ("colour", "blue", "colour: is no key that is known here"),
    ("name", "production", "name: is taken from the file"),
    ("storage", ..., "storage: is required"),
    ("storage.bucket", "Bedrock_Backups", "storage.bucket: 'Bedrock_Backups': is no bucket name"),
    ("storage.bucket", "ab", "storage.bucket: 'ab': is no bucket name"),
    ("storage.bucket", "a..b", "storage.bucket: 'a..b': is no bucket name"),
    ("storage.bucket", "192.168.1.1", "storage.bucket: '192.168.1.1': is no bucket name: it looks like an IP"),
    ("storage.bucket", 5, "storage.bucket: 5: input should be a valid string"),
    ("storage.prefix", "/a/", "storage.prefix: '/a/': is no prefix"),
    ("storage.prefix", "a/../b", "storage.prefix: 'a/../b': must not hold '.' or '..'"),
    ("storage.region", "europe", "storage.region: 'europe': string should match"),
    ("storage.replica_region", "eu-west-1", "storage.replica_region: 'eu-west-1': must be another region"),
    ("storage.connection", "a b", "storage.connection: 'a b': string should match"),
    ("storage.kms_key", "my key", "storage.kms_key: 'my key': is no KMS key; write its id, its ARN, or alias/<name>"),
    ("storage.kms_key", "backups", "storage.kms_key: 'backups': is no KMS key"),
    ("storage.kms_key", "arn:aws:s3:::bucket", "storage.kms_key: 'arn:aws:s3:::bucket': is no KMS key"),
    ("storage.encryption", {}, "storage.encryption.mode: is required"),
    ("storage.encryption", {"mode": "aes192"}, "storage.encryption.mode: 'aes192': input should be 'aes128' or"),
    ("storage.encryption", {"mode": "aes128", "key": "x"}, "storage.encryption.key: is no key that is known here"),
    (
        "storage.encryption",
        {"mode": "aes128", "connection": "a", "older_keys": ["b", "a"]},
        "storage.encryption.older_keys: holds 'a', which is the key in use",
    ),
    (
        "storage.encryption",
        {"mode": "aes128", "older_keys": ["b", "b"]},
        "storage.encryption.older_keys[1]: connection 'b' was named before, at [0]",
    ),
    ("retention.full", 30, "retention.full: 30: is no duration; write a whole number with its unit"),
    ("retention.full", "30 days", "retention.full: '30 days': is no duration"),
    ("retention.full", "-30d", "retention.full: '-30d': is no duration"),
    ("retention.full", "0d", "retention.full: '0d': must be more than zero"),
    ("retention.full", "99999999d", "retention.full: '99999999d': must lie between"),
    ("retention.incremental", "6h", "objectives.aerospike.rpo: incremental restore points are kept 6 h"),
    ("retention.floor", 0, "retention.floor: 0: input should be greater than or equal to 1"),
    ("retention.floor", 2.5, "retention.floor: 2.5: input should be a valid integer"),
    ("retention.max_share", 50, "retention.max_share: 50: input should be less than or equal to 1"),
    ("retention.max_share", "50%", "retention.max_share: '50%': input should be a valid number"),
    ("retention.grace", 1, "retention.grace: 1: is no duration; write a whole number with its unit"),
    ("objectives.full_platform_rto", "10m", "objectives.full_platform_rto: '10m': is shorter than the 1 h"),
    ("alerts.slack.channel", "alerts", "alerts.slack.channel: 'alerts': string should match"),
    ("alerts.email.to", [], "alerts.email.to: "),
    ("alerts.email.to", ["nobody"], "alerts.email.to[0]: 'nobody': string should match"),
    ("alerts.email.to", ["a@b.co", "a@b.co"], "alerts.email.to[1]: address 'a@b.co' was named before, at [0]"),
    ("limits.aerospike_memory.warn", 90, "limits.aerospike_memory.critical: 90: must be above warn, which is 90"),
    ("limits.aerospike_memory.target", 95, "limits.aerospike_memory.critical: 90: must be above target"),
    ("limits.aerospike_memory.critical", 101, "limits.aerospike_memory.critical: is more than 100 %"),
    ("limits.aerospike_memory.unit", "GB", "limits.aerospike_memory.unit: must be '%'"),
    ("limits.aerospike_memory.warn", -1, "limits.aerospike_memory.warn: -1: "),
    ("limits.aerospike_memory.warn", "75", "limits.aerospike_memory.warn: '75': input should be a valid number"),
    ("limits.aerospike_memory.warn", float("nan"), "limits.aerospike_memory.warn: nan: "),
    ("limits.aerospike_memory", ..., "limits.aerospike_memory: is required"),
    ("limits.memory", {"unit": "%", "target": 1, "warn": 2, "critical": 3}, "limits.memory: is no metric"),
    ("aerospike.clusters", [], "aerospike.clusters: "),
    ("aerospike.clusters", {"eu": 1}, "aerospike.clusters: input should be a valid tuple"),
    ("aerospike.clusters.0.name", "EU", "aerospike.clusters[0].name: 'EU': string should match"),
    ("aerospike.clusters.1.name", "eu", "aerospike.clusters[1]: cluster 'eu' was named before, at [0]"),
    ("aerospike.clusters.1.pool", "aerospike_eu", "aerospike.clusters[1].pool: 'aerospike_eu' is that of cluster eu"),
    ("aerospike.clusters.1.seeds", ["aero.eu-west1.bedrockplatform.bid:31000"], "aerospike.clusters[1].seeds: "),
    ("aerospike.clusters.0.seeds", ["db.example.com"], "aerospike.clusters[0].seeds[0]: 'db.example.com': is no seed"),
    ("aerospike.clusters.0.seeds", ["db:0"], "aerospike.clusters[0].seeds[0]: 'db:0': is no seed"),
    ("aerospike.clusters.0.seeds", ["db:70000"], "aerospike.clusters[0].seeds[0]: 'db:70000': is no seed"),
    ("aerospike.clusters.0.seeds", ["a:1", "a:1"], "aerospike.clusters[0].seeds[1]: seed 'a:1' was named before"),
    ("aerospike.clusters.0.slices", 0, "aerospike.clusters[0].slices: 0: input should be greater than"),
    ("aerospike.clusters.0.slices", 257, "aerospike.clusters[0].slices: 257: input should be less than"),
    ("aerospike.clusters.0.slices", "64", "aerospike.clusters[0].slices: '64': input should be a valid integer"),
    ("aerospike.clusters.0.slices", 64.5, "aerospike.clusters[0].slices: 64.5: input should be a valid integer"),
    ("aerospike.clusters.0.slices", True, "aerospike.clusters[0].slices: True: input should be a valid integer"),
    ("aerospike.clusters.0.pool_slots", 0, "aerospike.clusters[0].pool_slots: 0: "),
    ("aerospike.clusters.0.workers", 0, "aerospike.clusters[0].workers: 0: "),
    ("aerospike.clusters.0.records_per_second", -1, "aerospike.clusters[0].records_per_second: -1: "),
    ("aerospike.clusters.0.engine", "asb", "aerospike.clusters[0].engine: 'asb': input should be 'native', 'asbackup'"),
    ("aerospike.clusters.0.engine", "asbackup",
     "aerospike.clusters[0].namespaces[2].track_deletes: needs the engine native: what asbackup reads does not show"),
    ("aerospike.clusters.0.engine_path", "/usr/bin/asbackup", "engine_path: '/usr/bin/asbackup': has no meaning with"),
    ("aerospike.clusters.0.engine_path", "bin/asbackup", "engine_path: 'bin/asbackup': is no absolute path"),
    ("aerospike.clusters.0.clock_skew_overlap", "2h", "aerospike.clusters[0].clock_skew_overlap: '2h': "),
    ("aerospike.clusters.0.schedules.full", "0 2 * *", "schedules.full: '0 2 * *': must have five fields"),
    ("aerospike.clusters.0.schedules.full", "0 2 * * * *", "schedules.full: '0 2 * * * *': must have five fields"),
    ("aerospike.clusters.0.schedules.full", "@daily", "schedules.full: '@daily': must have five fields"),
    ("aerospike.clusters.0.schedules.full", "0 25 * * *", "schedules.full: '0 25 * * *': cannot be read as cron"),
    ("aerospike.clusters.0.schedules.full", "0 2 31 2 *", "schedules.full: '0 2 31 2 *': never fires"),
    ("aerospike.clusters.0.schedules.full", "a b c d e", "schedules.full: 'a b c d e': cannot be read as cron"),
    ("aerospike.clusters.0.schedules.full", ..., "aerospike.clusters[0].schedules.full: is required"),
    ("aerospike.clusters.0.max_duration.incremental", ..., "max_duration.incremental: is required, since"),
    ("aerospike.clusters.0.max_duration.full", 7200, "aerospike.clusters[0].max_duration.full: 7200: is no duration"),
    ("aerospike.clusters.0.namespaces", [], "aerospike.clusters[0].namespaces: "),
    ("aerospike.clusters.0.namespaces.1.name", "bidder", "namespaces[1]: namespace 'bidder' was named before, at [0]"),
    ("aerospike.clusters.0.namespaces.0.name", "x" * 32, "aerospike.clusters[0].namespaces[0].name: "),
    ("aerospike.clusters.0.namespaces.0.sets", ["a", "a"], "namespaces[0].sets[1]: set 'a' was named before"),
    ("aerospike.clusters.0.namespaces.0.sets", ["a b"], "aerospike.clusters[0].namespaces[0].sets[0]: 'a b': "),
    ("aerospike.clusters.0.namespaces.0.track_deletes", "yes", "namespaces[0].track_deletes: 'yes': "),
    ("aerospike.clusters.0.namespaces.0.track_deletes", ..., "namespaces[0].track_deletes: is required"),
    ("aerospike.clusters.0.namespaces.0.retention", {"full": "1h", "incremental": "30d"},
     "aerospike.clusters[0].namespaces[0].retention: full restore points are kept 1 h, less than the RPO of 7 h"),
    ("aerospike.clusters.0.objectives", {"rpo": "40d", "rto": "1h"},
     "aerospike.clusters[0].namespaces[2].retention: incremental restore points are kept 30 d"),
    ("aerospike.clusters.0", "eu", "aerospike.clusters[0]: 'eu': input should be a valid dictionary"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "message"), REFUSED, ids=[f"{case[0]}={case[1]}" for case in REFUSED])
def test_it_is_refused_with_its_path_and_the_reason(write: Write, path: str, value: Any, message: str) -> None:
    error = refusal(write, changed(path, value))
    lines = str(error).splitlines()
    assert any(line.startswith("mine.yaml: ") and message in line for line in lines), str(error)
    assert all(problem.line for problem in error.problems)
    assert isinstance(error, PlatformError | ConfigurationError | FinalError)


def test_slices_times_namespaces_have_a_limit_that_the_message_helps_to_keep(write: Write) -> None:
    kept = ("bidder", "spend")  # which pairs of `sync` name
    names = [{"name": name, "track_deletes": False} for name in (*kept, *(f"n{index}" for index in range(14)))]
    load_platform(write(changed("aerospike.clusters.0.namespaces", names)))
    names.append({"name": "n16", "track_deletes": False})
    message = str(refusal(write, changed("aerospike.clusters.0.namespaces", names)))
    assert "17 namespaces x 64 slices are more than the 1024 tasks of a run; set slices to 60 or less" in message


def test_pairs_of_the_sync_are_of_clusters_and_columns_that_can_be(write: Write) -> None:
    for path, value, told in [
        ("sync.pairs.0.clusters", ["mars"], "'mars' is no Aerospike cluster"),
        ("sync.pairs.0.namespace", "none", "cluster eu has none of that name"),
        ("sync.pairs.0.key", "id", "names no column; write {id}"),
        ("sync.pairs.0.key", "{id", "is no template"),
        ("sync.pairs.3.key_type", "integer", "integer needs a key of one column"),
        ("sync.pairs.0.columns.1.bin", "ID", "'ID' was named before"),
        ("sync.pairs.0.columns.0.scale", 2, "has a meaning with the form scaled only"),
        ("sync.syncer", ..., "`repair: syncer` needs a section `syncer`"),
    ]:
        found = str(refusal(write, changed(path, value)))
        assert told in found
        assert re.sub(r"\.(\d+)", r"[\1]", path.removesuffix(".syncer")) in found


def test_two_clusters_without_seeds_need_a_connection_each(write: Write) -> None:
    data = yaml.safe_load((DIRECTORY / "lab.yaml").read_text())
    data["aerospike"]["clusters"][1]["connection"] = "aerospike_eu"
    assert "aerospike.clusters[1].connection: 'aerospike_eu' is that of cluster eu" in str(
        refusal(write, yaml.safe_dump(data))
    )


def test_all_problems_are_reported_at_once_in_the_order_of_the_file(write: Write) -> None:
    text = PRODUCTION
    for old, new in [
        ("region: eu-west-1", "region: Europe"),
        ("full: 30d", "full: 30"),
        ("postgres:\n    rpo: 5m", "postgres:\n    rpo: 5 minutes"),
        ('channel: "#alerts"', 'channel: "#alerts"\n    token: hunter2'),
        ("warn: 75,   critical: 90}", "warn: 95,   critical: 90}"),
        ("slices: 64", "slices: 999"),
        ("- name: apac", "- name: eu"),
        ("sets: [mapping, segments]", "sets: [mapping, mapping]"),
        ('incremental: "0 0,6,12,18 * * *"', 'incremental: "0 0,6,12,99 * * *"'),
    ]:
        assert old in text
        text = text.replace(old, new, 1)
    error = refusal(write, text)
    found = {problem.path: problem for problem in error.problems}
    assert set(found) == {
        "storage.region",
        "retention.full",
        "objectives.postgres.rpo",
        "alerts.slack.token",
        "limits.aerospike_memory.critical",
        "aerospike.clusters[0].slices",
        "aerospike.clusters[1]",
        "aerospike.clusters[0].schedules.incremental",
        "aerospike.clusters[1].schedules.incremental",
        "aerospike.clusters[0].namespaces[1].sets[1]",
        "aerospike.clusters[1].namespaces[1].sets[1]",
    }
    lines = text.splitlines()
    assert "slices: 999" in lines[found["aerospike.clusters[0].slices"].line - 1]
    assert "token" in lines[found["alerts.slack.token"].line - 1]
    assert "- name: eu" in lines[found["aerospike.clusters[1]"].line - 1]
    assert [problem.line for problem in error.problems] == sorted(problem.line for problem in error.problems)
    assert "hunter2" not in str(error)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "mine.yaml: is empty"),
        ("# nothing\n", "mine.yaml: is empty"),
        ("null", "mine.yaml: must be a mapping with storage, aerospike, ... at the top, and is a NoneType"),
        ("- a\n- b\n", "mine.yaml: must be a mapping"),
        ("just text", "mine.yaml: must be a mapping"),
        ("a: [1, 2\nb: 3", "mine.yaml: is no valid YAML"),
        ("a: 1\n\tb: 2", "is no valid YAML"),
        ("a: 1\n---\nb: 2", "expected a single document"),
        ("storage: !!python/object:os.system {}", "could not determine a constructor"),
        ("a: &x [*x]", "is no key that is known here"),
        ("a: *nothing", "undefined alias"),
        ("? [1, 2]\n: x", "unhashable key"),
        ("1: x", "keys should be strings"),
        ("aerospike: {clusters: [" + "{a: " * 3000 + "}" * 3000 + "]}", "mine.yaml: "),
        ("a: 2026-02-31", "is no YAML that can be used"),
        ("full: * 2 * * *", "is no valid YAML"),
    ],
)  # fmt: skip
def test_what_is_no_mapping_of_yaml_is_refused(write: Write, text: str, message: str) -> None:
    assert message in str(refusal(write, text))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    for content in (b"\xff\xfe\x00", b"a: \x00", b"\x80abc: 1"):
        file.write_bytes(content)
        with pytest.raises(PlatformFileError, match=r"mine\.yaml: is no valid YAML"):
            load_platform(file)


def test_a_key_that_stands_twice_is_refused_with_both_lines(write: Write) -> None:
    text = PRODUCTION + "\nledger_connection: other\n"
    first = PRODUCTION.splitlines().index("ledger_connection: dbops_ledger") + 1
    (problem,) = refusal(write, text).problems
    assert (problem.path, problem.line) == ("ledger_connection", len(text.splitlines()))
    assert problem.reason == f"stands twice, first in line {first}"
    nested = PRODUCTION.replace("      slices: 64\n", "      slices: 64\n      slices: 32\n", 1)
    assert refusal(write, nested).problems[0].path == "aerospike.clusters[0].slices"


def test_a_missing_file_names_those_that_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DBOPS_PLATFORM", "produktion")
    with pytest.raises(PlatformFileError, match=r"produktion\.yaml: no such file .*lab, production, staging"):
        load_platform()
    with pytest.raises(PlatformFileError, match="cannot be read"):
        load_platform(tmp_path)


def test_the_environment_chooses_a_name_or_a_file(monkeypatch: pytest.MonkeyPatch, write: Write) -> None:
    monkeypatch.delenv("DBOPS_PLATFORM", raising=False)
    assert load_platform().name == "production"
    monkeypatch.setenv("DBOPS_PLATFORM", "lab")
    assert load_platform().name == "lab"
    monkeypatch.setenv("DBOPS_PLATFORM", str(write(PRODUCTION)))
    assert load_platform().name == "mine"


def test_a_file_is_read_once_and_again_when_it_changes(write: Write) -> None:
    file = write(PRODUCTION)
    first = load_platform(file)
    assert load_platform(file) is first
    file.write_text(PRODUCTION.replace("slices: 64", "slices: 32"))
    second = load_platform(file)
    assert second.aerospike.cluster("eu").slices == 32
    assert second.sha256 != first.sha256


def test_it_survives_a_round_trip_through_json() -> None:
    platform = load_platform(DIRECTORY / "production.yaml")
    assert type(platform).model_validate_json(platform.model_dump_json()) == platform


def test_an_unknown_cluster_or_namespace_names_those_that_exist() -> None:
    platform = load_platform(DIRECTORY / "production.yaml")
    with pytest.raises(PlatformError, match="'us' is no Aerospike cluster; there are eu, apac"):
        platform.aerospike.cluster("us")
    with pytest.raises(PlatformError, match="'x' is no namespace of cluster eu; there are bidder, dmp, spend"):
        platform.aerospike.cluster("eu").namespace("x")


GARBAGE = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.dates(),
    st.lists(st.integers(), max_size=2), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


def places(node: Any, path: str = "") -> list[str]:
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    # A key with a dot in it (`public.goose_db_version`) is no step of a path.
    steps = [(key, value) for key, value in inner if "." not in str(key)]
    found = [place for key, value in steps for place in places(value, f"{path}.{key}".lstrip("."))]
    return [*([path] if path else []), *found]


@given(path=st.sampled_from(places(yaml.safe_load(PRODUCTION))), value=GARBAGE)
def test_any_value_at_any_place_is_taken_or_refused_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, path: str, value: Any
) -> None:
    file = tmp_path_factory.mktemp("any") / "mine.yaml"
    file.write_text(changed(path, value))
    try:
        load_platform(file)
    except PlatformFileError as error:
        message = str(error)
    else:
        return
    assert message.startswith("mine.yaml: ")


def test_importing_it_is_cheap_and_brings_nothing_heavy() -> None:
    code = (
        "import sys, time; before = time.process_time(); import dbops.platform; "
        "print(time.process_time() - before); "
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(3)]
    heavy = {"airflow", "numpy", "numba", "boto3", "botocore", "sqlalchemy", "pandas", "pyarrow", "rich", "typer"}
    assert heavy.isdisjoint(runs[0].stdout.splitlines()[1].split())
    assert min(float(run.stdout.splitlines()[0]) for run in runs) < 0.5  # 0.2 s on a quiet machine


def test_a_large_platform_loads_in_seconds(write: Write) -> None:
    data = yaml.safe_load(PRODUCTION)
    del data["sync"], data["consistency"]  # they name clusters of this file
    model = data["aerospike"]["clusters"][0]
    data["aerospike"]["clusters"] = [
        {
            **model,
            "name": f"c{index}",
            "connection": f"aerospike_c{index}",
            "seeds": [f"c{index}.example.com:3000"],
            "slices": 16,
            "namespaces": [{"name": f"n{place}", "sets": ["a", "b"], "track_deletes": True} for place in range(50)],
        }
        for index in range(100)
    ]
    platform = load_platform(write(yaml.safe_dump(data)))
    assert sum(len(cluster.namespaces) for cluster in platform.aerospike.clusters) == 5000


def test_an_archived_table_is_named_by_itself_or_without_its_day() -> None:
    archive = load_platform(DIRECTORY / "production.yaml").redshift.archive  # type: ignore[union-attr]
    wins = archive.table("public.wins")
    assert (wins.dataset, wins.source(date(2026, 1, 2)), wins.keep) == ("public.wins", "public.wins", 90 * D)
    with pytest.raises(PlatformError, match=r"'wins' is no archived table; there are public.bidstream_v2, "):
        archive.table("wins")
    daily = ArchiveTable(table="events.clicks_{day}", column="at", keep=D, days="tables")
    assert (daily.dataset, daily.source(date(2026, 1, 2))) == ("events.clicks", "events.clicks_20260102")
    assert ArchiveTable(table="events.{day}", column="at", keep=D, days="tables").dataset == "events.days"


def test_two_tables_that_would_be_archived_as_one_are_refused(write: Write) -> None:
    day = {"table": "public.wins_{day}", "column": "timestamp", "keep": "30d", "days": "tables"}
    tables = json.loads(PLAIN)["redshift"]["archive"]["tables"]
    error = refusal(write, changed("redshift.archive.tables", [*tables, day]))
    assert "would be archived as public.wins, like public.wins" in str(error)


def test_a_legal_hold_covers_its_days_of_its_table() -> None:
    archive = load_platform(DIRECTORY / "production.yaml").redshift.archive  # type: ignore[union-attr]
    hold = LegalHold(table="public.wins", first=date(2026, 1, 2), last=None, reason="case 17")
    archive = archive.model_copy(update={"legal_holds": (hold,)})
    wins, clicks = archive.table("public.wins"), archive.table("public.clicks")
    assert archive.hold(wins, date(2026, 1, 2)) == archive.hold(wins, date(2030, 1, 1)) == hold
    assert archive.hold(wins, date(2026, 1, 1)) is archive.hold(clicks, date(2026, 1, 2)) is None
