"""Several nodes: who owns what, what moves when one dies or comes back, and that nothing is lost."""

from __future__ import annotations

import base64
import re
import threading
import time
from collections.abc import Callable, Iterator

import aerospike
import pytest
from captures import Message
from dbops_lab.aerospike.process import StandIn, bins
from raw import Raw, digest_of, field, integer, message, op, partition_of, query

RECORDS = 6000
PARTITION_DONE, UNAVAILABLE, NAMESPACE, DIGEST = 4, 11, 0, 4
Connect = Callable[[int], Raw]


@pytest.fixture
def cluster() -> Iterator[StandIn]:
    """Three nodes, and records loaded before any of them changes."""
    with StandIn(namespaces=["dmp", "bidder"], nodes=3) as stand_in:
        rows = [(digest_of(i), 1, 0, None, bins({"n": (1, integer(i))})) for i in range(RECORDS)]
        assert stand_in.load("dmp", "s", rows) == RECORDS
        yield stand_in


def owned(node: Raw) -> list[set[int]]:
    """Partitions of dmp that the node says it is master of, first replica of."""
    rows = dict(row.split(":", 1) for row in node.info("replicas").split(";"))
    _, count, *maps = rows["dmp"].split(",")
    assert int(count) == len(maps)
    found = []
    for text in maps:
        bits = base64.b64decode(text)
        found.append({pid for pid in range(4096) if bits[pid >> 3] & 0x80 >> (pid & 7)})
    return found


def records(messages: list[Message]) -> set[bytes]:
    return {dict(item.fields)[DIGEST] for item in messages if item.fields}


def drain(nodes: list[Raw]) -> list[bytes]:
    """Every partition from its master, as a client does."""
    found: list[bytes] = []
    for node in nodes:
        messages = node.stream(query(b"dmp", sorted(owned(node)[0])))
        assert not any(item.info3 & PARTITION_DONE for item in messages)
        found += [dict(item.fields)[DIGEST] for item in messages if item.fields]
    return found


ALL_DIGESTS = sorted(digest_of(i) for i in range(RECORDS))


def test_partitions_are_shared_out_once_and_each_has_one_replica_elsewhere(cluster: StandIn, connect: Connect) -> None:
    maps = [owned(connect(port)) for port in cluster.ports]
    masters, replicas = [item[0] for item in maps], [item[1] for item in maps]
    for side in (masters, replicas):
        assert sum(map(len, side)) == 4096
        assert set().union(*side) == set(range(4096))
        assert all(1000 < len(part) < 1700 for part in side)
    assert not any(master & replica for master, replica in zip(masters, replicas, strict=True))


def test_all_records_come_from_their_masters_exactly_once(cluster: StandIn, connect: Connect) -> None:
    assert sorted(drain([connect(port) for port in cluster.ports])) == ALL_DIGESTS


def test_a_node_answers_error_11_for_partitions_that_it_does_not_hold(cluster: StandIn, connect: Connect) -> None:
    node = connect(cluster.ports[0])
    masters, replicas = owned(node)
    messages = node.stream(query(b"dmp", range(4096)))
    done = [item for item in messages if item.info3 & PARTITION_DONE]
    assert all((item.result, item.fields, item.ops) == (UNAVAILABLE, (), ()) for item in done)
    assert len(done) == 4096 - len(masters) - len(replicas)
    assert messages[-1].info3 == 1
    assert messages[-1].result == 0
    assert {partition_of(digest) for digest in records(messages)} <= masters | replicas


def test_the_number_of_an_unavailable_partition_stands_in_the_generation(cluster: StandIn, connect: Connect) -> None:
    node = connect(cluster.ports[0])
    foreign = sorted(set(range(4096)) - set().union(*owned(node)))[5]
    _, body = node.ask(query(b"dmp", [foreign]))
    assert (body[3], body[5]) == (PARTITION_DONE, UNAVAILABLE)
    assert int.from_bytes(body[6:10], "big") == foreign


def test_nodes_know_each_other_and_agree_on_the_cluster_key(cluster: StandIn, connect: Connect) -> None:
    nodes = [connect(port) for port in cluster.ports]
    names = [node.info("node") for node in nodes]
    assert len(set(names)) == 3
    for number, node in enumerate(nodes):
        generation, port, peers = re.fullmatch(r"(\d+),(\d+),\[(.*)\]", node.info("peers-clear-std")).groups()  # type: ignore[union-attr]
        assert (generation, port) == ("0", str(cluster.ports[number]))
        assert set(re.findall(r"\[(\w+),,\[127\.0\.0\.1:(\d+)\]\]", peers)) == {
            (names[other], str(cluster.ports[other])) for other in range(3) if other != number
        }
    assert len({node.info("cluster-stable:size=3") for node in nodes}) == 1
    assert nodes[0].info("cluster-stable:size=2").startswith("ERROR:7:")


def test_a_write_to_a_node_that_does_not_own_the_partition_is_passed_on(cluster: StandIn, connect: Connect) -> None:
    nodes = [connect(port) for port in cluster.ports]
    digest = digest_of(RECORDS + 1)
    place = (field(NAMESPACE, b"dmp"), field(1, b"s"), field(DIGEST, digest))
    for value, node in enumerate(nodes):
        written = node.one(message(0, 1, fields=place, ops=(op(2, b"n", 1, integer(value)),)))
        assert written.result == 0
    for node in nodes:
        found = node.one(message(3, fields=place))
        assert found.ops == ((1, 1, b"n", integer(2)),)


def test_when_a_node_dies_its_partitions_move_to_the_others_and_nothing_is_lost(
    cluster: StandIn, connect: Connect
) -> None:
    nodes = [connect(port) for port in cluster.ports]
    before = [owned(node)[0] for node in nodes]
    key = nodes[0].info("cluster-stable")
    cluster.stop_node(2)
    with pytest.raises(ConnectionError):
        nodes[2].info("node")
    with pytest.raises(ConnectionRefusedError):
        connect(cluster.ports[2])
    after = [owned(node)[0] for node in nodes[:2]]
    assert after[0] | after[1] == set(range(4096))
    assert not after[0] & after[1]
    assert after[0] >= before[0]
    assert after[1] >= before[1]
    stable = {node.info("cluster-stable") for node in nodes[:2]}
    assert len(stable) == 1
    assert stable != {key}
    assert [node.info("partition-generation") for node in nodes[:2]] == ["1", "1"]
    assert [node.info("peers-generation") for node in nodes[:2]] == ["1", "1"]
    assert "cluster_size=2;" in nodes[0].info("statistics")
    assert sorted(drain(nodes[:2])) == ALL_DIGESTS


def test_when_a_node_comes_back_it_gets_its_partitions_back(cluster: StandIn, connect: Connect) -> None:
    nodes = [connect(port) for port in cluster.ports]
    before = [owned(node) for node in nodes]
    cluster.stop_node(1)
    cluster.start_node(1)
    nodes[1] = connect(cluster.ports[1])
    assert [owned(node) for node in nodes] == before
    assert nodes[0].info("partition-generation") == "2"
    assert sorted(drain(nodes)) == ALL_DIGESTS


def test_until_the_cluster_forms_again_the_dead_nodes_partitions_cannot_be_had(
    cluster: StandIn, connect: Connect
) -> None:
    first = connect(cluster.ports[0])
    lost = owned(connect(cluster.ports[2]))[0] - set().union(*owned(first))
    cluster.inject(reform_seconds=1.0)
    started = time.monotonic()
    digest = next(digest_of(i) for i in range(RECORDS) if partition_of(digest_of(i)) in lost)
    stopping = threading.Thread(target=cluster.stop_node, args=(2,))
    stopping.start()
    time.sleep(0.3)
    place = (field(NAMESPACE, b"dmp"), field(1, b"s"), field(DIGEST, digest))
    assert first.one(message(3, fields=place)).result == 9
    assert {item.result for item in first.stream(query(b"dmp", sorted(lost)))[:-1]} == {UNAVAILABLE}
    stopping.join()
    assert time.monotonic() - started >= 1.0
    assert first.one(message(3, fields=place)).result == 0


def test_while_partitions_migrate_a_new_replica_does_not_answer_and_the_cluster_is_not_stable(
    cluster: StandIn, connect: Connect
) -> None:
    cluster.inject(migrate_seconds=1.5)
    first = connect(cluster.ports[0])
    had = set().union(*owned(first))
    cluster.stop_node(2)
    has = set().union(*owned(first))
    fresh = sorted(has - had)
    assert fresh
    assert {item.result for item in first.stream(query(b"dmp", fresh))[:-1]} == {UNAVAILABLE}
    assert int(re.search(r"migrate_partitions_remaining=(\d+)", first.info("statistics"))[1]) > 0  # type: ignore[index]
    assert first.info("cluster-stable").startswith("ERROR:7:")
    assert not first.info("cluster-stable:ignore-migrations=true").startswith("ERROR")
    limit = time.monotonic() + 5
    while first.info("cluster-stable").startswith("ERROR") and time.monotonic() < limit:
        time.sleep(0.05)
    assert re.search(r"migrate_partitions_remaining=0;", first.info("statistics"))
    assert records(first.stream(query(b"dmp", fresh))) == {
        digest for digest in ALL_DIGESTS if partition_of(digest) in fresh
    }


def test_a_node_that_starts_is_not_ready_at_once(connect: Connect) -> None:
    with StandIn(namespaces=["dmp"], options=["--start-delay", "1.0"]) as stand_in:
        node = connect(stand_in.ports[0])
        assert node.info("partition-generation") == "-1"
        assert node.info("cluster-stable").startswith("ERROR")
        assert node.stream(query(b"dmp", range(4096)))[-1].result == UNAVAILABLE
        time.sleep(1.1)
        assert node.info("partition-generation") == "0"
        assert node.stream(query(b"dmp", range(4096)))[-1].result == 0


def test_statistics_of_the_nodes_add_up(cluster: StandIn, connect: Connect) -> None:
    rows = [
        dict(item.split("=", 1) for item in connect(port).info("namespace/dmp").split(";")) for port in cluster.ports
    ]
    assert sum(int(row["master_objects"]) for row in rows) == RECORDS
    assert sum(int(row["prole_objects"]) for row in rows) == RECORDS
    assert {row["effective_replication_factor"] for row in rows} == {"2"}
    sets = [re.findall(r":objects=(\d+):", connect(port).info("sets/dmp/s")) for port in cluster.ports]
    assert sum(int(objects) for (objects,) in sets) == 2 * RECORDS


# ---------------------------------------------------------------- the official client


@pytest.fixture
def client(cluster: StandIn) -> Iterator[aerospike.Client]:
    patient = {"total_timeout": 15000, "max_retries": 20, "sleep_between_retries": 200}
    config = {
        "hosts": [("127.0.0.1", cluster.ports[0])],
        "tend_interval": 250,
        "policies": {name: dict(patient) for name in ("read", "write", "query", "batch")},
    }
    connected = aerospike.client(config).connect()
    yield connected
    connected.close()


def test_official_client_finds_all_nodes_and_all_records(cluster: StandIn, client: aerospike.Client) -> None:
    assert {item["port"] for item in client.get_node_names()} == set(cluster.ports)
    assert len(client.query("dmp", "s").results()) == RECORDS


def test_official_client_goes_on_when_a_node_dies_and_comes_back(cluster: StandIn, client: aerospike.Client) -> None:
    for number in range(200):
        client.put(("dmp", "t", number), {"n": number})
    cluster.stop_node(1)
    for number in range(200):
        assert client.get(("dmp", "t", number))[2] == {"n": number}
        client.put(("dmp", "t", number), {"n": number + 1})
    assert len(client.query("dmp", "s").results()) == RECORDS
    cluster.start_node(1)
    limit = time.monotonic() + 10
    while len(client.get_node_names()) < 3 and time.monotonic() < limit:
        time.sleep(0.1)
    assert len(client.get_node_names()) == 3
    assert sorted(record[2]["n"] for record in client.query("dmp", "t").results()) == list(range(1, 201))


def test_official_clients_query_survives_a_node_that_dies_in_the_middle(
    cluster: StandIn, client: aerospike.Client
) -> None:
    found: list[bytes] = []

    def take(record: tuple[tuple[object, ...], object, object]) -> None:
        found.append(bytes(record[0][3]))  # type: ignore[arg-type]
        if len(found) == 500:
            cluster.stop_node(1)

    query_all = client.query("dmp", "s")
    query_all.records_per_second = 4000
    query_all.foreach(take, {"max_retries": 50, "sleep_between_retries": 200})
    assert sorted(found) == ALL_DIGESTS
