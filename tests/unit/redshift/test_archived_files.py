"""Archived files as a stream: whole, in bounded pieces, and nothing that is damaged passes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dbops.backups.store import LocalStore
from dbops.redshift import archived_files
from dbops.redshift.archive_checks import Column
from dbops.redshift.archived_files import (
    FileDamaged,
    ParquetStream,
    UnloadDamaged,
    check_file,
    check_files,
    copy_manifest,
    read_unload_manifest,
)
from parquet_samples import COLUMNS, SCHEMA, rows, table, write

NAME = "a.parquet"


@pytest.mark.parametrize("count", [1, 99, 100, 1000])
def test_every_row_comes_once_in_order_with_the_hash_of_all_bytes(tmp_path: Path, count: int) -> None:
    found = rows(count)
    size = write(tmp_path / NAME, found)
    stream = ParquetStream(LocalStore(tmp_path), NAME, size)
    read = pa.Table.from_batches(list(stream.batches()))
    assert read.to_pylist()[0].keys() == found[0].keys()
    assert read.select(["id", 'we"ird']).equals(table(found).select(["id", 'we"ird']))
    assert stream.rows == count
    assert stream.sha256 == hashlib.sha256((tmp_path / NAME).read_bytes()).hexdigest()


def test_a_file_without_rows_is_read_too(tmp_path: Path) -> None:
    pq.write_table(SCHEMA.empty_table(), tmp_path / NAME)
    fact = check_file(LocalStore(tmp_path), NAME, (tmp_path / NAME).stat().st_size, COLUMNS)
    assert (fact.rows, fact.checks.rows) == (0, 0)


def test_long_rows_come_in_small_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archived_files, "BATCH_BYTES", 1 << 20)
    values = pa.table({"t": ["x" * 60_000] * 3000})  # a dictionary of one text: tiny in the file, 180 MB as rows
    pq.write_table(values, tmp_path / NAME)
    stream = ParquetStream(LocalStore(tmp_path), NAME, (tmp_path / NAME).stat().st_size)
    assert max(batch.nbytes for batch in stream.batches()) < 8 << 20


def test_a_footer_that_is_longer_than_the_first_look_is_read(tmp_path: Path) -> None:
    columns = [Column(name=f"column_{number:04}", type="integer") for number in range(1500)]
    names = [column.name for column in columns]
    pq.write_table(pa.table([pa.array([1, 2], pa.int32())] * 1500, names=names), tmp_path / NAME)
    size = (tmp_path / NAME).stat().st_size
    assert size > archived_files.FOOTER
    assert check_file(LocalStore(tmp_path), NAME, size, columns).checks.columns[-1].total == 3


def test_a_file_that_was_cut_off_anywhere_is_damaged(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    size = write(tmp_path / NAME, rows(300))
    data = (tmp_path / NAME).read_bytes()
    for kept in (0, 3, 4, 12, size // 2, size - 9, size - 1):
        (tmp_path / NAME).write_bytes(data[:kept])
        with pytest.raises(FileDamaged):
            check_file(store, NAME, kept, COLUMNS)
    (tmp_path / NAME).write_bytes(data + b"PAR1")
    with pytest.raises(FileDamaged):
        check_file(store, NAME, size + 4, COLUMNS)


def test_a_byte_that_flips_anywhere_is_seen(tmp_path: Path) -> None:
    """It is no Parquet any more, or its hash is another one, which is what `verify` compares."""
    store = LocalStore(tmp_path)
    size = write(tmp_path / NAME, rows(300))
    data = (tmp_path / NAME).read_bytes()
    whole = check_file(store, NAME, size, COLUMNS)
    for place in range(0, size, size // 60):
        (tmp_path / NAME).write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        try:
            found = check_file(store, NAME, size, COLUMNS)
        except FileDamaged:
            continue
        assert found.sha256 != whole.sha256


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda columns: columns[:-1], "its columns are not those of the table: notes"),
        (lambda columns: columns[::-1], "their order"),
        (
            lambda columns: [columns[0].model_copy(update={"type": "date"}), *columns[1:]],
            "column id is int64, in the table date",
        ),
        (
            lambda columns: [
                column.model_copy(update={"type": "numeric(12,4)"}) if column.name == "price" else column
                for column in columns
            ],
            r"column price is decimal128\(12, 6\)",
        ),
    ],
)
def test_other_columns_than_the_table_has_are_damage(tmp_path: Path, change: Any, told: str) -> None:
    size = write(tmp_path / NAME, rows(10))
    with pytest.raises(FileDamaged, match=told):
        check_file(LocalStore(tmp_path), NAME, size, change(COLUMNS))


def test_files_are_read_side_by_side_and_come_in_their_order(tmp_path: Path) -> None:
    sizes = [write(tmp_path / f"{number}.parquet", rows(number + 1, number)) for number in range(5)]
    files = [(f"{number}.parquet", size) for number, size in enumerate(sizes)]
    assert [fact.rows for fact in check_files(LocalStore(tmp_path), files, COLUMNS)] == [1, 2, 3, 4, 5]
    assert check_files(LocalStore(tmp_path), [], COLUMNS) == []


# --- manifests ----------------------------------------------------------------------------------------------

FIRST = {"url": "s3://b/a/0000_part_00.parquet", "meta": {"content_length": 10, "record_count": 3}}
MANIFEST = {
    "entries": [
        FIRST,
        {"url": "s3://b/a/0001_part_00.parquet", "meta": {"content_length": 20, "record_count": 4}},
    ],
    "schema": {"elements": []},
    "meta": {"content_length": 30, "record_count": 7},
    "author": {"name": "Amazon Redshift", "version": "1.0.0"},
}


def test_a_manifest_names_files_sizes_and_rows() -> None:
    files = read_unload_manifest(json.dumps(MANIFEST).encode(), "m")
    assert [(file.url, file.size, file.rows) for file in files] == [
        ("s3://b/a/0000_part_00.parquet", 10, 3),
        ("s3://b/a/0001_part_00.parquet", 20, 4),
    ]
    made = json.loads(copy_manifest([("s3://b/x", 10)]))
    assert made == {"entries": [{"url": "s3://b/x", "mandatory": True, "meta": {"content_length": 10}}]}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"entries": []}, "is no manifest"),
        ({"entries": [FIRST, FIRST]}, "names a file twice"),
        ({"meta": {"content_length": 30, "record_count": 8}}, "have 7 rows, it says 8"),
        ({"meta": {"content_length": 31, "record_count": 7}}, "have 30 bytes"),
        ({"entries": [FIRST, {"url": "s3://b/c"}]}, "entries.1.meta"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(change: dict[str, Any], told: str) -> None:
    with pytest.raises(UnloadDamaged, match=told):
        read_unload_manifest(json.dumps({**MANIFEST, **change}).encode(), "m")


@pytest.mark.parametrize("text", [b"", b"{", b"{}", b"[]", b"\xff"])
def test_what_is_no_manifest_is_named_as_such(text: bytes) -> None:
    with pytest.raises(UnloadDamaged, match="is no manifest of UNLOAD"):
        read_unload_manifest(text, "m")
