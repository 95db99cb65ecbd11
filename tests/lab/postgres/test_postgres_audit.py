"""Who changed the schema, read from the real log of real servers, by the function and through the API of RDS."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from dbops.connections import ConnectionInfo
from dbops.errors import FinalError
from dbops.platform import Postgres
from dbops.postgres.audit import check_ddl, check_settings
from dbops.postgres.health import Check
from dbops.postgres.log_sources import LogFile, Position, ServerLog
from dbops.postgres.places import open_log, storage_gb
from dbops.postgres.server_log import CsvFormat, LogUnreadable, StderrFormat
from dbops.postgres.session import RightsMissing, Session
from dbops_lab import connections
from dbops_lab.testing import LabRds
from postgres_world import OWNER, World


def platform(database: str, **audit: Any) -> Postgres:
    return Postgres.model_validate({
        "name": "shop",
        "databases": [database],
        "audit": {"log": "server", "settings": {}} | audit,
    })


def settle(session: Session, wanted: str) -> None:
    """The log collector writes a moment after the statement; the last one is waited for."""
    until = time.monotonic() + 5
    for file in ServerLog(session, is_csv=False).files()[-1:]:
        while time.monotonic() < until:
            data = ServerLog(session, is_csv=False)._part(file.name, max(0, _size(session, file) - 65536), 65536)
            if wanted.encode() in data:
                return
            time.sleep(0.02)


def _size(session: Session, file: LogFile) -> int:
    return next(one.size for one in ServerLog(session, is_csv=False).files() if one.name == file.name)


@pytest.mark.parametrize("form", ["csv", "stderr"])
def test_changes_of_others_are_found_once_and_their_secrets_are_masked(world: World, form: str) -> None:
    database, word = world.new_database(), f"hunter{secrets.token_hex(4)}"
    with world.session(database, read_only=True) as session:
        if form == "csv":
            source, kind = open_log(platform(database), session, lambda _: pytest.fail("no API is needed"))
        else:
            source, kind = ServerLog(session, is_csv=False), StderrFormat("%m [%p] %q%u@%d %a ")
        assert isinstance(kind, CsvFormat if form == "csv" else StderrFormat)
        postgres, begin = platform(database), datetime.now(UTC)
        _, positions = check_ddl(postgres, source, kind, {}, begin)
        world.run(database, "create table t (\n  id int,\n  note text default 'a \"quoted\"\nline')")
        with world.admin(database) as cursor:
            cursor.execute(f"create role r_{word[-6:]} login password '{word}'")
            cursor.execute(f"select '{word}'; comment on table t is '{word}'")
            cursor.execute(f"drop role r_{word[-6:]}")
        world.run(database, "create temp table scratch (id int)", "insert into t values (1)", "table t")
        settle(session, f"drop role r_{word[-6:]}")
        check, after = check_ddl(postgres, source, kind, positions, begin)
        ours = [line for line in check.details["statements"] if f"@{database}," in line]
        assert [line.partition(": ")[2] for line in ours] == [
            "create table t ( id int, note text default '***')",
            f"create role r_{word[-6:]} login password '***'",
            "comment on table t is '***'",
            f"drop role r_{word[-6:]}",
        ]
        assert ours[0].startswith(f"{OWNER}@{database}, 20")
        assert word not in f"{check}{after}"
        assert check.severity == "warning"
        again, _ = check_ddl(postgres, source, kind, after, begin)
        assert [line for line in again.details["statements"] if f"@{database}," in line] == []
        trusting = platform(database, ddl_roles=[OWNER, "postgres"])
        check, _ = check_ddl(trusting, source, kind, positions, begin)
        assert (check.ok, check.details["expected"] >= 4) == (True, True)


def test_the_function_reads_the_log_directory_and_nothing_else(world: World) -> None:
    database = world.new_database()
    with world.session(database) as session:
        (file, *_) = ServerLog(session, is_csv=True).files()
        assert session.rows("select length(dbops.read_log(%s, 0, 100))", file.name) == [(100,)]
        for name in ("../PG_VERSION", "PG_VERSION", f"../log/{file.name}", "/etc/passwd", ""):
            assert session.rows("select dbops.read_log(%s, 0, 100)", name) == [(None,)]
        assert session.rows("select length(dbops.read_log(%s, 0, 100000000)) <= 1048576", file.name) == [(True,)]
        with pytest.raises(RightsMissing):
            session.rows("select pg_read_file('PG_VERSION')")
    with world.admin(database) as cursor:
        cursor.execute("revoke execute on function dbops.read_log from dbops_monitor")
    with world.session(database) as session, pytest.raises(FinalError, match=r"grants_log\.sql gives the right"):
        ServerLog(session, is_csv=True).read(file, "0")
    with world.session(database, OWNER) as session, pytest.raises(RightsMissing):
        session.rows("select dbops.read_log('x', 0, 1)")


def test_a_server_without_a_log_directory_or_the_right_to_it_says_so(lab_postgres: Any) -> None:
    info = lab_postgres.new_database()
    with Session(info) as session, pytest.raises((LogUnreadable, RightsMissing)):
        open_log(platform("x"), session, lambda _: info)[0].files()


# --- settings -----------------------------------------------------------------------------------------------


def settings_of(world: World, database: str, settings: Mapping[str, str]) -> Check:
    return check_settings(platform(database, settings=dict(settings)), lambda name: world.session(name, read_only=True))


def test_pgaudit_that_is_not_there_is_said_in_words_and_settings_are_compared(world: World) -> None:
    database = world.new_database()
    check = settings_of(world, database, {"pgaudit.log": "ddl, role", "log_statement": "ddl"})
    assert check.details["wrong"] == [
        "pgAudit is not loaded, nothing of it is logged: it is not installed on this server: install it, or leave "
        "pgaudit out of audit.settings"
    ]
    assert settings_of(world, database, {"log_statement": "DDL", "logging_collector": "true"}).ok
    check = settings_of(world, database, {"log_statement": "all", "log_conections": "on"})
    assert check.details["wrong"] == [
        "log_conections is no setting of this server; 'on' is expected",
        "log_statement is 'ddl'; 'all' is expected",
    ]
    with world.admin(database) as cursor:
        cursor.execute(f"create role quiet_{database} login")
        cursor.execute(f"alter role quiet_{database} in database {database} set log_statement = 'none'")
        check = settings_of(world, database, {"log_statement": "ddl"})
        cursor.execute(f"drop owned by quiet_{database}; drop role quiet_{database}")
    assert (
        check.message == f"log_statement is 'none' for role quiet_{database} in database {database}; 'ddl' is expected"
    )


def test_a_server_that_cannot_be_reached_is_an_error(world17: World) -> None:
    check = settings_of(world17, "no_such_database", {"log_statement": "ddl"})
    assert check.error is not None


# --- RDS ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("major", [14, 17])
def test_the_log_of_an_rds_instance_is_read_through_its_api(lab_rds_of: Callable[[int], LabRds], major: int) -> None:
    rds = lab_rds_of(major)
    table = f"t_{secrets.token_hex(4)}"
    postgres = Postgres.model_validate(
        {"name": rds.name, "databases": ["exchange"], "rds": {}, "audit": {"log": "rds", "settings": {}},
         "aws_connection": "dbops_s3", "region": rds.region}
    )  # fmt: skip

    def find(conn_id: str) -> ConnectionInfo:
        assert conn_id == "dbops_s3"
        return connections.info(conn_id, connections.s3(int(rds.endpoint.rpartition(":")[2])))

    assert storage_gb(postgres, find) == rds.describe()["AllocatedStorage"]
    assert storage_gb(postgres.model_copy(update={"storage_gb": 7}), find) == 7
    since = datetime.now(UTC) - timedelta(hours=1)
    with Session(rds.info()) as session:
        source, form = open_log(postgres, session, find)
        _, positions = check_ddl(postgres, source, form, {}, since)
        rds.rows(f"create table {table} (id int)")
        found = look_until(postgres, source, form, positions, since, table)
        assert [line.partition(": ")[2] for line in found] == [f"create table {table} (id int)"]
        assert found[0].startswith("exchange@exchange, 20")
    rds.rows(f"drop table {table}")


def look_until(
    postgres: Postgres, source: Any, form: Any, positions: Mapping[str, Position], since: datetime, word: str
) -> list[str]:
    until = time.monotonic() + 5
    while True:
        check, _ = check_ddl(postgres, source, form, positions, since)
        found = [line for line in check.details["statements"] if word in line]
        if found or time.monotonic() > until:
            return found
        time.sleep(0.05)
