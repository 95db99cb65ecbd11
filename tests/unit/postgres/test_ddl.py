"""Of a text in a log: which statements change the schema, and that nothing secret of them is shown."""

from __future__ import annotations

import time

import pytest
from dbops.postgres.ddl import LONGEST, changes, masked


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("create table a.b (x text default 'q')", ["create table a.b (x text default '***')"]),
        ('select 1; drop table "A;b";', ['drop table "A;b"']),
        ("/* drop table a /* nested */ */ alter table t add c int -- and why", ["alter table t add c int"]),
        ("GRANT select\n  ON t TO x", ["GRANT select ON t TO x"]),
        ("select a into t from b", ["select a into t from b"]),
        ("select 'create table x'", []),
        ("select (select 1 into x)", []),
        ("insert into audit values ('drop table x')", []),
        ("create temp table x (id int)", []),
        ("create local temporary table x (id int)", []),
        ("create or replace temp view x as select 1", []),
        ("select a into temp t from b", []),
        ("truncate t; reindex table t; vacuum t", []),
        ("create function f() returns void language sql as $$ drop table x $$",
         ["create function f() returns void language sql as '***'"]),
        ("", []),
        (";;", []),
    ],
)  # fmt: skip
def test_what_changes_the_schema_is_told_and_nothing_else(text: str, found: list[str]) -> None:
    assert changes(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "create role x password 'hunter2'",
        "alter role x encrypted password 'it''s hunter2'",
        r"alter role x password E'it\'s hunter2'",
        "alter role x password $$hunter2$$",
        "alter role x password $tag$it's $$ hunter2$tag$",
        "alter role x password U&'hunter2'",
        "alter role x password 'hunter2",  # cut off by the log
        "alter role x password $a$hunter2",
        "alter role x login -- hunter2",
        "alter role x login /* hunter2",
        "create user mapping for a server b options (user 'x', password 'hunter2')",
        "create subscription s connection 'host=a password=hunter2' publication p",
        "comment on role x is 'hunter2'; create extension y",
    ],
)
def test_no_secret_of_a_statement_is_shown(text: str) -> None:
    assert "hunter2" in text
    (shown, *_) = changes(text)
    assert "hunter2" not in shown
    assert "hunter2" not in masked(text)


def test_a_hostile_text_takes_no_time_and_a_long_one_is_cut() -> None:
    began = time.monotonic()
    for text in ("create table x (" + "'" * 60_000, "$a" * 30_000, "create /*" * 20_000, "create " + "(" * 60_000):
        changes(text)
    assert time.monotonic() - began < 2
    (shown,) = changes(f"create view v as select {', '.join(['column_name'] * 500)}")
    assert len(shown) == LONGEST
    assert shown.endswith("…")
