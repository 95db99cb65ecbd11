"""One difference among a million records is found, and nothing else: real servers, a million on both sides."""

from __future__ import annotations

import struct
from typing import Any

import aerospike
import numba
import numpy as np
import pytest
from dbops.platform.sync import SyncColumn, SyncPair
from dbops.sync import kernel
from dbops.sync.plan import Plan, Work
from dbops_lab.aerospike.process import ROW, call
from dbops_lab.application.publish import encoded
from dbops_lab.testing import LabApp
from sync_world import validate

COUNT = 1_000_000
PART = 100_000
PAIR = SyncPair(
    name="million", table="million", clusters=("app",), namespace="bidder", set="million", key="{id}",
    key_type="integer",
    columns=(SyncColumn(column="id", bin="id", form="integer"), SyncColumn(column="v", bin="v", form="integer")),
)  # fmt: skip


@numba.njit
def _digests(count: int, made: Any, block: Any, prefix: int, words: Any, block_words: Any) -> None:
    """Of the keys 1 to `count`."""
    source = np.zeros(16, np.uint8)
    for number in range(count):
        for place in range(8):
            source[place] = ((number + 1) >> (56 - 8 * place)) & 255
        kernel.digest_of(source, 8, block, prefix, words, block_words)
        for word in range(5):
            made[number, word] = words[word]


def put_million(control: int) -> None:
    """Records of the keys 1 to COUNT with v = 7 * key, as the stand-in takes them, made without a loop of Python."""
    plan, work = Plan(PAIR), Work()
    digests = np.zeros((COUNT, 5), np.uint32)
    block = plan.block()
    _digests(COUNT, digests, block, len(plan.prefix), work.words, work.block_words)
    key = struct.Struct(">q").pack(1)
    bins = encoded({"id": 1, "v": 1})
    row = bytes(20) + ROW.pack(1, 0, 9, 2, len(bins)) + b"\x01" + key + bins
    rows = np.tile(np.frombuffer(row, np.uint8), (COUNT, 1))
    rows[:, :20] = digests.view(np.uint8).reshape(COUNT, 20)
    at = row.index(key, 20)
    for factor in (1, 1, 7):  # the key, then both bins
        values = (np.arange(1, COUNT + 1) * factor).astype(">i8")
        rows[:, at : at + 8] = values.view(np.uint8).reshape(COUNT, 8)
        at = row.find(key, at + 8)
    for first in range(0, COUNT, PART):
        body = rows[first : first + PART].tobytes()
        assert call(control, "POST", "/load?namespace=bidder&set=million", body)["loaded"] == PART


@pytest.fixture
def million(lab_app: LabApp) -> LabApp:
    with lab_app.database.session() as cursor:
        cursor.execute("create table million (id bigint, v bigint)")
        cursor.execute("insert into million select n, 7 * n from generate_series(1, %s) n", [COUNT])
    put_million(lab_app.standin.control)
    return lab_app


def test_one_difference_in_a_million_is_found_and_no_other(million: LabApp) -> None:
    result = validate(million, PAIR)
    assert (result.rows, result.records, result.drift) == (COUNT, COUNT, 0), result.message
    client = aerospike.client({"hosts": [("127.0.0.1", million.standin.ports[0])]}).connect()
    client.put(("bidder", "million", 654_321), {"v": 7 * 654_321 + 1})
    client.close()
    result = validate(million, PAIR)
    assert (result.rows, result.records, result.different, result.drift) == (COUNT, COUNT, 1, 1), result.message
    (found,) = result.differences
    assert (found.kind, found.key) == ("different", "654321")
    assert [(one.bin, one.postgres, one.aerospike) for one in found.fields] == [("v", "4580247", "4580248")]
