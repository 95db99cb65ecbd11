"""No secret survives redaction, whatever it is wrapped in; what is no secret does."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from dbops.redact import MASK, redact
from hypothesis import example, given
from hypothesis import strategies as st

# without '*': a mask beside other text could spell such a secret anew
ANY = st.characters(exclude_characters="*")
SECRETS = st.text(ANY, min_size=4, max_size=40)
TEXTS = st.text(ANY, max_size=40)
ENCODERS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "url": lambda text: quote(text, safe="", errors="surrogatepass"),
    "url, slashes kept": lambda text: quote(text, errors="surrogatepass"),
    "url, lower case": lambda text: re.sub(
        "%..", lambda octet: octet[0].lower(), quote(text, safe="", errors="surrogatepass")
    ),
    "form": lambda text: quote_plus(text, errors="surrogatepass"),
    "json": lambda text: json.dumps(text)[1:-1],
    "json, unicode kept": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "json in json": lambda text: json.dumps(json.dumps(text))[1:-1],
    "json with \\/": lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),
    "repr": lambda text: repr(text)[1:-1],
    "repr of repr": lambda text: repr(repr(text))[1:-1],
    "ascii": lambda text: ascii(text)[1:-1],
    "html": html.escape,
    "slack": lambda text: text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"),
}


@pytest.mark.parametrize("encode", ENCODERS.values(), ids=ENCODERS)
@given(secret=SECRETS, before=TEXTS, after=TEXTS)
@example(secret='a"b\\c/d e', before="", after="")
@example(secret="\\\\\\\\", before='"', after='"')
@example(secret="p\u00e4ss\U0001f511\n\x00\x7f", before="x", after="y")
@example(secret="p%40ss+w ord&<>'", before="", after="")
def test_a_given_secret_never_survives(encode: Callable[[str], str], secret: str, before: str, after: str) -> None:
    written = encode(secret)
    found = redact(f"{before}{written}{after}", [secret])
    assert written not in found
    assert secret not in found


WORDS = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_categories=["C", "Z"], exclude_characters="\"'*<>\\"),
    min_size=6,
    max_size=30,
).map(lambda word: f"k{word}9")
SHAPES = {
    "password=": "cannot connect: host=db password={} sslmode=require",
    "PGPASSWORD": "PGPASSWORD={} pg_dump",
    "python": "connect(user='x', password='{}')",
    "quoted with blank": 'login failed, password="{} {}" was refused',
    "json": '{{"login": "x", "password": "{}", "port": 5432}}',
    "json in json": '{{\\"login\\": \\"x\\", \\"password\\": \\"{}\\"}}',
    "yaml": "password: {}\nuser: x",
    "cut off": 'could not parse {{"password": "{}',
    "dsn": "could not connect to postgresql+psycopg2://exchange:{}@db.example.com:5432/exchange",
    "dsn without user": "redis://:{}@cache:6379/0",
    "two dsns": "a://u:{}@h1,b://u:{}@h2",
    "dsn in json": '{{"uri":"postgres:\\/\\/u:{}@h\\/db"}}',
    "aws": "AWS_SECRET_ACCESS_KEY={} AWS_REGION=eu-west-1",
    "aws session": "aws_session_token = {}",
    "aws json": '{{"SecretAccessKey": "{}", "SessionToken": "{}"}}',
    "signed url": "GET https://b.s3.amazonaws.com/k?X-Amz-Date=1&X-Amz-Signature={}",
    "header": "Authorization: Bearer {}",
    "header in dict": "{{'Authorization': 'Token token={}', 'Accept': '*/*'}}",
    "header in json": '{{\\"authorization\\": \\"Basic {}\\"}}',
    "api key": "x-api-key: {}",
    "routing key": '{{"routing_key":"{}","event_action":"trigger"}}',
    "private key": "-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----",
    "private key cut off": "-----BEGIN PRIVATE KEY-----\n{}\n",
    "encoded": "callback?password%3D{}",
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@given(secret=WORDS)
@example(secret="p@ss/w:rd@x?y#z")
def test_what_looks_like_a_secret_never_survives(shape: str, secret: str) -> None:
    found = redact(shape.format(secret, secret))
    assert secret not in found
    assert MASK in found


HEX = st.text("0123456789abcdef", min_size=32, max_size=32)


@given(token=st.text("ABCdef0123456789", min_size=20, max_size=24), key=HEX)
def test_slack_and_pagerduty_keys_never_survive(token: str, key: str) -> None:
    text = (
        f"POST https://hooks.slack.com/services/T0AB/B0CD/{token} failed; "
        f"POST http://127.0.0.1:8099/services/T0AB/B0CD/{token}: 500; "
        f'"https:\\/\\/hooks.slack.com\\/services\\/T0AB\\/B0CD\\/{token}"; xoxb-12345678-{token} '
        f"POST /integration/{key}/enqueue; routing_key: {key}; Bearer {token}"
    )
    found = redact(text)
    assert token not in found
    assert key not in found
    assert "hooks.slack.com" in found
    assert "failed" in found


def test_an_encoded_dsn_keeps_its_host_only() -> None:
    assert redact("url=postgres%3A%2F%2Fu%3Ahunter2%40db%2Fx") == "url=postgres%3A%2F%2Fu%3A***%40db%2Fx"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgres://ops:hunter2@db:5432/x?sslmode=require", "postgres://ops:***@db:5432/x?sslmode=require"),
        ('{"password": "a\\"b", "port": 1}', '{"password": "***", "port": 1}'),
        ('{\\"password\\": \\"a\\\\\\"b\\", \\"port\\": 1}', '{\\"password\\": \\"***\\", \\"port\\": 1}'),
        ("password=x1 user=ops", "password=*** user=ops"),
        ("Authorization: Basic b3BzOmh1bnRlcjI=\nAccept: */*", "Authorization: ***\nAccept: */*"),
    ],
)
def test_what_surrounds_a_secret_stays(text: str, expected: str) -> None:
    assert redact(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "backup eu/bidder 20261122T020000Z: object slice_0000_0063.asb is 81920 bytes, manifest says 98304",
        'FATAL: password authentication failed for user "exchange"',
        "s3://bedrock-backups/aerospike/eu/bidder/20261122T020000Z-full/manifest.json",
        "http://127.0.0.1:8080/dags/x/runs/manual__2026-11-23T00:00:00+00:00",
        "cluster key 0123456789abcdef0123456789abcdef, mail to ops@example.com at 02:00",
        "primary key: id; sort key: timestamp; dedup_key=backup/eu/bidder",
        "https://hooks.slack.com answered 503",
        "basic authentication is off, the bearer of bad news",
        "",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_an_empty_or_very_short_secret_does_not_black_out_the_text() -> None:
    assert redact("a plain text", ["", None, "a", "pla", "****"]) == "a plain text"


def test_the_longer_of_two_secrets_goes_first() -> None:
    assert redact("hunter2-and-more", ["hunter2", "hunter2-and-more"]) == MASK


PIECES = st.lists(
    st.sampled_from([
        *["password", "token", "secret", "api_key", "Authorization", "Bearer ", "Basic ", "hooks.slack.com/"],
        *["://", ":", "@", "=", "%3D", "%3A%2F%2F", "%3A", "%40", "/", "/services/", "T1/B2/"],
        *["xoxb-", "***", '"', "'", "\\", "\\\\", " ", "\n", ",", "a", "abcdef1234567890"],
        *["-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----"],
    ]),
    max_size=24,
).map("".join)  # fmt: skip


@given(text=PIECES | st.text(), secrets=st.lists(SECRETS, max_size=3))
def test_twice_is_the_same_as_once(text: str, secrets: list[str]) -> None:
    once = redact(text, secrets)
    assert redact(once, secrets) == once


LONG = [
    "password",
    "://a:",
    "token=",
    'token="',
    '"',
    "\\",
    'secret\\"',
    "%3A%2F%2Fa%3A",
    "Bearer ",
    "secret ",
    "a",
]


@pytest.mark.parametrize("piece", LONG)
@pytest.mark.timeout(20)
def test_a_long_text_is_no_trap(piece: str) -> None:
    text = piece * (200_000 // len(piece))
    found = redact(text, ["hunter2\\\\x"])
    assert redact(found) == found
