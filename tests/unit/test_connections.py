"""Connections are read as a task in Airflow reads them, and an error never shows a value."""

from __future__ import annotations

import json
from typing import Any

import pytest
from airflow.sdk import Connection
from dbops.connections import ConnectionInfo, ConnectionMissing, from_env
from dbops.errors import ConfigurationError
from hypothesis import given
from hypothesis import strategies as st

URIS = [
    "postgres://user:pass@db.example.com:5432/exchange",
    "postgresql://user:p%40ss%2Fw%3Ard@db.example.com/exchange%2Dstage?sslmode=require&connect_timeout=10",
    "aerospike://127.0.0.1:3000",
    "aerospike://backup:s%C3%A9cret@[::1]:3000/?tls=true&tls_name=eu",
    "aws://AKIA:sec%2Fret@/?region_name=eu-west-1",
    "aws://?endpoint_url=http%3A%2F%2F127.0.0.1%3A9000",
    "google-cloud-platform://?__extra__=%7B%22a%22%3A+%7B%22b%22%3A+%5B1%2C+true%5D%7D%7D",
    "http://https://login:word@host.example.com:8443/path",
    "slackwebhook://:T0%2FB0%2Fxyz@https%3A%2F%2Fhooks.slack.com%2Fservices",
    "postgres://user:pass@%2Fvar%2FRun%2Fpostgresql/db",
    "pagerduty-events://:0123456789abcdef@",
    "smtp://ops%40example.com:w@mail.example.com:25/?disable_tls=true&empty=",
    "//user:pass@host:1/s",
    "  aerospike://h:1  ",
]
JSONS: list[dict[str, Any]] = [
    {"conn_type": "aerospike", "host": "127.0.0.1", "port": 3000},
    {"conn_type": "postgresql", "login": "u", "password": "p@:/ w", "schema": "exchange", "port": "5432"},
    {"conn_type": "google-cloud-platform", "extra": {"a": {"b": [1, True, None]}}},
    {"conn_type": "aws", "extra": '{"endpoint_url": "http://127.0.0.1:9000"}', "description": "the lab's"},
    {"conn_type": "smtp", "port": None, "extra": None, "host": ""},
    {},
]


def read(text: str) -> ConnectionInfo:
    return from_env("some_db", {"AIRFLOW_CONN_SOME_DB": text})


def as_airflow(text: str) -> ConnectionInfo:
    text = text.strip()
    found = (Connection.from_json if text.startswith("{") else Connection.from_uri)(text, conn_id="some_db")
    return ConnectionInfo(
        conn_id="some_db",
        conn_type=found.conn_type or "",
        host=found.host or None,
        port=found.port,
        login=found.login or None,
        password=found.password or None,
        schema=found.schema or None,
        extra=found.extra_dejson,
    )


@pytest.mark.parametrize("text", [*URIS, *map(json.dumps, JSONS)])
def test_both_forms_are_read_as_airflow_reads_them(text: str) -> None:
    assert read(text) == as_airflow(text)


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)


@given(
    login=TEXT,
    password=TEXT,
    schema=TEXT,
    port=st.integers(1, 65535),
    extra=st.dictionaries(TEXT, TEXT | st.booleans() | st.lists(st.integers())),
)
def test_what_airflow_writes_is_read_back_in_both_forms(
    login: str, password: str, schema: str, port: int, extra: dict[str, Any]
) -> None:
    written = Connection(
        conn_id="some_db", conn_type="aerospike", host="db.example.com", port=port, login=login,
        password=password, schema=schema, extra=json.dumps(extra),
    )  # fmt: skip
    expected = ConnectionInfo("some_db", "aerospike", "db.example.com", port, login, password, schema, extra)
    assert read(written.as_json()) == expected
    assert read(written.get_uri()) == expected


SECRET = "hunter2-xyz"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{" + SECRET, "starts as JSON but is none"),
        ("{" * 100_000, "starts as JSON but is none"),
        (json.dumps({"host": "h", "passwort": SECRET}), "keys that no connection has: passwort"),
        (json.dumps({"password": {"value": SECRET}}), "a password that is no text"),
        (json.dumps({"conn_type": 5}), "a conn_type that is no text"),
        (json.dumps({"port": SECRET}), "a port that is no number"),
        (json.dumps({"port": 65536}), "a port that is no number"),
        (json.dumps({"port": -1}), "a port that is no number"),
        (json.dumps({"port": True}), "a port that is no number"),
        (json.dumps({"port": 3000.5}), "a port that is no number"),
        (json.dumps({"port": [3000]}), "a port that is no number"),
        (json.dumps({"extra": SECRET}), "an extra that is no JSON"),
        (json.dumps({"extra": f'["{SECRET}"]'}), "an extra that is no JSON object"),
        (json.dumps({"extra": [SECRET]}), "an extra that is no JSON object"),
        (SECRET, "neither JSON nor a URI"),
        (f"user:{SECRET}@host:3000", "neither JSON nor a URI"),
        (f"postgres://u:{SECRET}@host:99999/db", "host or port cannot be read"),
        (f"postgres://u:{SECRET}@host:port/db", "host or port cannot be read"),
        (f"postgres://u:{SECRET}/x@host/db", "host or port cannot be read"),
        (f"postgres://u:{SECRET}@[::1/db", "host or port cannot be read"),
        (f"aws://u:{SECRET}@/?endpoint_url=http://127.0.0.1:9000", "percent-encode"),
        (f"http://https://x://{SECRET}@h", "percent-encode"),
        (f"aws://?__extra__={SECRET}", "an extra that is no JSON"),
    ],
)
def test_an_unreadable_connection_is_refused_with_the_reason_and_without_its_value(text: str, reason: str) -> None:
    with pytest.raises(ConnectionMissing) as caught:
        read(text)
    message = str(caught.value)
    assert "AIRFLOW_CONN_SOME_DB" in message
    assert reason in message
    assert SECRET not in message
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("environ", [{}, {"AIRFLOW_CONN_SOME_DB": ""}, {"AIRFLOW_CONN_SOME_DB": " \n"}])
def test_a_missing_connection_names_the_variable_to_set(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="AIRFLOW_CONN_SOME_DB is not set"):
        from_env("some_db", environ)


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SOME_DB", "aerospike://h:3000")
    assert from_env("some_db") == ConnectionInfo("some_db", "aerospike", "h", 3000)


def test_secrets_do_not_show_in_a_repr() -> None:
    shown = repr(read(json.dumps({"login": "ops", "password": SECRET, "extra": {"token": SECRET}})))
    assert SECRET not in shown
    assert "ops" in shown


@given(st.text(max_size=60))
def test_no_text_raises_anything_but_the_error_that_says_so(text: str) -> None:
    for form in (text, f"aerospike://{text}", '{"host": ' + json.dumps(text) + "}", "{" + text):
        try:
            found = read(form)
        except ConnectionMissing:
            continue
        assert found.conn_id == "some_db"
