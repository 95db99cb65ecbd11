"""Names of the lab: Route 53 refuses what the real one refuses, a change takes its time, the nameserver follows."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.resolver
import pytest
from botocore.exceptions import ClientError
from dbops_lab.dns import resolve, resolver
from dbops_lab.testing import LabRds


def record(rds: LabRds, name: str, target: str, kind: str = "CNAME", ttl: int = 30) -> dict[str, Any]:
    return {"Name": f"{name}.{rds.zone}", "Type": kind, "TTL": ttl, "ResourceRecords": [{"Value": target}]}


def change(rds: LabRds, *changes: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    batch = {"Changes": [{"Action": action, "ResourceRecordSet": item} for action, item in changes]}
    route53 = rds.client("route53")
    made: dict[str, Any] = route53.change_resource_record_sets(HostedZoneId=rds.zone_id, ChangeBatch=batch)
    return made["ChangeInfo"]


def refused(work: Callable[[], Any]) -> str:
    with pytest.raises(ClientError) as caught:
        work()
    error = caught.value.response["Error"]
    return f"{error['Code']}: {error['Message']}"


def restored(rds: LabRds, name: str) -> str:
    """Another instance; the host name of its endpoint."""
    rds.client("rds").restore_db_instance_to_point_in_time(
        SourceDBInstanceIdentifier=rds.name, TargetDBInstanceIdentifier=name, UseLatestRestorableTime=True
    )
    return str(rds.wait(name)["Endpoint"]["Address"])


def test_the_name_leads_to_the_instance_that_it_is_pointed_to(lab_rds: LabRds) -> None:
    old = lab_rds.target()
    new = restored(lab_rds, "restored")
    assert resolve(lab_rds.nameserver, lab_rds.cname) == lab_rds.host() == "127.0.0.17"
    lab_rds.point_to("restored")
    assert lab_rds.target() == new != old
    answer = resolver(lab_rds.nameserver).resolve(lab_rds.cname, "A")
    assert str(answer[0]) == lab_rds.host("restored")
    assert answer.chaining_result.minimum_ttl == lab_rds.ttl
    assert answer.canonical_name.to_text() == f"{new}."
    assert resolver(lab_rds.nameserver).resolve(lab_rds.cname, "CNAME").rrset.ttl == lab_rds.ttl


def test_a_change_is_pending_and_nameservers_answer_with_it_later_still(lab_rds: LabRds) -> None:
    change(lab_rds, ("UPSERT", record(lab_rds, "slow", "127.0.0.50", "A")))
    time.sleep(0.25)
    name = f"slow.{lab_rds.zone}"
    lab_rds.take(route53=0.4, dns=0.4)
    made = change(lab_rds, ("UPSERT", record(lab_rds, "slow", "127.0.0.51", "A")))
    route53, began = lab_rds.client("route53"), time.monotonic()
    assert made["Status"] == "PENDING"
    assert route53.get_change(Id=made["Id"])["ChangeInfo"]["Status"] == "PENDING"
    while route53.get_change(Id=made["Id"])["ChangeInfo"]["Status"] == "PENDING":
        assert resolve(lab_rds.nameserver, name) == "127.0.0.50"
        time.sleep(0.02)
    synced = time.monotonic() - began
    assert resolve(lab_rds.nameserver, name) == "127.0.0.50"
    while resolve(lab_rds.nameserver, name) == "127.0.0.50":
        time.sleep(0.02)
    assert synced >= 0.35
    assert time.monotonic() - began >= 0.75
    assert refused(lambda: route53.get_change(Id="C0")).startswith("NoSuchChange")


def test_a_batch_is_carried_out_as_a_whole_or_refused(lab_rds: LabRds) -> None:
    lab_rds.take(route53=0.0)
    old, new = record(lab_rds, "swap", "old.example.com"), record(lab_rds, "swap", "new.example.com")
    change(lab_rds, ("UPSERT", old))
    assert "already exists" in refused(lambda: change(lab_rds, ("CREATE", new)))
    other = record(lab_rds, "swap-other", "x.example.com")
    wrong = refused(lambda: change(lab_rds, ("CREATE", other), ("DELETE", new), ("CREATE", new)))
    assert wrong.startswith("InvalidChangeBatch")
    assert "do not match the current values" in wrong
    assert "not found" in refused(lambda: change(lab_rds, ("DELETE", other)))
    assert "conflicts" in refused(lambda: change(lab_rds, ("CREATE", record(lab_rds, "swap", "127.0.0.9", "A"))))
    for _ in range(2):  # there and back, twice: the same change is no other because it was made before
        change(lab_rds, ("DELETE", old), ("CREATE", new))
        assert cname(lab_rds, "swap") == "new.example.com."
        change(lab_rds, ("DELETE", new), ("CREATE", old))
        assert cname(lab_rds, "swap") == "old.example.com."
    change(lab_rds, ("DELETE", old))
    with pytest.raises(dns.resolver.NXDOMAIN):
        cname(lab_rds, "swap")


def cname(rds: LabRds, name: str) -> str:
    return str(resolver(rds.nameserver).resolve(f"{name}.{rds.zone}", "CNAME")[0])


def test_the_nameserver_tells_apart_what_is_not_there_and_what_is_not_its_own(lab_rds: LabRds) -> None:
    ask = resolver(lab_rds.nameserver)
    with pytest.raises(dns.resolver.NXDOMAIN):
        ask.resolve(f"nobody.{lab_rds.zone}", "A")
    with pytest.raises(dns.resolver.NoAnswer):
        ask.resolve(lab_rds.cname, "AAAA")
    host, _, port = lab_rds.nameserver.rpartition(":")
    answer = dns.query.udp(dns.message.make_query("example.com", "A"), host, port=int(port), timeout=5)
    assert answer.rcode() == dns.rcode.REFUSED
    mine = dns.query.udp(dns.message.make_query(lab_rds.cname.upper(), "A"), host, port=int(port), timeout=5)
    assert mine.flags & dns.flags.AA
    assert len(mine.answer) == 2


def test_a_nameserver_that_is_silent_lets_the_asker_wait(lab_rds: LabRds) -> None:
    lab_rds.order(silent=True)
    with pytest.raises(dns.exception.Timeout):
        resolver(lab_rds.nameserver, seconds=0.5).resolve(lab_rds.cname, "A")
    lab_rds.order(silent=False)
    assert resolve(lab_rds.nameserver, lab_rds.cname) == lab_rds.host()
