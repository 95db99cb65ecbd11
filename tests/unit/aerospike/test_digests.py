"""Runs of digests against sets of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from dbops.aerospike import digests
from dbops.aerospike.digests import Inventory, InventoryDamaged, Vanished, union
from dbops.backups.store import LocalStore
from hypothesis import given, settings
from hypothesis import strategies as st

DIGESTS = st.binary(min_size=1, max_size=2).map(lambda end: end.rjust(20, b"\x05"))
RUNS = st.lists(DIGESTS, unique=True, max_size=40).map(lambda found: sorted(found, reverse=True))


def blocks(run: list[bytes], size: int) -> Iterator[digests.Bytes]:
    for at in range(0, len(run), size):
        yield np.frombuffer(b"".join(run[at : at + size]), np.uint8)


def split(data: bytes) -> list[bytes]:
    assert len(data) % 20 == 0
    return [data[at : at + 20] for at in range(0, len(data), 20)]


@settings(deadline=None)
@given(RUNS, RUNS, st.integers(1, 9), st.integers(1, 9))
def test_union_holds_each_digest_of_both_once_in_order(a: list[bytes], b: list[bytes], x: int, y: int) -> None:
    found = b"".join(block.tobytes() for block in union(blocks(a, x), blocks(b, y)))
    assert split(found) == sorted({*a, *b}, reverse=True)


@settings(deadline=None)
@given(RUNS, RUNS, st.integers(1, 9), st.integers(1, 9))
def test_what_is_absent_now_has_vanished(older: list[bytes], now: list[bytes], x: int, y: int) -> None:
    out = bytearray()
    vanished = Vanished(blocks(older, x), lambda block: out.extend(block.tobytes()))
    for block in blocks(now, y):
        vanished.feed(block)
    vanished.finish()
    assert split(bytes(out)) == [digest for digest in older if digest not in now]
    assert vanished.count == len(out) // 20


@pytest.mark.parametrize("block", [20, 60, 1000, 1 << 20])
def test_inventory_gives_each_partition_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(digests, "BLOCK", block)
    counts = [number % 5 for number in range(4096)]
    own = {
        number: [number.to_bytes(2, "little") + bytes([at]) * 18 for at in range(n)] for number, n in enumerate(counts)
    }
    store = LocalStore(tmp_path)
    for name, first, last in (("low", 0, 999), ("high", 1000, 4095)):
        store.put(name, b"".join(digest for number in range(first, last + 1) for digest in own[number]))
    inventory = Inventory(store, [("low", 0, 999), ("high", 1000, 4095)], counts)
    for number in (*range(30), 998, 999, 1000, 1001, 4094, 4095, 7):
        assert split(b"".join(item.tobytes() for item in inventory.partition(number))) == own[number]


def test_inventory_that_is_too_short_is_damaged(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("cut", bytes(20 * 4095))
    inventory = Inventory(store, [("cut", 0, 4095)], [1] * 4096)
    with pytest.raises(InventoryDamaged, match="cut: 81900 bytes at 0, expected 81920; the parent"):
        list(inventory.partition(0))


def test_inventory_that_holds_noise_is_damaged(tmp_path: Path) -> None:
    """As what was encrypted does, when it was changed."""
    store = LocalStore(tmp_path)
    whole = b"".join(number.to_bytes(2, "little") * 10 for number in range(4096))
    store.put("noise", whole[:2000] + b"\xff" * 20 + whole[2020:])
    inventory = Inventory(store, [("noise", 0, 4095)], [1] * 4096)
    assert split(next(inventory.partition(99)).tobytes()) == [(99).to_bytes(2, "little") * 10]
    with pytest.raises(InventoryDamaged, match="noise: those at 2000 are not of partition 100; the parent restore"):
        list(inventory.partition(100))
