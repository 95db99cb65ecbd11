"""Takes secrets out of text before it is shown, stored or sent."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

MASK = "***"
SHORTEST = 4  # a shorter secret would black out half of any text

_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;|&\\#34;", "'": "&\\#x27;|&\\#39;|&apos;"}
_SLASHES = r"\\{1,16}"  # escaped up to four times; a bound, since a long run of them would take its square in time
_ESCAPES = {"\n": "n", "\r": "r", "\t": "t", "\b": "b", "\f": "f"}

_AUTHORIZATION = re.compile(
    r"""(?ix) ( (?:authorization|\bcookie) \\*["']? \s* [:=] \s* \\*["']? ) [^\s"'\\] [^"'\\\r\n]* """
)
_BEARER = re.compile(r"(?i)\b(bearer|basic)(\s+)[A-Za-z0-9._~+/=-]{16,}")
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
# scheme://user:password@host, also with \/ for / (JSON) and percent-encoded as a whole
_DSN = re.compile(r"""(:\\*/\\*/[^\s/@:"'<>]*:)(?:(?!:\\*/\\*/)[^\s"'<>])+@""")
_DSN_ENCODED = re.compile(r"""(?i)(%3A%2F%2F(?:(?!%3A|%40)[^\s"'<>])*%3A)(?:(?!%3A%2F%2F)[^\s"'<>])+%40""")
_SLACK = re.compile(
    r"""(?i)(hooks\.slack(?:-gov)?\.com\\*/|/services\\*/(?=T\w+\\*/B\w+\\*/))[^\s"'<>|\\]+(?:\\+/[^\s"'<>|\\]+)*"""
)
_SLACK_TOKEN = re.compile(r"\bx(?:ox[a-z]|app)-[A-Za-z0-9-]{6,}")
_PAGERDUTY = re.compile(r"(?i)(/integration/)[0-9a-z]{32}")
# name = value, name: value, "name": "value" (escaped any number of times), name%3Dvalue
_KEY_VALUE = re.compile(
    r"""(?isx)
    ( (?: password | passwd | passphrase | \bpwd | \bpass | secret | token | credential | signature
        | (?: api | access | private | routing | integration | service | cluster_auth ) [_-]? key (?!_?id)
      ) [\w-]{0,40}
      (?: \\*["'] )? \s* (?: = | : (?!//|\\) | %3D | %3A(?!%2F) ) \s*
    )
    (?: (?P<slashes>\\*) (?P<quote>["'])
        (?: .{0,8192}? (?<!\\) (?P<end>(?P=slashes) (?P=quote)) | [^\r\n]* )
      | [^\s"'\\] [^\s"']*
    )"""
)


def redact(text: str, secrets: Iterable[str | None] = ()) -> str:
    """The text with `***` in place of each secret.

    Secrets are the given ones (of four characters and more; as they are, URL-encoded, or escaped for JSON,
    Python or HTML), and what looks like one: values of `password`, `secret`, `token`, ... keys, passwords in
    URLs, Authorization headers, private keys, Slack webhooks and tokens, PagerDuty routing keys.
    Doing it twice changes nothing more.
    """
    for secret in sorted({secret for secret in secrets if secret}, key=lambda secret: (-len(secret), secret)):
        if len(secret) >= SHORTEST and secret.strip("*"):
            text = _any_form(secret).sub(MASK, text)
    text = _PRIVATE_KEY.sub(MASK, text)
    text = _AUTHORIZATION.sub(rf"\g<1>{MASK}", text)
    text = _BEARER.sub(rf"\g<1>\g<2>{MASK}", text)
    text = _DSN.sub(rf"\g<1>{MASK}@", text)
    text = _DSN_ENCODED.sub(rf"\g<1>{MASK}%40", text)
    text = _SLACK.sub(rf"\g<1>{MASK}", text)
    text = _SLACK_TOKEN.sub(MASK, text)
    text = _PAGERDUTY.sub(rf"\g<1>{MASK}", text)
    return _KEY_VALUE.sub(_hide_value, text)


def _hide_value(found: re.Match[str]) -> str:
    opening = f"{found['slashes']}{found['quote']}" if found["quote"] else ""
    return f"{found[1]}{opening}{MASK}{found['end'] or ''}"


@lru_cache(maxsize=256)
def _any_form(secret: str) -> re.Pattern[str]:
    """Matches the secret with each character plain or encoded, whatever the encoder chose to encode."""
    parts = []
    for run in re.findall(r"\\+|[^\\]", secret):
        if run[0] == "\\":
            parts.append(rf"(?:\\{{{len(run)},{16 * len(run)}}}|(?:%5[Cc]){{{len(run)}}})")
        else:
            parts.append(f"(?:{'|'.join(_forms(run))})")
    return re.compile("".join(parts))


def _forms(char: str) -> list[str]:
    forms = [rf"\\{{0,16}}{re.escape(char)}" if char in "\"'/" else re.escape(char)]
    octets = "".join(f"%{octet:02X}" for octet in char.encode("utf-8", "surrogatepass"))
    forms.append(f"(?i:{octets})")
    units = char.encode("utf-16-be", "surrogatepass")
    forms.append("".join(rf"{_SLASHES}u(?i:{units[at : at + 2].hex()})" for at in range(0, len(units), 2)))
    if ord(char) < 256:
        forms.append(rf"{_SLASHES}x(?i:{ord(char):02x})")
    elif ord(char) > 0xFFFF:
        forms.append(rf"{_SLASHES}U(?i:{ord(char):08x})")
    if char == " ":
        forms.append(r"\+")
    if char in _HTML:
        forms.append(_HTML[char])
    if char in _ESCAPES:
        forms.append(rf"{_SLASHES}{_ESCAPES[char]}")
    return forms
