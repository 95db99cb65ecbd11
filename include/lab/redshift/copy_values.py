"""Fields of text files into PostgreSQL's COPY format, with Redshift's checks and its words for what fails.

Codes are those of Redshift's load error reference. Dates and times become ISO text; a VARCHAR is measured in bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_DOWN, ROUND_HALF_UP, Context, Decimal, InvalidOperation

from dbops_lab.redshift import columns as types
from dbops_lab.redshift.columns import numeric
from dbops_lab.redshift.errors import BackendError
from dbops_lab.redshift.options import CopyStatement

NULL = "\\N"
Convert = Callable[[str | None], str]

DELIMITER_MISSING, EXTRA_COLUMNS, BAD_LINE = 1214, 1202, 1216
TOO_LONG, BAD_DATE, BAD_TIMESTAMP, BAD_DIGIT, BAD_FLOAT, BAD_BOOL = 1204, 1205, 1206, 1207, 1208, 1210
NULL_REFUSED, BAD_UTF8, OVERFLOW, BAD_SUPER = 1213, 1220, 1222, 1224

_SPECIAL = re.compile(r"[\\\t\n\r\x00]")
_ESCAPED = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}


class FieldError(Exception):
    """A field cannot be loaded: code and reason of STL_LOAD_ERRORS, position in the field."""

    def __init__(self, code: int, reason: str, position: int = 0) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.position = position


@dataclass(frozen=True)
class TargetColumn:
    name: str
    oid: int
    typmod: int
    not_null: bool
    identity: str  # PostgreSQL's: `a` always (Redshift's IDENTITY), `d` by default, or empty

    @property
    def length(self) -> int | None:
        """Of CHAR and VARCHAR, in bytes."""
        bounded = self.oid in (types.BPCHAR, types.VARCHAR) and self.typmod > 4
        return self.typmod - 4 if bounded else None

    @property
    def shown_type(self) -> str:
        return _SHOWN.get(self.oid, "varchar")

    @property
    def shown_length(self) -> str:
        if self.oid == types.NUMERIC:
            return "{}, {}".format(*numeric(self.typmod))
        return "" if self.length is None else str(self.length)


_SHOWN = {
    types.BOOL: "bool", types.INT2: "int2", types.INT4: "int4", types.INT8: "int8", types.FLOAT4: "float4",
    types.FLOAT8: "float8", types.NUMERIC: "numeric", types.DATE: "date", types.TIME: "time",
    types.TIMESTAMP: "timestamp", types.TIMESTAMPTZ: "timestamptz", types.BPCHAR: "char",
    **dict.fromkeys(types.SUPERS, "super"),
}  # fmt: skip


def converters(columns: Sequence[TargetColumn], statement: CopyStatement) -> list[Convert]:
    """A function for each column: the field (or None) to its text in PostgreSQL's COPY.

    :raises BackendError: a date or time format cannot be read.
    """
    return [_converter(column, statement) for column in columns]


def _converter(column: TargetColumn, statement: CopyStatement) -> Convert:
    if column.oid in types.STRINGS:
        convert = _string(column, statement)
    else:
        convert = _blank_is_null(_typed(column, statement), None if statement.format == "json" else statement.null_as)
    return _required(convert) if column.not_null else convert


def _typed(column: TargetColumn, statement: CopyStatement) -> Callable[[str], str]:
    if column.oid in _INTEGERS:
        return _integer(*_INTEGERS[column.oid])
    if column.oid == types.NUMERIC:
        precision, scale = numeric(column.typmod)
        return _decimal(precision, scale, ROUND_HALF_UP if statement.round_decimals else ROUND_DOWN)
    if column.oid in (types.FLOAT4, types.FLOAT8):
        return _float
    if column.oid == types.BOOL:
        return _boolean
    if column.oid in types.SUPERS:
        return _super
    if column.oid == types.DATE:
        return _lenient(_date(statement.date_format), statement)
    if column.oid in (types.TIMESTAMP, types.TIMESTAMPTZ):
        return _lenient(_timestamp(statement.time_format, zoned=column.oid == types.TIMESTAMPTZ), statement)
    return escaped


def _blank_is_null(convert: Callable[[str], str], null: str | None) -> Convert:
    def converted(value: str | None) -> str:
        if not value or value == null or value.isspace():
            return NULL
        return convert(value)

    return converted


def _required(convert: Convert) -> Convert:
    def converted(value: str | None) -> str:
        text = convert(value)
        if text == NULL:
            raise FieldError(NULL_REFUSED, "Missing data for not-null field")
        return text

    return converted


def _lenient(convert: Callable[[str], str], statement: CopyStatement) -> Callable[[str], str]:
    """ACCEPTANYDATE: what is no date is NULL."""
    if not statement.accept_any_date:
        return convert

    def converted(value: str) -> str:
        try:
            return convert(value)
        except FieldError:
            return NULL

    return converted


def escaped(value: str) -> str:
    """The text in PostgreSQL's COPY format."""
    if not _SPECIAL.search(value):
        return value
    if "\x00" in value:
        # Redshift can store it, the server behind the stand-in cannot.
        raise FieldError(BAD_UTF8, "String contains invalid or unsupported UTF8 codepoints. Bad UTF8 hex sequence: 00")
    return _SPECIAL.sub(lambda match: _ESCAPED[match[0]], value)


def _string(column: TargetColumn, statement: CopyStatement) -> Convert:
    null = None if statement.format == "json" else statement.null_as
    fixed = column.oid == types.BPCHAR
    length = column.length if column.length is not None else 1 << 30
    plain = not (statement.blanks_as_null or statement.trim_blanks)

    def converted(value: str | None) -> str:
        if value is None or value == null or (not value and statement.empty_as_null):
            return NULL
        if not plain:
            if statement.blanks_as_null and value.isspace():
                return NULL
            if statement.trim_blanks and not fixed:
                value = value.rstrip()
        if value.isascii():
            if len(value) > length:
                value = shortened(value)
        else:
            if statement.replacement and not fixed:
                value = _SURROGATE.sub(statement.replacement, value)
            size = len(_encoded(value))
            if fixed:
                bad = next(character for character in value if ord(character) > 127)
                raise FieldError(
                    BAD_UTF8,
                    "Multibyte character not supported for CHAR (Hint: Try using VARCHAR). "
                    f"Invalid char: {bad.encode().hex(' ')}",
                    value.index(bad),
                )
            if size > length:
                value = shortened(value)
        return escaped(value)

    def shortened(value: str) -> str:
        if not statement.truncate_columns:
            raise FieldError(TOO_LONG, f"{'Char' if fixed else 'String'} length exceeds DDL length", length)
        return value.encode()[:length].decode(errors="ignore")

    return converted


_SURROGATE = re.compile("[\udc80-\udcff]")


def _encoded(value: str) -> bytes:
    """UTF-8; a byte of the file that was none stands in the text as a surrogate."""
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        bad = value[error.start : error.end].encode(errors="surrogateescape")
        raise FieldError(
            BAD_UTF8,
            f"String contains invalid or unsupported UTF8 codepoints. Bad UTF8 hex sequence: {bad.hex(' ')} (error 3)",
            error.start,
        ) from error


_INTEGERS = {types.INT2: ("Short", 15), types.INT4: ("Integer", 31), types.INT8: ("Long", 63)}
_NUMBER = re.compile(r"\s*([+-]?)(\d*)(?:\.(\d*))?(?:[eE]([+-]?\d+))?\s*", re.ASCII)


def _bad_digit(value: str, kind: str, code: int = BAD_DIGIT, allowed: str = "") -> FieldError:
    """The first character that is no digit, as Redshift names it."""
    for position, character in enumerate(value):
        sign = character in "+-" and not value[:position].strip()
        if not (character.isascii() and character.isdigit()) and not sign and character not in allowed + " ":
            break
    else:
        position, character = 0, value[:1]
    return FieldError(code, f"Invalid digit, Value '{character}', Pos {position}, Type: {kind}", position)


def _integer(kind: str, bits: int) -> Callable[[str], str]:
    lowest, highest = -(1 << bits), (1 << bits) - 1
    whole = re.compile(r"[+-]?\d+", re.ASCII)

    def converted(value: str) -> str:
        if len(value) < 5 and value.isdigit() and value.isascii():
            return value
        text = value.strip()
        if not whole.fullmatch(text):
            raise _bad_digit(value, kind)
        number = int(text)
        if not lowest <= number <= highest:
            raise FieldError(OVERFLOW, f"Overflow ({kind} valid range {lowest} to {highest})")
        return str(number)

    return converted


def _decimal(precision: int, scale: int, rounding: str) -> Callable[[str], str]:
    digits, unit, exact = precision - scale, Decimal(1).scaleb(-scale), Context(prec=200)

    def converted(value: str) -> str:
        match = _NUMBER.fullmatch(value)
        if not match or not (match[2] or match[3]):
            raise _bad_digit(value, "Decimal", allowed=".eE")
        if match[4] is None and len(match[3] or "") <= scale and len(match[2]) <= digits:
            return value.strip()
        try:
            number = Decimal(value.strip()).quantize(unit, rounding, exact)
        except InvalidOperation:
            number = Decimal("Infinity")
        if number.adjusted() >= digits or not number.is_finite():
            raise FieldError(TOO_LONG, f"Overflow for NUMERIC({precision},{scale})")
        return f"{number:f}"

    return converted


def _float(value: str) -> str:
    text = value.strip()
    match = _NUMBER.fullmatch(text)
    if (match and (match[2] or match[3])) or text.lower().lstrip("+-") in ("nan", "inf", "infinity"):
        return text
    raise _bad_digit(value, "Double", BAD_FLOAT, ".eE")


_TRUE, _FALSE = ("t", "true", "y", "yes", "1"), ("f", "false", "n", "no", "0")


def _boolean(value: str) -> str:
    text = value.strip().lower()
    if text in _TRUE:
        return "t"
    if text in _FALSE:
        return "f"
    raise FieldError(BAD_BOOL, "Unknown boolean format")


def _super(value: str) -> str:
    try:
        json.loads(value)
    except ValueError as error:
        raise FieldError(BAD_SUPER, "Input data is not in well-formed JSON format for the super data type") from error
    return escaped(value)


# Dates and times

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_PARTS = {
    "YYYY": r"(?P<year>\d{4})", "YY": r"(?P<short_year>\d{2})", "MONTH": r"(?P<month_name>[A-Za-z]+)",
    "MON": r"(?P<month_name>[A-Za-z]{3})", "MM": r"(?P<month>\d{1,2})", "DD": r"(?P<day>\d{1,2})",
    "HH24": r"(?P<hour>\d{1,2})", "HH12": r"(?P<hour>\d{1,2})", "HH": r"(?P<hour>\d{1,2})",
    "MI": r"(?P<minute>\d{1,2})", "SS": r"(?P<second>\d{1,2}(?:\.\d{1,6})?)",
    "AM": r"(?P<half>[AaPp][Mm])", "PM": r"(?P<half>[AaPp][Mm])",
}  # fmt: skip
_PART = re.compile("|".join(sorted(_PARTS, key=len, reverse=True)), re.IGNORECASE)
_OFFSET = r" ?(?P<offset>Z|UTC|[+-]\d{1,2}(?::?\d{2})?)?"
_AUTO_DATES = ("YYYY-MM-DD", "YYYY/MM/DD", "YYYY.MM.DD", "MM/DD/YYYY", "MM-DD-YYYY", "MON-DD-YYYY", "DD-MON-YYYY",
               "DD MON YYYY", "MON DD, YYYY", "MON DD YYYY", "MONTH DD, YYYY", "DD MONTH YYYY")  # fmt: skip
_AUTO_TIMES = (
    "",
    " HH24:MI:SS",
    "THH24:MI:SS",
    " HH24:MI",
    "THH24:MI",
    " HH12:MI:SS AM",
    " HH12:MI AM",
    " HH12:MI:SSAM",
    " HH12:MIAM",
)


def _pattern(text: str, *, offset: bool) -> re.Pattern[str]:
    """A DATEFORMAT or TIMEFORMAT string as a regular expression."""
    found, end = "", 0
    for match in _PART.finditer(text):
        found += _separator(text[end : match.start()], text) + _PARTS[match[0].upper()]
        end = match.end()
    found += _separator(text[end:], text)
    try:
        return re.compile(found + (_OFFSET if offset else ""), re.ASCII)
    except re.error:
        raise BackendError("22007", f"Invalid date or time format '{text}'") from None


def _separator(text: str, whole: str) -> str:
    if re.search(r"[A-SU-Za-su-z]", text):  # T stands between date and time
        raise BackendError("22007", f"Invalid date or time format '{whole}': '{text.strip()}' is no part of it")
    return re.escape(text)


_AUTO_DATE_PATTERNS = [_pattern(day + time, offset=True) for day in _AUTO_DATES for time in _AUTO_TIMES]
_AUTO_DATE_PATTERNS += [re.compile(r"(?P<year>\d{4})(?P<month>\d\d)(?P<day>\d\d)", re.ASCII)]
_AUTO_DATE_PATTERNS += [
    re.compile(r"(?P<year>\d{4})(?P<month>\d\d)(?P<day>\d\d)T?(?P<hour>\d\d)(?P<minute>\d\d)(?P<second>\d\d)", re.ASCII)
]


def _moment(match: re.Match[str], *, zoned: bool) -> datetime:
    """The moment that the parts name; ValueError when there is none. An offset counts for TIMESTAMPTZ only."""
    part = match.groupdict()
    year = int(part.get("year") or 0)
    if part.get("short_year"):
        year = int(part["short_year"]) + (1900 if int(part["short_year"]) >= 70 else 2000)
    month = int(part.get("month") or 0)
    if part.get("month_name"):
        month = _MONTHS.index(part["month_name"][:3].lower()) + 1
    hour = int(part.get("hour") or 0)
    if half := part.get("half"):
        if not 1 <= hour <= 12:
            raise ValueError(hour)
        hour = hour % 12 + (12 if half.lower() == "pm" else 0)
    seconds, _, fraction = (part.get("second") or "0").partition(".")
    moment = datetime(year, month, int(part.get("day") or 0), hour, int(part.get("minute") or 0), int(seconds),
                      int(fraction.ljust(6, "0")), UTC)  # fmt: skip
    return moment - _delta(part.get("offset") or "Z") if zoned else moment


def _delta(offset: str) -> timedelta:
    if offset in ("Z", "UTC"):
        return timedelta()
    hours, minutes = re.fullmatch(r"[+-](\d{1,2}):?(\d{2})?", offset).groups()  # type: ignore[union-attr]
    delta = timedelta(hours=int(hours), minutes=int(minutes or 0))
    return -delta if offset[0] == "-" else delta


def _patterns(format: str, *, offset: bool) -> list[re.Pattern[str]]:
    return _AUTO_DATE_PATTERNS if format == "auto" else [_pattern(format, offset=offset)]


def _first(patterns: Sequence[re.Pattern[str]], text: str, *, zoned: bool) -> datetime | None:
    for pattern in patterns:
        if match := pattern.fullmatch(text):
            try:
                return _moment(match, zoned=zoned)
            except ValueError:
                continue
    return None


_ISO_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_ISO_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d{1,6})?", re.ASCII)


def _date(format: str | None) -> Callable[[str], str]:
    shown = format or "YYYY-MM-DD"
    patterns = [] if format is None else _patterns(format, offset=False)

    def converted(value: str) -> str:
        text = value.strip()
        if format is None:
            if len(text) < 10:
                raise FieldError(BAD_DATE, "Invalid Date Format - length must be 10 or more")
            if _ISO_DATE.match(text) and (len(text) == 10 or text[10] in " T"):
                try:
                    date.fromisoformat(text[:10])
                    return text[:10]
                except ValueError:
                    pass
        elif moment := _first(patterns, text, zoned=False):
            return moment.date().isoformat()
        raise FieldError(BAD_DATE, f"Invalid date format or value [{shown}]")

    return converted


_EPOCHS = {"epochsecs": 1_000_000, "epochmillisecs": 1_000}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _timestamp(format: str | None, *, zoned: bool) -> Callable[[str], str]:
    if format in _EPOCHS:
        return _epoch(_EPOCHS[format], zoned=zoned)
    shown = format or ("YYYY-MM-DD HH24:MI:SSOF" if zoned else "YYYY-MM-DD HH24:MI:SS")
    patterns = _patterns(format or "YYYY-MM-DD HH24:MI:SS", offset=zoned)

    def converted(value: str) -> str:
        text = value.strip()
        if _ISO_TIMESTAMP.fullmatch(text) and format in (None, "auto"):
            try:
                datetime.fromisoformat(text[:19])
                return text + "+00" if zoned else text
            except ValueError:
                pass
        elif moment := _first(patterns, text, zoned=zoned):
            return _shown_moment(moment, zoned=zoned)
        raise FieldError(BAD_TIMESTAMP, f"Invalid timestamp format or value [{shown}]")

    return converted


def _shown_moment(moment: datetime, *, zoned: bool) -> str:
    text = moment.replace(tzinfo=None).isoformat(sep=" ")
    return text + "+00" if zoned else text


def _epoch(unit: int, *, zoned: bool) -> Callable[[str], str]:
    def converted(value: str) -> str:
        try:
            return _shown_moment(_EPOCH + timedelta(microseconds=int(value) * unit), zoned=zoned)
        except (ValueError, OverflowError):
            kind = "epochsecs" if unit == 1_000_000 else "epochmillisecs"
            raise FieldError(BAD_TIMESTAMP, f"Invalid timestamp format or value [{kind}]") from None

    return converted
