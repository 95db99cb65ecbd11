"""Folders of backup files laid out as asbackup and absctl lay them out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import zstandard
from backup_world import digest_of, partition_of
from dbops.aerospike import asb
from dbops.backups.cipher import Key, open_writer
from dbops.backups.store import LocalStore

SPACE = "bidder"
INDEX = asb.Index(SPACE, "s", "adopted_idx", "N", "n", "N")
UDF = asb.Udf("adopted.lua", b"function one(record)\n  return 1\nend\n")
DEFINITIONS = (INDEX, UDF)


def records(numbers: Iterable[int], space: str = SPACE) -> list[asb.Record]:
    return [
        asb.Record(
            space, digest_of(n), "s", None, 1, 0, (asb.Bin("n", "I", n), asb.Bin("v", "S", b"+ n no\nrecord %d" % n))
        )
        for n in numbers
    ]


def write_file(path: Path, text: bytes, *, zstd: bool = False, key: Key | None = None) -> None:
    with open_writer(LocalStore(path.parent), path.name, key) as writer:
        writer.write(zstandard.compress(text, 3) if zstd else text)


def as_asbackup(
    folder: Path,
    found: Sequence[asb.Record],
    *,
    definitions: Sequence[asb.Index | asb.Udf] = DEFINITIONS,
    space: str = SPACE,
    workers: int = 2,
    per_file: int = 100,
    zstd: bool = False,
    key: Key | None = None,
) -> list[Path]:
    """Each worker reads a range of partitions and goes on in another file when one is full, in the middle of a
    partition; the last file holds what is left of all."""
    ordered = sorted(found, key=lambda record: (partition_of(record.digest), record.digest))
    size = -(-4096 // workers)
    pieces: list[list[asb.Record]] = [[]]
    for worker in range(workers):
        mine = [record for record in ordered if partition_of(record.digest) // size == worker]
        full = len(mine) // per_file * per_file
        pieces += [mine[at : at + per_file] for at in range(0, full, per_file)]
        pieces[0] += mine[full:]
    paths = []
    for number, piece in enumerate([*pieces[1:], pieces[0]]):
        text = asb.header(space, first_file=not number)
        if not number:
            text += b"".join(item.text() for item in definitions)
        paths.append(folder / f"{space}_{number:05d}.asb")
        write_file(paths[-1], text + b"".join(record.text(compact=False) for record in piece), zstd=zstd, key=key)
    return paths


def as_absctl(folder: Path, found: Sequence[asb.Record], *, space: str = SPACE, workers: int = 3) -> list[Path]:
    """Indexes and UDFs in a file of their own, the records in turn to all writers."""
    paths = [folder / f"metadata_{space}_1.asb"]
    text = asb.header(space, version="3.1") + b"".join(item.text() for item in DEFINITIONS)
    write_file(paths[0], text, zstd=True)
    for worker in range(workers):
        paths.append(folder / f"{worker}_{space}_1.asb")
        text = asb.header(space, first_file=not worker) + b"".join(r.text() for r in found[worker::workers])
        write_file(paths[-1], text, zstd=True)
    return paths
