"""Both sides of the comparison: the figures are additive, exact, and notice what changes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from dbops.backups.store import LocalStore
from dbops.errors import ConfigurationError
from dbops.redshift.archive_checks import (
    MOST_EXPRESSIONS,
    Checks,
    Column,
    ColumnCheck,
    differences,
    expressions,
    merged,
    read_checks,
    text_groups,
)
from dbops.redshift.archived_files import check_file, total_checks
from dbops.redshift.text_hash import sum_of_md5
from parquet_samples import COLUMNS, Row, rows, write


def in_python(found: Sequence[Row]) -> dict[str, tuple[Any, ...]]:
    """Values, least, greatest, sum: computed row by row."""
    figures: dict[str, tuple[Any, ...]] = {}
    for column in COLUMNS:
        values = [row[column.name] for row in found if row[column.name] is not None]
        numbers = [number(value) for value in values]
        if column.type in ("double precision", "real") or column.name == "huge":
            real = [float(value) for value in values if math.isfinite(value)]
            figures[column.name] = (len(values), min(real), max(real), math.fsum(real))
        elif column.type.startswith("character"):
            figures[column.name] = (len(values), None)
        elif column.type == "boolean":
            figures[column.name] = (len(values), sum(values))
        elif column.type != "super":
            figures[column.name] = (len(values), min(numbers), max(numbers), sum(numbers))
    return figures


def number(value: Any) -> Any:
    if isinstance(value, datetime):
        naive = value.replace(tzinfo=None)
        return round((naive - datetime(1970, 1, 1)).total_seconds()) * 10**6 + (naive.microsecond)  # noqa: DTZ001
    if hasattr(value, "toordinal"):
        return value.toordinal() - 719_163
    return int(value * 10**6) if isinstance(value, Decimal) else value


def checked(folder: Path, found: Sequence[Row], name: str = "a.parquet") -> Checks:
    size = write(folder / name, found)
    return check_file(LocalStore(folder), name, size, COLUMNS).checks


def test_figures_of_a_file_are_those_of_its_rows(tmp_path: Path) -> None:
    found = rows(1000)
    checks = checked(tmp_path, found)
    told = in_python(found)
    assert checks.rows == 1000
    for column in checks.columns:
        if column.name not in told:
            continue
        filled, *rest = told[column.name]
        assert column.filled == filled, column
        if column.rough is not None:
            assert column.rough[:3] == pytest.approx(rest, rel=1e-9)
        elif len(rest) == 1:
            assert column.total == rest[0]
        elif not column.name.startswith(("timestamp", "seen")):
            assert (column.low, column.high, column.total) == tuple(rest)
    moments = [row["timestamp"] for row in found if row["timestamp"] is not None]
    micros = [(at - datetime(1970, 1, 1)) // (datetime.resolution) for at in moments]  # noqa: DTZ001
    (times,) = (column for column in checks.columns if column.name == "timestamp")
    assert (times.low, times.high, times.total) == (min(micros), max(micros), sum(micros))
    (text,) = checks.texts
    assert text.columns == ('we"ird', "country")
    joined = ("\x1f".join(shown(row, name) for name in text.columns) for row in found)
    assert text.total == sum(int(hashlib.md5(one.encode()).hexdigest()[:15], 16) for one in joined)  # noqa: S324


def shown(row: Row, name: str) -> str:
    value = row[name]
    return "\x01" if value is None else value.rstrip(" ") if name == "country" else value


def test_figures_of_parts_add_up_to_those_of_the_whole(tmp_path: Path) -> None:
    found = rows(900, seed=2)
    parts = [checked(tmp_path, found[start : start + 300]) for start in (0, 300, 600)]
    assert differences(merged(parts), checked(tmp_path, found)) == []
    assert differences(total_checks(COLUMNS, []), merged([total_checks(COLUMNS, [])] * 2)) == []


@pytest.mark.parametrize("column", [column.name for column in COLUMNS if column.type != "super"])
def test_one_value_that_changes_is_a_difference(tmp_path: Path, column: str) -> None:
    found = rows(200, seed=3)
    before = checked(tmp_path, found)
    values = (row[column] for row in found if row[column] is not None and not is_nan(row[column]))
    other = next(value for value in values if value != found[7][column])
    for value in (other, None if found[7][column] is not None else other):
        changed = [*found[:7], {**found[7], column: value}, *found[8:]]
        assert differences(checked(tmp_path, changed), before), (column, found[7][column], value)


def is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def test_the_order_of_rows_does_not_matter(tmp_path: Path) -> None:
    found = rows(500, seed=4)
    assert differences(checked(tmp_path, found[::-1]), checked(tmp_path, found)) == []


@pytest.mark.parametrize("odd", [math.inf, -math.inf, math.nan])
def test_what_is_infinite_or_no_number_is_counted_and_spoils_no_sum(tmp_path: Path, odd: float) -> None:
    found = [{**row, "score": float(number)} for number, row in enumerate(rows(20))]
    found[3]["score"] = odd
    (score,) = (column for column in checked(tmp_path, found).columns if column.name == "score")
    assert (score.filled, score.infinite, score.rough) == (20, 1, (0.0, 19.0, 187.0, 187.0))
    found[4]["score"] = odd
    assert differences(
        checked(tmp_path, found), checked(tmp_path, [*found[:4], {**found[4], "score": 4.0}, *found[5:]])
    )


def test_a_sum_that_no_double_holds_is_equal_to_itself() -> None:
    def of(total: float) -> Checks:
        column = ColumnCheck(name="x", type="double precision", filled=3, rough=(1.0, 2.0, total, math.inf))
        return Checks.from_json(Checks(rows=3, columns=(column,), texts=()).to_json(), "written and read")

    assert differences(of(math.inf), of(math.inf)) == differences(of(math.nan), of(math.nan)) == []
    assert differences(of(math.inf), of(5.0))


def test_what_differs_is_said_with_both_figures(tmp_path: Path) -> None:
    found = rows(50)
    one, other = checked(tmp_path, found), checked(tmp_path, found[:-1])
    assert differences(one, other) == ["the table has 50 rows, the files 49"]
    changed = [{**found[0], "small": 7, "id": 1}, *found[1:]]
    told = differences(checked(tmp_path, changed), one)
    assert any(text.startswith("small: sum ") and "in the table" in text for text in told)


# --- the warehouse's side -----------------------------------------------------------------------------------


def test_the_statement_has_a_figure_for_all_that_is_read_back() -> None:
    (figures,) = expressions(COLUMNS)
    assert figures.startswith('count(*), count("id"), min("id")')
    assert 'count("we""ird")' in figures
    assert "notes" not in figures, "SUPER is only counted"
    empty = read_checks(COLUMNS, [[0] + [None] * (len(split(figures)) - 1)])
    assert differences(empty, total_checks(COLUMNS, [])) == []


def split(figures: str) -> list[str]:
    """At the commas outside of parentheses."""
    depth, parts = 0, [""]
    for letter in figures:
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def test_a_table_of_very_many_columns_takes_more_than_one_statement() -> None:
    columns = [Column(name=f"c{number}", type="integer") for number in range(1000)]
    found = expressions(columns)
    assert [len(split(figures)) for figures in found] == [MOST_EXPRESSIONS, MOST_EXPRESSIONS, 1001]


def test_texts_are_joined_as_far_as_they_fit_into_one() -> None:
    def text(size: int) -> Column:
        return Column(name=f"t{size}", type=f"character varying({size})")

    number = Column(name="n", type="integer")
    columns = [text(256), number, text(65_000), text(300), text(65_535), text(10)]
    assert text_groups(columns) == [[0, 2], [3], [4], [5]]
    assert text_groups([number]) == []


@pytest.mark.parametrize("kind", ["time without time zone", "geometry", "varbyte", "hllsketch", "interval"])
def test_a_type_that_unload_cannot_write_is_refused_by_name(kind: str) -> None:
    with pytest.raises(ConfigurationError, match=f"column x is {kind}, which UNLOAD does not write"):
        expressions([Column(name="x", type=kind)])


# --- MD5 ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_the_sum_of_md5_is_that_of_hashlib(kind: pa.DataType) -> None:
    texts = ["x" * size for size in range(130)] + ["ü€" * size for size in range(50)] + [""] * 3
    texts[70] = "long" * 20_000  # beside short ones, which end earlier
    array = pa.array(texts, kind)
    expected = [int(hashlib.md5(text.encode()).hexdigest()[:15], 16) for text in texts]  # noqa: S324
    assert sum_of_md5(array) == sum(expected)
    assert sum_of_md5(array.slice(63, 5)) == sum(expected[63:68]), "a slice has an offset"
    assert sum_of_md5(array.slice(0, 0)) == 0
    assert sum_of_md5(pa.array(["", ""], kind)) == 2 * expected[-1]
