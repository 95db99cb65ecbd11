"""RDS of the lab: an instance, its snapshots and what is restored from it are real, and what RDS refuses is refused."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil
import psycopg2
import pytest
from botocore.exceptions import ClientError
from dbops_lab import dns
from dbops_lab.supervisor import Supervisor
from dbops_lab.testing import LabRds
from dns.resolver import NXDOMAIN


@pytest.fixture(params=[14, 17])
def rds(request: pytest.FixtureRequest, lab_rds_of: Callable[[int], LabRds]) -> Iterator[LabRds]:
    """An instance of either version."""
    made = lab_rds_of(request.param)
    made.clean()
    yield made
    made.clean()


@pytest.fixture
def table(request: pytest.FixtureRequest) -> str:
    return f"t_{secrets.token_hex(4)}"


def fill(rds: LabRds, table: str, rows: int = 1000) -> None:
    rds.rows(f"create table {table} as select n, n * 2 as twice from generate_series(1, {rows}) n")


def checksum(rds: LabRds, table: str, instance: str | None = None) -> Any:
    query = f"select count(*), md5(string_agg(t::text, ',' order by n)) from {table} t"
    return rds.rows(query, instance)[0]


def now(rds: LabRds) -> datetime:
    moment: datetime = rds.rows("select clock_timestamp()")[0][0]
    return moment


def restore(rds: LabRds, target: str, at: datetime | None = None, **words: Any) -> dict[str, Any]:
    when: dict[str, Any] = {"RestoreTime": at} if at else {"UseLatestRestorableTime": True}
    made: dict[str, Any] = rds.client("rds").restore_db_instance_to_point_in_time(
        SourceDBInstanceIdentifier=rds.name, TargetDBInstanceIdentifier=target, **when, **words
    )["DBInstance"]
    return made


def code(work: Callable[[], Any]) -> str:
    with pytest.raises(ClientError) as caught:
        work()
    return str(caught.value.response["Error"]["Code"])


# ------------------------------------------------------------------------------------------------- point in time


def test_a_restore_has_exactly_the_rows_of_its_moment(rds: LabRds, table: str) -> None:
    fill(rds, table)
    before, moment = checksum(rds, table), now(rds)
    time.sleep(0.05)
    rds.rows(f"update {table} set twice = 0")
    rds.rows(f"insert into {table} values (0, 0)")
    damaged = checksum(rds, table)
    rds.past(moment)
    made = restore(rds, "restored", moment)
    assert made["DBInstanceStatus"] == "creating"
    assert "Endpoint" not in made
    found = rds.wait("restored")
    assert found["Endpoint"]["Port"] == rds.port
    assert checksum(rds, table, "restored") == before
    assert checksum(rds, table) == damaged
    rds.rows(f"insert into {table} values (7000, 1)", "restored")
    assert checksum(rds, table) == damaged


def test_the_latest_moment_moves_and_holds_what_was_committed_before_it(rds: LabRds, table: str) -> None:
    first = rds.describe()["LatestRestorableTime"]
    fill(rds, table)
    rds.past(now(rds))
    latest = rds.describe()["LatestRestorableTime"]
    assert first < latest <= datetime.now(UTC)
    restore(rds, "restored")
    rds.wait("restored")
    assert checksum(rds, table, "restored") == checksum(rds, table)


def test_what_was_restored_can_be_restored_again(lab_rds: LabRds, table: str) -> None:
    fill(lab_rds, table)
    lab_rds.past(now(lab_rds))
    restore(lab_rds, "restored")
    lab_rds.wait("restored")
    first = checksum(lab_rds, table, "restored")
    while lab_rds.describe("restored")["LatestRestorableTime"] <= earliest(lab_rds, "restored"):
        time.sleep(0.1)
    moment = lab_rds.settle("restored")
    time.sleep(0.05)
    lab_rds.rows(f"delete from {table}", "restored")
    lab_rds.client("rds").restore_db_instance_to_point_in_time(
        SourceDBInstanceIdentifier="restored", TargetDBInstanceIdentifier="again", RestoreTime=moment
    )
    lab_rds.wait("again")
    assert checksum(lab_rds, table, "again") == first


def earliest(rds: LabRds, instance: str | None = None) -> datetime:
    found = rds.client("rds").describe_db_instance_automated_backups(DBInstanceIdentifier=instance or rds.name)
    moment: datetime = found["DBInstanceAutomatedBackups"][0]["RestoreWindow"]["EarliestTime"]
    return moment


def test_a_time_that_cannot_be_had_is_refused(rds: LabRds) -> None:
    first, latest = earliest(rds), rds.settle()
    for at in (datetime(2040, 1, 1, tzinfo=UTC), latest + timedelta(minutes=1), first - timedelta(seconds=1)):
        assert code(lambda at=at: restore(rds, "restored", at)) == "InvalidParameterValue"
    client = rds.client("rds")
    names = {"SourceDBInstanceIdentifier": rds.name, "TargetDBInstanceIdentifier": "restored"}
    for when in ({}, {"RestoreTime": latest, "UseLatestRestorableTime": True}):
        refused = code(lambda when=when: client.restore_db_instance_to_point_in_time(**names, **when))
        assert refused == "InvalidParameterCombination"
    client.modify_db_instance(DBInstanceIdentifier=rds.name, BackupRetentionPeriod=0, ApplyImmediately=True)
    assert code(lambda: restore(rds, "restored", latest)) == "PointInTimeRestoreNotEnabled"
    assert [item["DBInstanceIdentifier"] for item in client.describe_db_instances()["DBInstances"]].count(
        "restored"
    ) == 0


def test_names_that_are_taken_and_sources_that_are_not_there_are_refused(lab_rds: LabRds) -> None:
    latest = lab_rds.settle()
    assert code(lambda: restore(lab_rds, lab_rds.name, latest)) == "DBInstanceAlreadyExists"
    assert code(lambda: restore(lab_rds, "no--name", latest)) == "InvalidParameterValue"
    restore(lab_rds, "restored")
    assert code(lambda: restore(lab_rds, "restored")) == "DBInstanceAlreadyExists"
    other = lab_rds.client("rds").restore_db_instance_to_point_in_time
    words = {"TargetDBInstanceIdentifier": "other", "UseLatestRestorableTime": True}
    assert code(lambda: other(SourceDBInstanceIdentifier="nobody", **words)) == "DBInstanceNotFound"
    lab_rds.order(instances=2)
    assert code(lambda: restore(lab_rds, "other")) == "InstanceQuotaExceeded"
    lab_rds.wait("restored")


def test_without_words_a_restore_has_the_defaults_of_rds_and_not_those_of_its_source(lab_rds: LabRds) -> None:
    source = lab_rds.describe()
    assert source["MultiAZ"]
    assert source["DeletionProtection"]
    assert source["BackupRetentionPeriod"] == 7
    assert source["PreferredBackupWindow"] == "23:00-00:00"
    groups = [item["VpcSecurityGroupId"] for item in source["VpcSecurityGroups"]]
    asked = {
        "MultiAZ": True,
        "DeletionProtection": True,
        "DBSubnetGroupName": source["DBSubnetGroup"]["DBSubnetGroupName"],
        "VpcSecurityGroupIds": groups,
        "DBParameterGroupName": source["DBParameterGroups"][0]["DBParameterGroupName"],
        "OptionGroupName": source["OptionGroupMemberships"][0]["OptionGroupName"],
        "Tags": source["TagList"],
    }
    restore(lab_rds, "plain")
    restore(lab_rds, "like-it", **asked)
    plain, like = lab_rds.wait("plain"), lab_rds.wait("like-it")
    assert not plain["MultiAZ"]
    assert not plain["DeletionProtection"]
    assert plain["TagList"] == []
    assert plain["DBSubnetGroup"]["DBSubnetGroupName"] == "default"
    assert plain["DBParameterGroups"][0]["DBParameterGroupName"] == "default.postgres17"
    assert [item["VpcSecurityGroupId"] for item in plain["VpcSecurityGroups"]] != groups
    for key in ("MultiAZ", "DeletionProtection", "TagList", "VpcSecurityGroups", "OptionGroupMemberships"):
        assert like[key] == source[key], key
    for found in (plain, like):
        assert found["DbiResourceId"] != source["DbiResourceId"]
        assert found["Endpoint"]["Address"] != source["Endpoint"]["Address"]
        for key in ("DBInstanceClass", "EngineVersion", "AllocatedStorage", "BackupRetentionPeriod", "MasterUsername"):
            assert found[key] == source[key], key


def test_a_restore_passes_through_its_states_or_ends_in_the_one_that_was_ordered(lab_rds: LabRds) -> None:
    lab_rds.take(restore=0.3)
    restore(lab_rds, "restored")
    seen = [lab_rds.describe("restored")["DBInstanceStatus"]]
    while seen[-1] in ("creating", "backing-up"):
        status = lab_rds.describe("restored")["DBInstanceStatus"]
        seen += [status] if status != seen[-1] else []
    assert seen == ["creating", "backing-up", "available"]
    lab_rds.order(restores=["incompatible-restore", "failed"])
    for name, status in (("one", "incompatible-restore"), ("two", "failed")):
        restore(lab_rds, name)
        assert "Endpoint" not in lab_rds.wait(name, status)


def test_every_day_has_its_backup_and_moments_before_the_retention_period_go(lab_rds: LabRds, table: str) -> None:
    fill(lab_rds, table)
    first = earliest(lab_rds)
    archive = lab_rds.server.data.with_name(f"{lab_rds.server.data.name}.archive")
    kept = min(path.name for path in archive.iterdir() if len(path.name) == 24)
    lab_rds.take(archive=0.05, day=0.5)
    lab_rds.client("rds").modify_db_instance(
        DBInstanceIdentifier=lab_rds.name, BackupRetentionPeriod=1, ApplyImmediately=True
    )
    moment = lab_rds.past(now(lab_rds))
    time.sleep(1.5)
    restore(lab_rds, "restored", moment)
    lab_rds.wait("restored")
    assert checksum(lab_rds, table, "restored") == checksum(lab_rds, table)
    assert earliest(lab_rds) == first
    lab_rds.client("rds").modify_db_instance(
        DBInstanceIdentifier=lab_rds.name, BackupRetentionPeriod=0, ApplyImmediately=True
    )  # as if a day were over: no moment of the past is kept
    while min(path.name for path in archive.iterdir() if len(path.name) == 24) == kept:
        time.sleep(0.05)
    lab_rds.clean()
    assert earliest(lab_rds) > first
    lab_rds.past(earliest(lab_rds))
    restore(lab_rds, "again")
    lab_rds.wait("again")
    assert checksum(lab_rds, table, "again") == checksum(lab_rds, table)


# ------------------------------------------------------------------------------------------------- deletion


def test_a_deleted_instance_leaves_no_process_no_files_and_no_name(lab_rds: LabRds, lab_supervisor: Supervisor) -> None:
    restore(lab_rds, "restored")
    address = lab_rds.wait("restored")["Endpoint"]["Address"]
    folder = lab_supervisor.state / "rds" / "room" / "servers"
    assert any(path.name.startswith("restored.") for path in folder.iterdir())
    server = [item for item in psutil.process_iter(["cmdline"]) if f"{folder}/restored." in " ".join(cmdline(item))]
    assert len(server) == 1
    client = lab_rds.client("rds")
    lab_rds.take(delete=0.2)
    client.delete_db_instance(DBInstanceIdentifier="restored", SkipFinalSnapshot=True)
    assert lab_rds.describe("restored")["DBInstanceStatus"] == "deleting"
    again = code(lambda: client.delete_db_instance(DBInstanceIdentifier="restored", SkipFinalSnapshot=True))
    assert again == "InvalidDBInstanceState"
    lab_rds.wait("restored", "gone")
    assert not server[0].is_running()
    assert not any(path.name.startswith("restored.") for path in folder.iterdir())
    with pytest.raises(NXDOMAIN):
        dns.resolve(lab_rds.nameserver, address)
    assert lab_rds.rows("select 1") == [(1,)]


def cmdline(process: psutil.Process) -> list[str]:
    return process.info["cmdline"] or []


def test_protection_and_the_final_snapshot_are_asked_for(lab_rds: LabRds, table: str) -> None:
    client = lab_rds.client("rds")
    fill(lab_rds, table)
    kept = checksum(lab_rds, table)
    delete = {"DBInstanceIdentifier": lab_rds.name, "SkipFinalSnapshot": True}
    assert code(lambda: client.delete_db_instance(**delete)) == "InvalidParameterCombination"
    lab_rds.past(now(lab_rds))
    restore(lab_rds, "restored", DeletionProtection=True)
    lab_rds.wait("restored")
    delete["DBInstanceIdentifier"] = "restored"
    assert code(lambda: client.delete_db_instance(**delete)) == "InvalidParameterCombination"
    client.modify_db_instance(DBInstanceIdentifier="restored", DeletionProtection=False, ApplyImmediately=True)
    assert code(lambda: client.delete_db_instance(DBInstanceIdentifier="restored")) == "InvalidParameterCombination"
    client.delete_db_instance(DBInstanceIdentifier="restored", FinalDBSnapshotIdentifier="the-last")
    lab_rds.wait("restored", "gone")
    client.restore_db_instance_from_db_snapshot(DBInstanceIdentifier="back", DBSnapshotIdentifier="the-last")
    lab_rds.wait("back")
    assert checksum(lab_rds, table, "back") == kept


def test_one_that_is_deleted_while_it_comes_up_leaves_nothing(lab_rds: LabRds, lab_supervisor: Supervisor) -> None:
    lab_rds.take(restore=0.3)
    restore(lab_rds, "restored")
    lab_rds.client("rds").delete_db_instance(DBInstanceIdentifier="restored", SkipFinalSnapshot=True)
    lab_rds.wait("restored", "gone")
    folder = lab_supervisor.state / "rds" / "room" / "servers"
    assert not any(path.name.startswith("restored.") for path in folder.iterdir())


# ------------------------------------------------------------------------------------------------- snapshots


def test_a_snapshot_holds_the_data_of_its_moment_also_in_another_region(rds: LabRds, table: str) -> None:
    client, far = rds.client("rds"), rds.client("rds", "eu-central-1")
    fill(rds, table)
    before = checksum(rds, table)
    rds.take(snapshot=0.2, copy=0.2)
    tags = [{"Key": "run", "Value": "one"}]
    made = client.create_db_snapshot(DBInstanceIdentifier=rds.name, DBSnapshotIdentifier="mine", Tags=tags)
    assert made["DBSnapshot"]["Status"] == "creating"
    assert code(lambda: client.delete_db_snapshot(DBSnapshotIdentifier="mine")) == "InvalidDBSnapshotState"
    found = rds.wait_snapshot("mine")
    assert found["TagList"] == tags
    rds.rows(f"delete from {table}")
    copied = far.copy_db_snapshot(
        SourceDBSnapshotIdentifier=found["DBSnapshotArn"], TargetDBSnapshotIdentifier="mine-far",
        SourceRegion="eu-west-1", CopyTags=True,
    )["DBSnapshot"]  # fmt: skip
    assert copied["Status"] == "creating"
    copied = rds.wait_snapshot("mine-far", "eu-central-1")
    assert copied["SourceDBSnapshotIdentifier"] == found["DBSnapshotArn"]
    assert copied["SourceRegion"] == "eu-west-1"
    assert copied["TagList"] == tags
    client.delete_db_snapshot(DBSnapshotIdentifier="mine")
    assert code(lambda: client.describe_db_snapshots(DBSnapshotIdentifier="mine")) == "DBSnapshotNotFound"
    far.restore_db_instance_from_db_snapshot(DBInstanceIdentifier="far", DBSnapshotIdentifier="mine-far")
    while (there := far.describe_db_instances(DBInstanceIdentifier="far")["DBInstances"][0])[
        "DBInstanceStatus"
    ] != "available":
        time.sleep(0.05)
    with closing(
        psycopg2.connect(
            host=dns.resolve(rds.nameserver, there["Endpoint"]["Address"]), port=rds.port, user="exchange",
            password=rds.server.passwords["exchange"], dbname="exchange",
        )
    ) as connection, connection.cursor() as cursor:  # fmt: skip
        cursor.execute(f"select count(*), md5(string_agg(t::text, ',' order by n)) from {table} t")
        assert cursor.fetchone() == before


def test_an_encrypted_snapshot_goes_to_another_region_only_with_a_key_of_that_region(lab_rds: LabRds) -> None:
    lab_rds.order(encrypted=True)
    lab_rds.client("rds").create_db_snapshot(DBInstanceIdentifier=lab_rds.name, DBSnapshotIdentifier="secret")
    found = lab_rds.wait_snapshot("secret")
    assert found["Encrypted"]
    far = lab_rds.client("rds", "eu-central-1")
    ask = {"SourceDBSnapshotIdentifier": found["DBSnapshotArn"], "TargetDBSnapshotIdentifier": "secret-far"}
    assert code(lambda: far.copy_db_snapshot(**ask)) == "InvalidParameterValue"
    assert code(lambda: far.copy_db_snapshot(**ask, KmsKeyId="nobody")) == "KMSKeyNotAccessibleFault"
    key = lab_rds.client("kms", "eu-central-1").create_key()["KeyMetadata"]["Arn"]
    far.copy_db_snapshot(**ask, KmsKeyId=key)
    assert lab_rds.wait_snapshot("secret-far", "eu-central-1")["KmsKeyId"] == key
    lab_rds.clean()
    assert not lab_rds.describe()["StorageEncrypted"]


def test_snapshots_that_are_taken_too_many_or_automated_are_refused(lab_rds: LabRds) -> None:
    client = lab_rds.client("rds")
    lab_rds.plant("foreign", tags={"made-by": "somebody"}, age=3600)
    ask = {"DBInstanceIdentifier": lab_rds.name, "DBSnapshotIdentifier": "foreign"}
    assert code(lambda: client.create_db_snapshot(**ask)) == "DBSnapshotAlreadyExists"
    found = client.describe_db_snapshots(DBSnapshotIdentifier="foreign")["DBSnapshots"][0]
    assert timedelta(minutes=59) < datetime.now(UTC) - found["SnapshotCreateTime"] < timedelta(minutes=61)
    assert found["TagList"] == [{"Key": "made-by", "Value": "somebody"}]
    lab_rds.order(snapshots=1)
    ask["DBSnapshotIdentifier"] = "one-more"
    assert code(lambda: client.create_db_snapshot(**ask)) == "SnapshotQuotaExceeded"
    automated = client.describe_db_snapshots(DBInstanceIdentifier=lab_rds.name, SnapshotType="automated")["DBSnapshots"]
    assert [item["DBSnapshotIdentifier"].startswith(f"rds:{lab_rds.name}-2") for item in automated] == [True]
    id = automated[0]["DBSnapshotIdentifier"]
    assert code(lambda: client.delete_db_snapshot(DBSnapshotIdentifier=id)) == "InvalidDBSnapshotState"


def test_snapshots_are_listed_page_by_page(lab_rds: LabRds) -> None:
    for number in range(25):
        lab_rds.plant(f"s-{number:02d}")
    client = lab_rds.client("rds")
    page = client.describe_db_snapshots(DBInstanceIdentifier=lab_rds.name, SnapshotType="manual", MaxRecords=20)
    assert len(page["DBSnapshots"]) == 20
    rest = client.describe_db_snapshots(
        DBInstanceIdentifier=lab_rds.name, SnapshotType="manual", MaxRecords=20, Marker=page["Marker"]
    )
    assert len(rest["DBSnapshots"]) == 5
    assert "Marker" not in rest


def test_an_instance_that_is_not_available_is_left_alone(lab_rds: LabRds) -> None:
    client = lab_rds.client("rds")
    lab_rds.take(restore=0.4)
    restore(lab_rds, "restored")
    ask = {"DBInstanceIdentifier": "restored"}
    snapshot = code(lambda: client.create_db_snapshot(**ask, DBSnapshotIdentifier="early"))
    modify = code(lambda: client.modify_db_instance(**ask, MultiAZ=True, ApplyImmediately=True))
    assert (snapshot, modify) == ("InvalidDBInstanceState", "InvalidDBInstanceState")
    lab_rds.wait("restored")


# ------------------------------------------------------------------------------------------------- the rest


def test_tags_passwords_and_names_of_instances_change(lab_rds: LabRds) -> None:
    client = lab_rds.client("rds")
    restore(lab_rds, "restored")
    arn = lab_rds.wait("restored")["DBInstanceArn"]
    client.add_tags_to_resource(ResourceName=arn, Tags=[{"Key": "run", "Value": "one"}])
    assert client.list_tags_for_resource(ResourceName=arn)["TagList"] == [{"Key": "run", "Value": "one"}]
    client.remove_tags_from_resource(ResourceName=arn, TagKeys=["run"])
    assert lab_rds.describe("restored")["TagList"] == []
    host = lab_rds.host("restored")
    client.modify_db_instance(DBInstanceIdentifier="restored", MasterUserPassword="another-one", ApplyImmediately=True)
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        lab_rds.connect("restored")
    words = {"host": host, "port": lab_rds.port, "user": "exchange", "dbname": "exchange"}
    psycopg2.connect(**words, password="another-one").close()
    client.modify_db_instance(DBInstanceIdentifier="restored", NewDBInstanceIdentifier="renamed", ApplyImmediately=True)
    assert lab_rds.describe("renamed")["Endpoint"]["Address"].startswith("renamed.")
    assert lab_rds.host("renamed") == host


def test_the_log_is_read_in_portions_and_shows_ddl_but_no_password(lab_rds: LabRds, table: str) -> None:
    client = lab_rds.client("rds")
    lab_rds.rows(f"create table {table} (n int)")
    ask = {"DBInstanceIdentifier": lab_rds.name}
    files = client.describe_db_log_files(**ask)["DescribeDBLogFiles"]
    newest = files[-1]
    assert newest["LogFileName"].startswith("error/postgresql.log.2")
    assert datetime.now(UTC).timestamp() * 1000 - newest["LastWritten"] < 60_000
    ask["LogFileName"] = newest["LogFileName"]
    text, marker = "", "0"
    while True:
        portion = client.download_db_log_file_portion(**ask, Marker=marker, NumberOfLines=5)
        text, marker = text + portion["LogFileData"], portion["Marker"]
        if not portion["AdditionalDataPending"]:
            break
    assert ":exchange@exchange:[" in text
    assert f"statement: create table {table} (n int)" in text
    assert not [secret for secret in lab_rds.server.passwords.values() if secret in text]
    last = client.download_db_log_file_portion(**ask, NumberOfLines=1)["LogFileData"]
    assert last == text.splitlines(keepends=True)[-1]
    ask["LogFileName"] = "error/../../../etc/passwd"
    assert code(lambda: client.download_db_log_file_portion(**ask)) == "DBLogFileNotFoundFault"


def test_an_instance_that_only_the_api_knows_is_as_moto_has_it(lab_rds: LabRds) -> None:
    client = lab_rds.client("rds", "us-west-2")
    client.create_db_instance(
        DBInstanceIdentifier="plain", DBInstanceClass="db.t4g.micro", Engine="postgres", AllocatedStorage=20
    )
    made = client.create_db_snapshot(DBInstanceIdentifier="plain", DBSnapshotIdentifier="of-plain")["DBSnapshot"]
    assert made["Status"] == "available"
    client.delete_db_instance(DBInstanceIdentifier="plain", SkipFinalSnapshot=True)
    while client.describe_db_instances()["DBInstances"]:
        time.sleep(0.05)
