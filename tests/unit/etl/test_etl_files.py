"""Rows of files are counted exactly, in bounded memory, and a file that cannot be counted is an error."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dbops.backups.store import LocalStore
from dbops.etl.files import PIECE, FileUnreadable, _gunzipped, count_lines, look_at
from dbops.platform.etl import Format


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def table(rows: int, columns: int = 2) -> bytes:
    body = io.BytesIO()
    pq.write_table(pa.table({f"column_{n}": list(range(rows)) for n in range(columns)}), body, row_group_size=100)
    return body.getvalue()


def csv_body(rows: list[list[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue().encode()


def test_rows_of_each_format_are_counted(store: LocalStore) -> None:
    store.put("p/a.parquet", table(1234))
    store.put("p/b.parquet", table(66))
    store.put("p/_SUCCESS", b"x")
    found = look_at(store, "p/", "parquet")
    assert (found.count, found.rows) == (2, 1300)
    lines = "".join(json.dumps({"text": 'a "quoted\n line'}) + "\n" for _ in range(7))
    store.put("j/a.json.gz", gzip.compress(lines.encode()))
    store.put("j/b.json", lines.removesuffix("\n").encode())
    assert look_at(store, "j/", "json").rows == 14
    rows = [["id", "text"], ["1", 'one\ntwo "and"\r\nthree'], ["2", ""], ["3", "x"]]
    store.put("c/a.csv.gz", gzip.compress(csv_body(rows)[:9]) + gzip.compress(csv_body(rows)[9:]))
    store.put("c/b.csv", csv_body(rows[:1]))
    assert look_at(store, "c/", "csv", header_lines=1).rows == 3


def test_a_footer_larger_than_the_first_read_is_read_whole(store: LocalStore) -> None:
    body = table(500, columns=400)
    assert int.from_bytes(body[-8:-4], "little") > 64 << 10
    store.put("p/wide.parquet", body)
    assert look_at(store, "p/", "parquet").rows == 500


def test_lines_are_counted_like_a_plain_reading_does_however_the_bytes_are_cut() -> None:
    def plain(data: bytes, quoted: bool) -> int:
        lines = length = 0
        inside = False
        for byte in data:
            inside ^= quoted and byte == 34
            if byte == 10 and not inside:
                lines, length = lines + (length > 0), 0
            elif byte != 13:
                length += 1
        return lines + (length > 0)

    picks = random.Random(5)
    for _ in range(500):
        data = bytes(picks.choices(b'a"\n\rb\n', k=picks.randrange(60)))
        pieces = [data[at : at + 7] for at in range(0, len(data), 7)]
        for quoted in (False, True):
            assert count_lines(pieces, quoted=quoted) == plain(data, quoted), (data, quoted)


def test_a_file_that_grows_a_thousandfold_is_counted_within_a_few_pieces_of_memory() -> None:
    def packed() -> Iterator[bytes]:
        body = gzip.compress((b"x" * 99 + b"\n") * 10_000, 9)
        for _ in range(100):
            yield body

    tracemalloc.start()
    try:
        assert count_lines(_gunzipped(packed(), "bomb"), quoted=True) == 1_000_000
        assert tracemalloc.get_traced_memory()[1] < 40 * PIECE
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("name", "body", "form", "told"),
    [
        ("a.json.gz", gzip.compress(b"{}\n" * 100, mtime=0)[:-5], "json", "is cut off"),
        ("a.json.gz", b"no gzip at all", "json", "is no gzip"),
        ("a.csv.zst", b"x", "csv", "only gzip is counted"),
        ("a.parquet", table(10)[:-3], "parquet", "is no Parquet file"),
        ("a.parquet", b"PAR1" + b"x" * 40 + (20).to_bytes(4, "little") + b"PAR1", "parquet", "cannot be read"),
        ("a.parquet", b"PAR1" + b"\xff" * 8 + b"PAR1", "parquet", "its footer would have"),
    ],
)
def test_a_file_that_cannot_be_counted_is_named(
    store: LocalStore, name: str, body: bytes, form: Format, told: str
) -> None:
    store.put(f"p/{name}", body)
    with pytest.raises(FileUnreadable, match=told) as failed:
        look_at(store, "p/", form)
    assert name in str(failed.value)


def manifest(store: LocalStore, *entries: tuple[str, int, int]) -> bytes:
    made = [
        {"url": f"{store.url}/{key}", "meta": {"content_length": size, "record_count": rows}}
        for key, size, rows in entries
    ]
    total = {"content_length": sum(one[1] for one in entries), "record_count": sum(one[2] for one in entries)}
    return json.dumps({"entries": made, "meta": total}).encode()


def test_with_a_manifest_files_are_listed_and_not_read(store: LocalStore) -> None:
    store.put("p/a.parquet", b"never read")
    store.put("p/list", manifest(store, ("p/a.parquet", 10, 77)))
    assert look_at(store, "p/", "parquet", manifest="list").rows == 77
    store.put("p/b.parquet", b"another")
    with pytest.raises(FileUnreadable, match="names 1 files, there are 2"):
        look_at(store, "p/", "parquet", manifest="list")
    store.put("p/list", manifest(store, ("p/a.parquet", 11, 77), ("p/b.parquet", 7, 1)))
    with pytest.raises(FileUnreadable, match="it is 10 bytes"):
        look_at(store, "p/", "parquet", manifest="list")


def test_files_that_did_not_change_are_not_counted_again(store: LocalStore) -> None:
    store.put("p/a.json", b"{}\n{}\n")
    first = look_at(store, "p/", "json")
    asked: list[str] = []

    def known(digest: str) -> int | None:
        asked.append(digest)
        return {first.digest: 42}.get(digest)

    assert look_at(store, "p/", "json", known=known).rows == 42
    store.put("p/b.json", b"{}\n")
    assert look_at(store, "p/", "json", known=known).rows == 3
    assert len(set(asked)) == 2
