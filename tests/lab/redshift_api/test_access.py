"""The review of rights, over a real session: what goes beyond the platform file is found, and only that."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from dbops.platform import Grantee
from dbops.redshift.access import Finding, Review, RightsNotVisible, review_access
from dbops.redshift.session import Session, open_session
from dbops.sql import quoted
from dbops_lab.testing import LabRedshift

NOW = datetime.now(UTC)
PASSWORD = f"Aa1{secrets.token_hex(8)}"


class Warehouse:
    """A schema, users, a group and a role of one test, and who may what."""

    def __init__(self, session: Session, owner: str) -> None:
        self.session, self.owner = session, owner
        self.mark = secrets.token_hex(4)
        self.schema = f"s_{self.mark}"
        self._made: list[str] = []
        self.allowed: list[Grantee] = [Grantee(name=owner, superuser=True)]
        self.run(f"create schema {self.schema}", f"create table {self.schema}.wins (n int)")
        self.run(f"create table {self.schema}.clicks (n int)")
        self.run("revoke create on schema public from public")

    def run(self, *statements: str) -> None:
        for statement in statements:
            self.session.run(statement)

    def make(self, kind: str, name: str, options: str = "", **entry: Any) -> str:
        """A user, group or role; with an entry it is in the platform file."""
        full = f"{name}_{self.mark}"
        written = quoted(full)
        self.run(f"create {kind} {written} {options}")
        self._made.insert(0, f"drop {kind} {written}")
        if entry:
            self.allowed.append(Grantee(name=full, kind=kind, **entry))  # type: ignore[arg-type]
        return written if " " in name else full

    def user(self, name: str, options: str = "", **entry: Any) -> str:
        return self.make("user", name, f"password '{PASSWORD}' {options}", **entry)

    def review(self) -> Review:
        return review_access(self.session, self.allowed, NOW)

    def found(self) -> set[tuple[str, str, str]]:
        """Findings of this test, without the mark in names."""
        return {
            (
                item.kind,
                *(text.replace(self.schema, "s").replace(f"_{self.mark}", "") for text in (item.who, item.text)),
            )
            for item in self.review().findings
            if self.mark in item.line or item.who == "PUBLIC"
        }

    def fix(self) -> None:
        """What the findings advise."""
        for item in self.review().findings:
            if self.mark in item.line or item.who == "PUBLIC":
                assert item.fix, item
                self.run(item.fix)

    def close(self) -> None:
        self.run(f"drop schema {self.schema} cascade", *self._made)
        self.session.close()


@pytest.fixture
def warehouse(lab_redshift: LabRedshift) -> Iterator[Warehouse]:
    made = Warehouse(open_session(lab_redshift.info()), lab_redshift.user)
    yield made
    made.close()


def test_what_was_agreed_is_no_finding(warehouse: Warehouse) -> None:
    entry: dict[str, Any] = {"schemas": [warehouse.schema], "privileges": ["select", "insert", "delete"]}
    analysts = warehouse.make("group", "analysts", schemas=[warehouse.schema], privileges=["select"])
    loader = warehouse.make("role", "loader", creates=True, **entry)
    etl = warehouse.user("etl", member_of=[loader, analysts], **entry)
    warehouse.run(
        f"grant usage on schema {warehouse.schema} to {etl}, group {analysts}, role {loader}",
        f"grant create on schema {warehouse.schema} to role {loader}",
        f"grant select, insert, delete on all tables in schema {warehouse.schema} to {etl}, role {loader}",
        f"grant select on {warehouse.schema}.wins to group {analysts}",
        f"grant role {loader} to {etl}",
        f"alter group {analysts} add user {etl}",
        f"alter default privileges in schema {warehouse.schema} grant select on tables to group {analysts}",
    )
    assert warehouse.found() == set()
    warehouse.run(
        f"alter default privileges in schema {warehouse.schema} revoke select on tables from group {analysts}"
    )


def test_unknown_users_groups_and_roles_are_found_and_superusers_beyond_the_list(warehouse: Warehouse) -> None:
    warehouse.user("stranger")
    warehouse.make("group", "strangers")
    warehouse.make("role", "loader")
    warehouse.user("boss", "createuser")
    warehouse.user("ann", "createuser", schemas=[warehouse.schema])
    warehouse.user("admin", "createuser", superuser=True)
    assert warehouse.found() == {
        ("unknown", "user stranger", "is not in the platform file"),
        ("unknown", "group strangers", "is not in the platform file"),
        ("unknown", "role loader", "is not in the platform file"),
        ("unknown", "user boss", "is not in the platform file, and a superuser"),
        ("superuser", "user ann", "is a superuser"),
    }


def test_the_users_of_redshift_itself_are_not_reported(warehouse: Warehouse) -> None:
    assert not [item for item in warehouse.review().findings if "rdsdb" in item.line or "sys:" in item.who]


def test_grants_beyond_schemas_or_privileges_are_found(warehouse: Warehouse) -> None:
    looker = warehouse.user("looker", schemas=[warehouse.schema], privileges=["select"])
    other = warehouse.user("other", schemas=["elsewhere"], privileges=["select"])
    warehouse.run(
        f"grant usage, create on schema {warehouse.schema} to {looker}",
        f"grant select, insert on {warehouse.schema}.wins to {looker}",
        f"grant delete on all tables in schema {warehouse.schema} to {looker}",
        f"grant drop on {warehouse.schema}.wins to {looker}",
        f"grant select on {warehouse.schema}.wins to {looker} with grant option",
        f"grant select on {warehouse.schema}.clicks to {other}",
    )
    assert warehouse.found() == {
        ("schema", "user looker", "may create tables in schema s"),
        ("grant", "user looker", "may insert s.wins"),
        ("grant", "user looker", "may delete 2 tables of s (clicks, ...)"),
        ("grant", "user looker", "may drop s.wins"),
        ("grant", "user looker", "may let others select s.wins"),
        ("grant", "user other", "may select s.clicks"),
    }


def test_what_everybody_may_is_found(warehouse: Warehouse) -> None:
    warehouse.run(
        f"grant select on {warehouse.schema}.wins to public",
        f"grant usage on schema {warehouse.schema} to public",
        "grant create on schema public to public",
    )
    assert warehouse.found() == {
        ("grant", "PUBLIC", "may select s.wins"),
        ("schema", "PUBLIC", "may use schema s"),
        ("schema", "PUBLIC", "may create tables in schema public"),
    }
    warehouse.allowed.append(
        Grantee(name="public", kind="group", schemas=(warehouse.schema, "public"), privileges=("select",), creates=True)
    )
    assert warehouse.found() == set()
    warehouse.run("revoke create on schema public from public")


def test_membership_and_rights_of_roles_beyond_the_list_are_found(warehouse: Warehouse) -> None:
    analysts = warehouse.make("group", "analysts", schemas=[warehouse.schema])
    cleaner = warehouse.make("role", "cleaner", schemas=[warehouse.schema], system=["VACUUM"])
    loader = warehouse.make("role", "loader", schemas=[warehouse.schema])
    ann = warehouse.user("ann", "createdb", schemas=[warehouse.schema], member_of=[loader])
    warehouse.run(
        f"alter group {analysts} add user {ann}",
        f"grant role {cleaner} to {ann}",
        f"grant role {loader} to {ann} with admin option",
        f"grant role {cleaner} to role {loader}",
        f"grant vacuum, analyze to role {cleaner}",
    )
    assert warehouse.found() == {
        ("member", "user ann", "is in group analysts"),
        ("member", "user ann", "is in role cleaner"),
        ("member", "user ann", "may give role loader to others"),
        ("member", "role loader", "is in role cleaner"),
        ("system", "role cleaner", "may analyze in the whole database"),
        ("system", "user ann", "may create databases"),
    }


def test_what_will_be_granted_on_new_tables_is_found(warehouse: Warehouse) -> None:
    looker = warehouse.user("looker", schemas=[warehouse.schema])
    warehouse.run(f"alter default privileges in schema {warehouse.schema} grant insert on tables to {looker}")
    (finding,) = warehouse.found()
    assert finding[0] == "default"
    assert finding[2].startswith("may insert every table that ")
    warehouse.fix()
    assert warehouse.found() == set()


def test_passwords_that_are_over_or_soon_will_be_are_found(warehouse: Warehouse) -> None:
    for name, days in (("late", -3), ("soon", 3), ("later", 60)):
        until = f"{NOW + timedelta(days=days, hours=1):%F %T}"
        warehouse.user(name, f"valid until '{until}'", schemas=[warehouse.schema])
    warehouse.user("ever", schemas=[warehouse.schema])
    assert {(kind, who) for kind, who, _ in warehouse.found()} == {("password", "user late"), ("password", "user soon")}
    assert ("password", "user soon", "has a password that expires in 3 d") in warehouse.found()


def test_the_advised_statements_end_the_findings(warehouse: Warehouse) -> None:
    analysts = warehouse.make("group", "analysts", schemas=["elsewhere"])
    role = warehouse.make("role", "cleaner", schemas=["elsewhere"])
    ann = warehouse.user("ann", "createuser createdb", schemas=["elsewhere"])
    odd = warehouse.user('odd "user"', schemas=["elsewhere"])
    everybody = f"{odd}, group {analysts}, role {role}, public"
    warehouse.run(
        f"grant select, insert on all tables in schema {warehouse.schema} to {everybody}",
        f"grant usage, create on schema {warehouse.schema} to {odd}",
        f"grant role {role} to {odd}",
        f"alter group {analysts} add user {odd}",
        f"grant vacuum to role {role}",
    )
    assert len(warehouse.found()) >= 12
    warehouse.fix()  # a superuser's grants show when it is none any more
    warehouse.fix()
    assert warehouse.found() == set()
    assert ann


def test_who_is_in_the_file_and_not_there_is_a_note(warehouse: Warehouse) -> None:
    warehouse.allowed.append(Grantee(name="gone"))
    review = warehouse.review()
    assert "user gone is in the platform file (redshift.access) and does not exist" in review.notes
    assert review.users >= 1


def test_a_login_that_sees_only_itself_proves_nothing(warehouse: Warehouse, lab_redshift: LabRedshift) -> None:
    name = warehouse.user("small", schemas=[warehouse.schema])
    info = lab_redshift.info()
    session = open_session(replace(info, login=name, password=PASSWORD))
    with pytest.raises(RightsNotVisible, match="GRANT ROLE sys:monitor TO") as refused:
        review_access(session, warehouse.allowed, NOW)
    session.close()
    assert PASSWORD not in str(refused.value)


def test_a_long_list_is_cut_in_words_and_whole_in_the_findings() -> None:
    findings = tuple(Finding("grant", f"user u{n}", "may") for n in range(30))
    text = Review(findings, (), 1, 0, 0).in_words(most=3)
    assert text.splitlines() == ["user u0: may", "user u1: may", "user u2: may", "and 27 more"]
