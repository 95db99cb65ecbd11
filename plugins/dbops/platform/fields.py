"""The types that the models of a platform file are made of: each says what is wrong with a value in words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from ipaddress import ip_address
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from dbops.errors import ConfigurationError
from dbops.platform.cron import check_cron

LONGEST = timedelta(days=36500)
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class PlatformError(ConfigurationError):
    """The platform configuration is wrong, or something was asked of it that it does not hold."""


def refuse(problems: Iterable[tuple[Sequence[str | int], str]]) -> None:
    """Raise one error that holds every problem with its path (relative to the model that is validated)."""
    details = [
        InitErrorDetails(
            type=PydanticCustomError("platform", "{reason}", {"reason": reason}), loc=tuple(path), input=None
        )
        for path, reason in problems
    ]
    if details:
        raise ValidationError.from_exception_data("platform", details)


def duration_text(value: timedelta) -> str:
    """`6 h 31 min`: the largest units that are not zero."""
    seconds = round(value.total_seconds())
    sign, seconds = ("-", -seconds) if seconds < 0 else ("", seconds)
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count} {unit}")
    return sign + (" ".join(parts) or "0 s")


def _duration(value: object) -> timedelta:
    if isinstance(value, timedelta):
        found = value
    else:
        match = re.fullmatch(r"(\d{1,9})([smhd])", value) if isinstance(value, str) else None
        if not match:
            raise ValueError("is no duration; write a whole number with its unit: 60s, 15m, 6h, 30d")
        found = timedelta(seconds=int(match[1]) * SECONDS[match[2]])
    if not timedelta(0) <= found <= LONGEST:
        raise ValueError(f"must lie between 0s and {LONGEST.days}d")
    return found


def _duration_in_file(value: timedelta) -> str:
    seconds = round(value.total_seconds())
    unit = next(unit for unit in ("d", "h", "m", "s") if seconds % SECONDS[unit] == 0)
    return f"{seconds // SECONDS[unit]}{unit}"


def _positive(value: timedelta) -> timedelta:
    if not value:
        raise ValueError("must be more than zero")
    return value


def _cron(value: str) -> str:
    check_cron(value)
    return " ".join(value.split())


def _seed(value: str) -> str:
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):(\d{1,5})", value)
    if not match or not 1 <= int(match[3]) <= 65535:
        raise ValueError("is no seed; write host:port, with a port of 1..65535 (Aerospike's is 3000)")
    return value


def _bucket(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", value) or ".." in value:
        raise ValueError("is no bucket name: 3 to 63 of a-z, 0-9, '-' and '.', with a letter or digit at both ends")
    if re.fullmatch(r"[0-9.]+", value):
        try:
            ip_address(value)
        except ValueError:
            return value
        raise ValueError("is no bucket name: it looks like an IP address")
    return value


def _prefix(value: str) -> str:
    if value and not re.fullmatch(r"[A-Za-z0-9!_.*'()-]+(/[A-Za-z0-9!_.*'()-]+)*", value):
        raise ValueError(
            "is no prefix: parts of letters, digits and -_.!*'() joined by single slashes, none at the ends"
        )
    if any(part in {".", ".."} for part in value.split("/")):
        raise ValueError("must not hold '.' or '..' as a part")
    return value


def program(value: str) -> str:
    if not PurePosixPath(value).is_absolute():
        raise ValueError("is no absolute path of a program; leave it out to take the one that PATH finds")
    return value


def _kms_key(value: str) -> str:
    key = r"(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|mrk-[0-9a-f]{32})"
    alias = r"alias/[A-Za-z0-9/_-]{1,250}"
    if not re.fullmatch(rf"{key}|{alias}|arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{{12}}:(?:key/{key}|{alias})", value):
        raise ValueError("is no KMS key; write its id, its ARN, or alias/<name>")
    return value


def unique(what: str) -> WrapValidator:
    """The items of a list (their `name`, or the items themselves) are all different."""

    def check(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        problems: list[InitErrorDetails] = []
        first: dict[object, int] = {}
        for index, item in enumerate(value if isinstance(value, list | tuple) else ()):
            name = item.get("name") if isinstance(item, Mapping) else getattr(item, "name", item)
            if not isinstance(name, str):
                continue
            if name in first:
                reason = f"{what} {name!r} was named before, at [{first[name]}]"
                kind = PydanticCustomError("platform", "{reason}", {"reason": reason})
                problems.append(InitErrorDetails(type=kind, loc=(index,), input=None))
            first.setdefault(name, index)
        try:
            result = handler(value)
        except ValidationError as error:
            if not problems:
                raise
            raise ValidationError.from_exception_data("platform", [*_details(error), *problems]) from None
        if problems:
            raise ValidationError.from_exception_data("platform", problems)
        return result

    return WrapValidator(check)


def _details(error: ValidationError) -> list[InitErrorDetails]:
    return [
        InitErrorDetails(
            type=PydanticCustomError(found["type"], "{reason}", {"reason": found["msg"]}),
            loc=found["loc"],
            input=found["input"],
        )
        for found in error.errors(include_url=False)
    ]


def pattern(pattern: str, longest: int) -> StringConstraints:
    return StringConstraints(pattern=pattern, max_length=longest)


def inherited() -> Any:
    """Filled in by a validator once the whole is valid."""
    return None


Duration = Annotated[
    timedelta,
    BeforeValidator(_duration),
    AfterValidator(_positive),
    PlainSerializer(_duration_in_file, str, "json"),
]
DurationOrZero = Annotated[timedelta, BeforeValidator(_duration), PlainSerializer(_duration_in_file, str, "json")]
Cron = Annotated[str, AfterValidator(_cron)]
Seed = Annotated[str, AfterValidator(_seed)]
Bucket = Annotated[str, AfterValidator(_bucket)]
Prefix = Annotated[str, AfterValidator(_prefix)]
Region = Annotated[str, StringConstraints(pattern=r"^[a-z]{2}(-[a-z]+)+-[0-9]{1,2}$")]
KmsKey = Annotated[str, AfterValidator(_kms_key)]
Name = Annotated[str, pattern(r"^[a-z0-9][a-z0-9_-]*$", 40)]  # goes into dag ids, pools and object keys
NamespaceName = Annotated[str, pattern(r"^[A-Za-z0-9][A-Za-z0-9_-]*$", 31)]  # 31: Aerospike's limit
SetName = Annotated[str, pattern(r"^[^\s:;/]+$", 63)]  # 63: Aerospike's limit
ConnectionId = Annotated[str, pattern(r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", 200)]
Email = Annotated[str, StringConstraints(pattern=r"^[^@\s,;<>]+@[^@\s,;<>]+\.[^@\s,;<>.]+$")]
Whole = Annotated[int, Field(strict=True)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0)]


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)
