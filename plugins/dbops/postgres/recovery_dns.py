"""The CNAME that applications connect to: read, switched only from what was seen, followed until everybody sees it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from ipaddress import ip_address
from typing import Any

from dbops import aws
from dbops.aws import ApiRefused
from dbops.backups.manifest import Document
from dbops.backups.store import aws_client
from dbops.connections import ConnectionInfo
from dbops.errors import ConfigurationError, FinalError, RetryableError

POLICY = "include/iam/postgres-recovery-policy.json"


class RecordRefused(FinalError):
    """The record is none that can be switched, or is not what was seen any more."""


class NamesUnreachable(RetryableError):
    """No nameserver answers."""


class Record(Document):
    """A CNAME: where it leads, and for how many seconds resolvers remember that."""

    name: str
    value: str
    ttl: int


def _calls(what: str) -> AbstractContextManager[None]:
    return aws.calls(what, POLICY)


def route53_client(connection: ConnectionInfo, region: str) -> Any:
    return aws_client(connection, region, "route53")


def same_name(one: str, other: str) -> bool:
    return one.rstrip(".").lower() == other.rstrip(".").lower()


def zone_of(client: Any, name: str) -> str:
    """Id of the hosted zone that a name lies in: the longest that fits.

    :raises RecordRefused: there is none, or a public and a private one.
    """
    with _calls("list the hosted zones"):
        pages = client.get_paginator("list_hosted_zones").paginate()
        zones = [(item["Name"].rstrip(".").lower(), item["Id"]) for page in pages for item in page["HostedZones"]]
    fitting = [zone for zone in zones if name.lower() == zone[0] or name.lower().endswith(f".{zone[0]}")]
    longest = [zone for zone in fitting if len(zone[0]) == max(len(other[0]) for other in fitting)]
    if len(longest) != 1:
        found = ", ".join(f"{zone} ({id})" for zone, id in longest) or "none"
        raise RecordRefused(f"{name}: the hosted zones that it lies in are {found}; name one: recovery.record.zone")
    return str(longest[0][1]).rpartition("/")[2]


def nameserver_of(connection: ConnectionInfo) -> str:
    """host:port.

    :raises ConfigurationError: the host is no IP address.
    """
    try:
        ip_address(connection.host or "")
    except ValueError:
        raise ConfigurationError(
            f"connection {connection.conn_id} is no nameserver: its host must be an IP address"
        ) from None
    return f"{connection.host}:{connection.port or 53}"


def read_record(client: Any, zone: str, name: str) -> Record:
    """:raises RecordRefused: there is none, or it is no plain CNAME with one value."""
    with _calls(f"read {name} in hosted zone {zone}"):
        sets = client.list_resource_record_sets(HostedZoneId=zone, StartRecordName=name, MaxItems="10")[
            "ResourceRecordSets"
        ]
    found = [item for item in sets if same_name(item["Name"], name)]
    if not found:
        raise RecordRefused(f"{name}: hosted zone {zone} has no such record; correct `postgres.recovery.record`")
    item = found[0]
    values: list[dict[str, str]] = item.get("ResourceRecords") or []
    if len(found) > 1 or item["Type"] != "CNAME" or len(values) != 1 or "SetIdentifier" in item:
        kinds = ", ".join(one["Type"] + (" (routing policy)" if "SetIdentifier" in one else "") for one in found)
        raise RecordRefused(f"{name} is no plain CNAME with one value but {kinds}: switch it by hand")
    return Record(name=name, value=values[0]["Value"], ttl=int(item["TTL"]))


def switch(client: Any, zone: str, old: Record, new: Record) -> str:
    """Let the record be `new`, only if it is `old`; the id of the change, for `is_in_sync`.

    Deleting what was seen and creating the other is one change, which Route 53 refuses when the record has become
    another meanwhile; an UPSERT would overwrite that. When it is `new` already, it is written once more, to have the id
    of a change that can be waited for.

    :raises RecordRefused: it is neither.
    """
    problem: ApiRefused | None = None
    for _ in range(2):  # botocore asks again when an answer is lost, and is then refused what it has done itself
        now = read_record(client, zone, old.name)
        if not any(same_name(now.value, known.value) for known in (old, new)):
            raise RecordRefused(
                f"switch {old.name} from {old.value} to {new.value}: it leads to {now.value}, so somebody else has "
                "changed it. Nothing was switched"
            )
        pairs = (("DELETE", now), ("CREATE", new))
        changes = [{"Action": action, "ResourceRecordSet": _set(record)} for action, record in pairs]
        try:
            with _calls(f"switch {old.name} from {now.value} to {new.value}"):
                answer = client.change_resource_record_sets(
                    HostedZoneId=zone, ChangeBatch={"Comment": "dbops recovery", "Changes": changes}
                )
                return str(answer["ChangeInfo"]["Id"])
        except ApiRefused as error:
            if "InvalidChangeBatch" not in str(error):
                raise
            problem = error
    raise RecordRefused(f"{problem}: somebody else changes it just now. Nothing was switched")


def _set(record: Record) -> dict[str, Any]:
    return {
        "Name": record.name,
        "Type": "CNAME",
        "TTL": record.ttl,
        "ResourceRecords": [{"Value": record.value}],
    }


def is_in_sync(client: Any, change: str) -> bool:
    """Whether all of Route 53's nameservers have it."""
    with _calls(f"look for change {change} of Route 53"):
        return bool(client.get_change(Id=change)["ChangeInfo"]["Status"] == "INSYNC")


def lookup(name: str, nameserver: str | None) -> str:
    """Where a CNAME leads, as a resolver says.

    :param nameserver: host:port; None: the machine's.
    :raises NamesUnreachable: nobody answers, or with no CNAME.
    """
    import dns.exception

    try:
        answer = _resolver(nameserver).resolve(f"{name.rstrip('.')}.", "CNAME")
        return str(answer[0].target).rstrip(".")
    except dns.exception.DNSException as error:
        raise NamesUnreachable(f"ask {nameserver or 'the resolver'} for {name}: {_words(error)}") from None


def address_of(host: str, nameserver: str) -> str:
    """The address of an instance, from a nameserver that the machine's resolver does not ask.

    :raises NamesUnreachable: it has none.
    """
    import dns.exception

    try:
        return str(next(iter(_resolver(nameserver).resolve(f"{host.rstrip('.')}.", "A"))))
    except dns.exception.DNSException as error:
        raise NamesUnreachable(f"ask {nameserver} for {host}: {_words(error)}") from None


def _resolver(nameserver: str | None) -> Any:
    import dns.resolver

    found = dns.resolver.Resolver(configure=nameserver is None)
    if nameserver is not None:
        host, _, port = nameserver.rpartition(":")
        found.nameservers, found.port = [host], int(port)
    found.lifetime = 5.0
    return found


def _words(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
