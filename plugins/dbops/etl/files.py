"""How many rows the files of an hour hold, as cheaply as each format allows; no Python object is made per row.

Parquet: the footer alone is read. With a manifest of UNLOAD nothing else is. CSV and JSON: one pass over the bytes,
which are decompressed and counted in pieces of bounded size.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from dbops.backups.store import Store, StoredObject
from dbops.errors import FinalError
from dbops.platform.etl import Format

Bytes = npt.NDArray[np.uint8]

AT_ONCE: Final = 8
TAIL: Final = 64 << 10
"""Read of a Parquet file at first; its footer is nearly always smaller."""
LONGEST_FOOTER: Final = 64 << 20
PIECE: Final = 1 << 20
NEWLINE, RETURN, QUOTE = 10, 13, 34


class FileUnreadable(FinalError):
    """A file is not of the format that the pipeline says."""


@dataclass(frozen=True)
class Files:
    """The files of an hour."""

    count: int
    bytes: int
    rows: int
    digest: str
    """Of their names, sizes and etags: the same as long as nobody changed them."""
    urls: tuple[str, ...] = ()


def look_at(
    store: Store, prefix: str, form: Format, *, header_lines: int = 0, manifest: str | None = None,
    known: Callable[[str], int | None] = lambda digest: None,
) -> Files:  # fmt: skip
    """List the files below a prefix and count their rows.

    :param known: rows by digest, as they were counted before.
    :raises FileUnreadable: one is not of this format.
    :raises NotFound, StoreRefused, StoreUnavailable: the bucket could not be read.
    """
    found = [one for one in store.list(prefix) if one.size and not one.key.endswith("/")]
    data = [one for one in found if not _is_marker(one.key.rpartition("/")[2], manifest)]
    digest = hashlib.sha256("\n".join(f"{one.key} {one.size} {one.etag}" for one in data).encode()).hexdigest()
    rows = known(digest)
    if rows is None and manifest is not None:
        rows = _of_manifest(store, prefix + manifest, data)
    if rows is None:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            rows = sum(pool.map(lambda one: _rows(store, one, form, header_lines), data))
    urls = tuple(f"{store.url}/{one.key}" for one in data)
    return Files(len(data), sum(one.size for one in data), rows, digest, urls)


def _is_marker(name: str, manifest: str | None) -> bool:
    """What Spark and Hadoop leave beside the data (`_SUCCESS`), and the manifest."""
    return name.startswith(("_", ".")) or name == manifest


def _of_manifest(store: Store, key: str, data: list[StoredObject]) -> int:
    from dbops.redshift.archived_files import read_unload_manifest

    told = read_unload_manifest(store.get(key), f"{store.url}/{key}")
    there = {f"{store.url}/{one.key}": one.size for one in data}
    for one in told:
        if there.get(one.url) != one.size:
            size = f"{there[one.url]:,} bytes" if one.url in there else "missing"
            raise FileUnreadable(f"{store.url}/{key} says {one.url} has {one.size:,} bytes; it is {size}")
    if len(told) != len(there):
        raise FileUnreadable(f"{store.url}/{key} names {len(told)} files, there are {len(there)}")
    return sum(one.rows for one in told)


def _rows(store: Store, one: StoredObject, form: Format, header_lines: int) -> int:
    if form == "parquet":
        return _parquet_rows(store, one)
    pieces = _decompressed(store, one)
    try:
        lines = count_lines(pieces, quoted=form == "csv")
    except zlib.error as error:
        raise FileUnreadable(f"{store.url}/{one.key}: is no gzip: {error}") from None
    return max(0, lines - header_lines) if form == "csv" else lines


def _parquet_rows(store: Store, one: StoredObject) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    tail = b"".join(store.read(one.key, max(0, one.size - TAIL), min(TAIL, one.size)))
    if len(tail) < 12 or tail[-4:] != b"PAR1":
        raise FileUnreadable(f"{store.url}/{one.key}: is no Parquet file, or is cut off")
    footer = int.from_bytes(tail[-8:-4], "little") + 8
    if footer > min(one.size, LONGEST_FOOTER):
        raise FileUnreadable(f"{store.url}/{one.key}: its footer would have {footer:,} bytes")
    if footer > len(tail):
        tail = b"".join(store.read(one.key, one.size - footer, footer))
    try:
        return int(pq.read_metadata(pa.BufferReader(tail[-footer:])).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise FileUnreadable(f"{store.url}/{one.key}: its footer cannot be read: {error}") from None


def _decompressed(store: Store, one: StoredObject) -> Iterator[bytes]:
    raw = store.read(one.key)
    if one.key.endswith(".gz"):
        return _gunzipped(raw, f"{store.url}/{one.key}")
    if one.key.endswith((".zst", ".bz2", ".lzo")):
        raise FileUnreadable(f"{store.url}/{one.key}: only gzip is counted here; give the pipeline a manifest")
    return raw


def _gunzipped(raw: Iterable[bytes], name: str) -> Iterator[bytes]:
    """Pieces of at most `PIECE`, whatever the file would grow to; a file may be of several members."""
    member, is_begun = zlib.decompressobj(31), False
    for chunk in raw:
        while chunk:
            is_begun = True
            yield member.decompress(chunk, PIECE)
            if member.eof:
                chunk, member, is_begun = member.unused_data.lstrip(b"\0"), zlib.decompressobj(31), False
            else:
                chunk = member.unconsumed_tail
    while is_begun and (piece := member.decompress(b"", PIECE)):  # what it still holds
        yield piece
    if is_begun and not member.eof:
        raise FileUnreadable(f"{name}: is cut off: gzip has no end")


def count_lines(pieces: Iterable[bytes], *, quoted: bool) -> int:
    """Lines that are not empty; the last one needs no newline.

    :param quoted: a newline within double quotes ends no line (CSV).
    """
    lines = 0
    length = 0
    """Bytes of the line that has begun, without carriage returns at its end."""
    is_inside = False
    for piece in pieces:
        if not piece:
            continue
        is_plain = not quoted or (not is_inside and b'"' not in piece)
        if is_plain and b"\n\n" not in piece and b"\r" not in piece and (length or piece[0] != NEWLINE):
            count = piece.count(b"\n")  # twice as fast as what follows
            lines += count
            length = len(piece) - piece.rfind(b"\n") - 1 if count else length + len(piece)
            continue
        data: Bytes = np.frombuffer(piece, np.uint8)
        ends = data == NEWLINE
        if quoted:
            quotes = data == QUOTE
            if is_inside or quotes.any():
                inside = np.logical_xor.accumulate(quotes) ^ is_inside
                is_inside = bool(inside[-1])
                ends &= ~inside
        # Bytes that count, before each end of a line: an empty line has none since the one before.
        held = np.cumsum(data != RETURN, dtype=np.int64)
        at = np.flatnonzero(ends)
        if not at.size:
            length += int(held[-1])
            continue
        before = held[at] - 1  # the newline itself
        lengths = np.diff(before, prepend=-1) - 1
        lengths[0] = before[0] + length
        lines += int(np.count_nonzero(lengths))
        length = int(held[-1] - held[at[-1]])
    return lines + bool(length)
