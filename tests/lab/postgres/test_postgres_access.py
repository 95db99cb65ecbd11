"""Rights in real servers against those of a platform file: too much, missing, and what puts it right."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from dbops.platform import Postgres
from dbops.postgres.access import is_own, review_access
from dbops.postgres.health import Check
from postgres_world import MONITOR, OWNER, World, grant

NOW = datetime.now(UTC)


@contextmanager
def roles(world: World, *names: str) -> Iterator[list[str]]:
    """Roles of this test alone; the server is shared."""
    made = [f"{name}_{secrets.token_hex(3)}" for name in names]
    with world.admin() as cursor:
        for name in made:
            cursor.execute(f'create role "{name}" login')
    yield made
    databases = [
        row[0] for row in world.run("postgres", "select datname from pg_database where datallowconn", role=OWNER)
    ]
    for database in databases:
        with world.admin(database) as cursor:
            for name in made:
                cursor.execute(f'drop owned by "{name}"')
    with world.admin() as cursor:
        for name in made:
            cursor.execute(f'drop role "{name}"')


def reviewed(world: World, database: str, *entries: dict[str, Any]) -> tuple[list[dict[str, str]], Check, Check]:
    """Findings about the roles named in the entries, PUBLIC and the database; the checks of roles and database."""
    named = {entry["name"] for entry in entries}
    base = [{"name": MONITOR, "member_of": ["pg_monitor"], "schemas": ["public"], "sequences": ["select"]}]
    base += [{"name": OWNER, "schemas": ["public"], "owns": True}]
    given = [*(entry for entry in base if entry["name"] not in named), *entries]
    postgres = Postgres.model_validate({"name": "shop", "databases": [database], "access": given})
    checks = review_access(postgres, lambda name: world.session(name, read_only=True), NOW)
    ours = {f"role {name}" for name in named} | {"PUBLIC"}
    found = [one for check in checks for one in check.details["findings"] if one["who"] in ours]
    return found, checks[0], checks[1]


def put_right(world: World, database: str, found: list[dict[str, str]]) -> None:
    with world.admin(database) as cursor:
        for one in found:
            cursor.execute(one["fix"])


def texts(found: list[dict[str, str]]) -> list[str]:
    return [f"{one['kind']}: {one['text']}" for one in found]


def test_what_a_new_database_gives_to_everybody_is_found_and_the_statements_end_it(world: World) -> None:
    database = world.new_database()
    found, _, _ = reviewed(world, database)
    expected = [
        f"database: may connect to database {database}",
        f"database: may make temporary tables in database {database}",
    ]
    if world.major < 15:
        expected.append("schema: may create in schema public")
    assert texts(found) == expected
    put_right(world, database, found)
    grant(world.server, database, MONITOR)
    found, _, check = reviewed(world, database)
    assert found == []
    assert "rights are as the platform file says" in check.message or check.details["findings"]
    agreed = {"name": "public", "temporary": True}
    with world.admin(database) as cursor:
        cursor.execute(f"grant connect, temporary on database {database} to public")
    assert reviewed(world, database, agreed)[0] == []


def test_too_much_is_found_with_the_statement_that_takes_it_back(world: World) -> None:
    database = world.new_database()
    world.run(
        database, 'create table "Ad Spend" (id serial primary key, secret text)', "create table other (id int)",
        "create schema private", "create table private.hidden (id int)",
    )  # fmt: skip
    with roles(world, "App", "reader") as (app, reader), world.admin(database) as cursor:
        cursor.execute(f"alter role \"{app}\" createdb bypassrls valid until '2020-01-01'")
        cursor.execute(f'grant pg_read_all_data to "{app}"')
        cursor.execute(f'grant "{reader}" to "{app}" with admin option')
        cursor.execute(f'grant select, delete on "Ad Spend" to "{app}"')
        cursor.execute(f'grant select on all tables in schema public to "{reader}" with grant option')
        cursor.execute(f'grant select (id) on private.hidden to "{reader}"')
        cursor.execute(f'grant usage, create on schema private to "{reader}"')
        cursor.execute(f'grant create on database {database} to "{reader}"')
        cursor.execute(f'alter default privileges for role {OWNER} grant insert on tables to "{reader}"')
        cursor.execute(f'create table owned (id int); alter table owned owner to "{reader}"')
        cursor.execute("create function peek() returns int language sql security definer as 'select 1'")
        entries = (
            {"name": app, "schemas": ["public"], "privileges": ["select"]},
            {"name": reader, "schemas": ["public"], "privileges": ["select"]},
            {"name": "public", "temporary": True, "schemas": ["public"], "creates": True},
        )
        found, server, here = reviewed(world, database, *entries)
        assert set(texts(found)) == {
            "attribute: is createdb", "attribute: is bypassrls", "member: is a member of pg_read_all_data",
            f"member: is a member of {reader}", "password: has a password that expired 2020-01-01",
            "table: may delete table public.Ad Spend",
            "table: may let others select 2 tables of public (Ad Spend, ...)",
            "column: may select column private.hidden.id", "schema: may use schema private",
            "schema: may create in schema private", f"database: may create schemas in database {database}",
            f"default: may insert every table that {OWNER} makes in any schema", "owner: owns public.owned",
            "definer: may run public.peek with the rights of postgres (SECURITY DEFINER)",
        }  # fmt: skip
        fixes = {one["fix"] for one in found}
        assert f'REVOKE DELETE ON TABLE "public"."Ad Spend" FROM "{app}"' in fixes
        assert (server.severity, here.severity) == ("warning", "warning")
        put_right(world, database, [one for one in found if one["fix"]])
        missed, _, _ = reviewed(world, database, *entries)
        assert "missing: may not select 2 tables of public (other, ...)" in texts(missed), "it came by a membership"
        put_right(world, database, [one for one in missed if one["fix"]])
        left, _, _ = reviewed(world, database, *entries)
        assert texts(left) == ["password: has a password that expired 2020-01-01"]


def test_what_is_missing_is_found_unless_it_comes_by_membership(world: World) -> None:
    database = world.new_database()
    world.run(database, "create schema app", "create table app.a (id serial)", "create table app.b (id int)",
              "create view app.v as select 1 as one")  # fmt: skip
    with roles(world, "app", "group") as (app, group):
        entry = {"name": app, "schemas": ["app"], "privileges": ["select", "insert"], "sequences": ["usage"],
                 "creates": True, "member_of": [group], "attributes": ["createdb"]}  # fmt: skip
        everybody = {"name": "public", "temporary": True, "schemas": ["public"], "creates": True}
        found, _, _ = reviewed(world, database, entry, {"name": group}, everybody)
        assert set(texts(found)) == {
            "missing: is not createdb", f"missing: is no member of {group}", "missing: may not use schema app",
            "missing: may not create in schema app", "missing: may not select 3 tables of app (a, ...)",
            "missing: may not insert 2 tables of app (a, ...)", "missing: may not usage sequence app.a_id_seq",
        }  # fmt: skip
        put_right(world, database, found)
        assert reviewed(world, database, entry, {"name": group}, everybody)[0] == []
        with world.admin(database) as cursor:
            cursor.execute(f'revoke all on all tables in schema app from "{app}"')
            cursor.execute(f'grant select, insert on all tables in schema app to "{group}"')
        found, _, _ = reviewed(world, database, entry, {"name": group}, everybody)
        assert {one["who"] for one in found} == {f"role {group}"}, "it has them through the group"


def test_rights_on_single_tables_can_be_agreed(world17: World) -> None:
    database = world17.new_database()
    world17.run(database, "create schema app", 'create table app."T" (id int)', "create table app.b (id int)")
    with roles(world17, "app") as (app,), world17.admin(database) as cursor:
        entry = {"name": app, "tables": {"app.T": ["select", "insert"]}}
        everybody = {"name": "public", "temporary": True}
        found, _, _ = reviewed(world17, database, entry, everybody)
        assert set(texts(found)) == {
            "missing: may not use schema app",
            "missing: may not select table app.T",
            "missing: may not insert table app.T",
        }
        put_right(world17, database, found)
        assert reviewed(world17, database, entry, everybody)[0] == []
        cursor.execute(f'grant select on app.b to "{app}"')
        (found_one,) = reviewed(world17, database, entry, everybody)[0]
        assert found_one["text"] == "may select table app.b"
        assert found_one["fix"] == f'REVOKE SELECT ON TABLE "app"."b" FROM "{app}"'


def test_an_unknown_role_is_found_and_an_absent_one_and_endless_passwords_are_told(world17: World) -> None:
    database = world17.new_database()
    with roles(world17, "stranger") as (stranger,), world17.admin() as cursor:
        cursor.execute(f"alter role \"{stranger}\" superuser valid until '{NOW + timedelta(days=3):%Y-%m-%d}'")
        _, server, _ = reviewed(world17, database, {"name": "nobody_there"})
        found = next(one for one in server.details["findings"] if one["who"] == f"role {stranger}")
        assert found["text"] == "is not in the platform file, superuser"
        assert found["fix"] == f'DROP ROLE "{stranger}"'
        notes = "\n".join(server.details["notes"])
        assert "role nobody_there is in the platform file (postgres.access) and does not exist" in notes
        assert "passwords that never expire: " in notes
        cursor.execute(f'alter role "{stranger}" nosuperuser')
        (soon,) = reviewed(world17, database, {"name": stranger}, {"name": "public", "temporary": True})[0]
        assert soon["text"] in {"has a password that expires in 2 d", "has a password that expires in 3 d"}


def test_a_grant_counts_only_in_the_databases_that_are_named(world17: World) -> None:
    one, other = world17.new_database(), world17.new_database()
    with roles(world17, "app") as (app,), world17.admin() as cursor:
        for database in (one, other):
            cursor.execute(f"revoke all on database {database} from public")
            cursor.execute(f'grant connect on database {database} to "{app}"')
        entry = {"name": app, "databases": [one]}
        postgres = Postgres.model_validate({"name": "shop", "databases": [one, other], "access": [entry]})
        checks = review_access(postgres, lambda name: world17.session(name, OWNER, read_only=True), NOW)
        ours = [[f["text"] for f in check.details["findings"] if f["who"] == f"role {app}"] for check in checks]
        assert ours == [[], [], [f"may connect to database {other}"]]


def test_a_database_that_cannot_be_looked_at_is_an_error(world17: World) -> None:
    postgres = Postgres.model_validate({"name": "shop", "databases": ["no_such"], "access": [{"name": "x"}]})
    checks = review_access(postgres, lambda name: world17.session(name), NOW)
    assert [(check.target, check.error is not None) for check in checks] == [("shop", True), ("shop/no_such", True)]
    assert is_own("pg_monitor")
    assert not is_own("rds_of_somebody")
