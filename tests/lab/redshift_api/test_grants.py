"""The login that `grants.sql` makes can do all that the package does, and nothing beyond."""

from __future__ import annotations

import itertools
import re
import secrets
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from dbops.platform import Grantee
from dbops.redshift.access import review_access
from dbops.redshift.session import Session, StatementRefused, open_session
from dbops.sql import DIRECTORY, quoted, statement
from dbops_lab.testing import LabRedshift, LabS3

PASSWORD = f"Aa1{secrets.token_hex(8)}"
GRANTS = DIRECTORY / "redshift" / "grants.sql"
AT = datetime(2026, 1, 1)  # noqa: DTZ001 - as the columns of system views have it


def grants(**names: str) -> list[str]:
    """The statements of the file with psql's variables in them."""
    text = "\n".join(line for line in GRANTS.read_text().splitlines() if not line.startswith("--"))
    text = re.sub(r':"(\w+)"', lambda found: quoted(names[found[1]]), text)
    return [part.strip() for part in text.split(";") if part.strip()]


class Place:
    """A schema whose tables belong to `etl`, and the login of the package."""

    def __init__(self, admin: Session, login: Any) -> None:
        mark = secrets.token_hex(4)
        self.admin, self.schema, self.owner, self.dbops = admin, f"s_{mark}", f"etl_{mark}", f"dbops_{mark}"
        for name in (self.owner, self.dbops):
            admin.run(f"create user {name} password '{PASSWORD}'")
        admin.run(f"create schema {self.schema} authorization {self.owner}")
        self.etl = open_session(replace(login, login=self.owner, password=PASSWORD))
        self.etl.run(f'create table {self.schema}.wins (id bigint, "timestamp" timestamp) sortkey("timestamp")')
        self.etl.run(f"insert into {self.schema}.wins values (1, '2026-01-01'), (2, '2026-01-01'), (3, '2026-01-02')")
        self.etl.run(f"create table {self.schema}.wins_20260101 (id bigint)")
        for line in grants(dbops=self.dbops, schema=self.schema, owner=self.owner):
            admin.run(line)
        self.etl.run(f"create table {self.schema}.later (id bigint)")
        self.session = open_session(replace(login, login=self.dbops, password=PASSWORD))

    def close(self) -> None:
        self.session.close()
        self.etl.close()
        self.admin.run(f"revoke select on svv_table_info from {self.dbops}")
        self.admin.run(f"drop schema {self.schema} cascade")
        for name in (self.dbops, self.owner):
            self.admin.run(f"drop user {name}")
        self.admin.close()


@pytest.fixture
def place(lab_redshift: LabRedshift) -> Iterator[Place]:
    made = Place(open_session(lab_redshift.info()), lab_redshift.info())
    yield made
    made.close()


def queries() -> Iterator[tuple[str, str]]:
    """Name and text of each SELECT of include/sql/redshift that is of system views or of one table.

    What changes something, or reads tables that the package has made itself, is tested below; the guide's own queries
    are for people.
    """
    for path in sorted((DIRECTORY / "redshift").glob("*.sql")):
        text = "" if path == GRANTS or path.stem.startswith("guide_") else statement(f"redshift/{path.stem}")
        if text.lower().startswith(("select", "with")) and set(re.findall(r"\{(\w+)\}", text)) <= {"table", "column"}:
            yield path.stem, text


def test_every_query_of_the_package_runs_under_these_rights(place: Place) -> None:
    found = dict(queries())
    assert len(found) > 10
    for name, text in found.items():
        written = text.replace("{table}", quoted(place.schema, "wins")).replace("{column}", '"timestamp"')
        assert runs(place.session, written), f"{name} runs with no values that a test knows"


def runs(session: Session, text: str) -> bool:
    """Whether a statement runs, with whatever values fit its places; a missing right is an error."""
    for values in itertools.product((AT, 1, "x"), repeat=text.count("%s")):
        try:
            session.rows(text, *values)
        except StatementRefused as refused:
            if refused.code == "42501" or not values:
                raise
            continue
        return True
    return False


def test_others_rights_are_seen_so_that_a_review_proves_something(place: Place) -> None:
    review = review_access(place.session, [Grantee(name=place.owner, schemas=(place.schema,))], datetime.now(UTC))
    assert [item.who for item in review.findings if item.who == f"user {place.dbops}"]


def test_maintenance_works_on_tables_of_others(place: Place) -> None:
    place.session.run(f"delete from {place.schema}.wins where id = 1")
    place.session.run(f"vacuum delete only {place.schema}.wins to 100 percent")
    place.session.run(f"analyze {place.schema}.wins")
    info = "select tbl_rows, stats_off from svv_table_info where schema = %s and \"table\" = 'wins'"
    (row,) = place.session.rows(info, place.schema)
    assert [int(value) for value in row] == [2, 0], "a VACUUM without the right is skipped in silence"


def test_archival_unloads_deletes_drops_and_brings_back(place: Place, lab_s3: LabS3) -> None:
    url = f"s3://{lab_s3.bucket}/{lab_s3.new_prefix()}/"
    query = f"select * from {place.schema}.wins where \"timestamp\" < ''2026-01-02''".replace("''", "\\'")
    place.session.run(f"unload ('{query}') to '{url}' iam_role default format parquet manifest verbose")
    with place.session.transaction():
        assert place.session.run(f"delete from {place.schema}.wins where \"timestamp\" < '2026-01-02'") == 2
    place.session.run(f"create table {place.schema}.back (like {place.schema}.wins)")
    place.session.run(f"copy {place.schema}.back from '{url}manifest' iam_role default format parquet manifest")
    assert place.session.run(f"insert into {place.schema}.wins select * from {place.schema}.back") == 2
    place.session.run(f"drop table {place.schema}.back")
    place.session.run(f"drop table {place.schema}.wins_20260101")
    assert list(place.session.rows(f"select count(*) from {place.schema}.wins")[0]) == [3]


def test_tables_that_come_later_are_covered(place: Place) -> None:
    place.session.run(f"insert into {place.schema}.later values (1)")
    assert place.session.run(f"delete from {place.schema}.later") == 1


@pytest.mark.parametrize(
    "beyond",
    [
        "update {schema}.wins set id = 0",
        "truncate {schema}.wins",
        "create user another password 'Secret12345'",
        "create schema another",
        "alter table {schema}.wins add column x int",
        "drop schema {schema} cascade",
    ],
)
def test_nothing_beyond_is_allowed(place: Place, beyond: str) -> None:
    with pytest.raises(StatementRefused) as refused:
        place.session.run(beyond.format(schema=place.schema))
    assert refused.value.code == "42501"


def test_it_cannot_pass_its_rights_on(place: Place) -> None:
    place.session.run(f"grant select on {place.schema}.wins to public")  # a warning, as in PostgreSQL
    query = "select count(*) from svv_relation_privileges where namespace_name = %s and identity_type = 'public'"
    assert list(place.admin.rows(query, place.schema)[0]) == [0]


def test_every_statement_says_its_rights_and_where_it_works() -> None:
    for path in sorted((DIRECTORY / "redshift").glob("*.sql")):
        head = "\n".join(line for line in path.read_text().splitlines() if line.startswith("--"))
        for word in ("Rights:", "erverless"):
            assert word in head, f"{path.name} does not say: {word}"
