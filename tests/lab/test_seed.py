"""The lab's data is realistic, the same for the same seed, and traffic changes what it says it changes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import aerospike
import pytest
from dbops_lab.aerospike.process import call
from dbops_lab.lab import NAMESPACES, NODES, Lab
from dbops_lab.seed import SETS, connect, key_of, rows, seed
from dbops_lab.traffic import traffic

RECORDS = 400


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("seed") / "lab", guarded=True)
    lab.up()
    yield lab
    lab.down()


@pytest.fixture
def seeded(lab: Lab) -> dict[str, int]:
    return seed(lab, RECORDS)


def objects(lab: Lab, cluster: str) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = call(lab.settings.aerospike_control[cluster], "GET", "/state")["objects"]
    return found


def total(lab: Lab) -> int:
    """Records that a query gives: none that has expired."""
    found = 0
    for cluster in NODES:
        client = connect(lab, cluster)
        found += sum(len(client.query(namespace).results(options={"nobins": True})) for namespace in NAMESPACES)
        client.close()
    return found


def test_every_namespace_of_every_cluster_is_filled(lab: Lab, seeded: dict[str, int]) -> None:
    assert seeded == {f"{cluster}/{namespace}": RECORDS for cluster in NODES for namespace in NAMESPACES}
    for cluster in NODES:
        found = objects(lab, cluster)
        assert {name for sets in found.values() for name in sets} == {spec.name for spec in SETS}


def test_the_same_seed_makes_the_same_records_and_another_does_not() -> None:
    def made(number: int) -> list[Any]:
        return [list(rows(spec, 50, number, 1_800_000_000.0)) for spec in SETS]

    assert made(1) == made(1)
    assert [[row[0] for row in found] for found in made(1)] == [[row[0] for row in found] for found in made(2)]
    assert made(1) != made(2)


@pytest.mark.usefixtures("seeded")
def test_the_official_client_reads_what_was_loaded(lab: Lab) -> None:
    client = connect(lab, "eu")
    key, meta, bins = client.get(("bidder", "lineitems", key_of("lineitems", 7)))
    assert {name: type(value) for name, value in bins.items()} == {
        "order_id": int, "state": str, "max_bid": float, "segments": list, "bids": dict, "pacing": bool,
    }  # fmt: skip
    assert all(isinstance(country, str) and isinstance(bid, float) for country, bid in bins["bids"].items())
    assert meta["ttl"] == aerospike.TTL_NEVER_EXPIRE
    assert key[2] is None or key[2] == key_of("lineitems", 7)
    assert isinstance(client.get(("bidder", "creatives", key_of("creatives", 1)))[2]["preview"], bytes | bytearray)
    assert 0 < client.get(("dmp", "mapping", key_of("mapping", 3)))[1]["ttl"] <= 91 * 86_400
    stored = [key for key, _, _ in client.query("spend", "spend").results({"max_records": 5})]
    assert all(str(user_key).startswith("spend-") for _, _, user_key, _ in stored)
    client.close()


@pytest.mark.usefixtures("seeded")
def test_a_cluster_has_indexes_and_a_udf(lab: Lab) -> None:
    for cluster in NODES:
        client = connect(lab, cluster)
        assert [udf["name"] for udf in client.udf_list()] == ["pacing.lua"]
        answers = client.info_all("sindex-list:ns=bidder")
        assert all("lineitems_order_id" in answer for _, answer in answers.values())
        client.close()


@pytest.mark.usefixtures("seeded")
def test_traffic_does_what_it_counts(lab: Lab) -> None:
    before = total(lab)
    shown: list[int] = []
    done = traffic(lab, seconds=2.5, rate=200, records=RECORDS, show=lambda count: shown.append(sum(count.values())))
    assert all(count > 0 for count in done.values())
    assert sum(done.values()) <= 2.5 * 200 * len(NODES) + len(NODES)
    assert shown
    assert shown == sorted(shown)
    client = connect(lab, "eu")
    assert any("touched" in bins for _, _, bins in client.query("spend", "spend").results())
    client.close()
    expected = before + done["inserts"] - done["deletes"]
    deadline = time.monotonic() + 30
    while (now := total(lab)) != expected and time.monotonic() < deadline:  # until the expiring ones are gone
        time.sleep(0.5)
    assert now == expected


def test_seeding_twice_changes_nothing(lab: Lab, seeded: dict[str, int]) -> None:
    before = total(lab)
    assert seed(lab, RECORDS) == seeded
    assert total(lab) == before
