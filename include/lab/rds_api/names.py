"""Route 53 as it is: a change is PENDING for a while, resolvers see it then or later, a wrong one is refused whole."""

from __future__ import annotations

import secrets
import string
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from dbops_lab.rds_api.instances import DOMAIN, real_instances
from moto.core.responses import ActionResult
from moto.core.utils import utcnow
from moto.route53 import models
from moto.route53.exceptions import DnsNameInvalidForZone, Route53ClientError
from moto.route53.models import FakeZone
from moto.route53.responses import Route53

ENDPOINT_TTL = 5  # of RDS's endpoints
Records = dict[tuple[str, str, str | None], tuple[int, list[str]]]
"""Name without the last dot, type and set identifier to TTL and values."""


@dataclass
class Names:
    """What has been changed, and since when whoever asks a nameserver sees it."""

    seconds: dict[str, float] = field(default_factory=lambda: {"route53": 0.2, "dns": 0.0})
    """How long a change is PENDING, and after how much longer nameservers answer with it."""
    changes: dict[str, tuple[datetime, float]] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)
    _views: dict[str, list[tuple[float, str, Records]]] = field(default_factory=dict)

    def changed(self, zone: FakeZone, *, at_once: bool = False) -> str:
        """Note that a zone is another one now; the change's id."""
        letters = string.ascii_uppercase + string.digits
        id, now = "C" + "".join(secrets.choice(letters) for _ in range(20)), time.monotonic()
        pending, later = (0.0, 0.0) if at_once else (self.seconds["route53"], self.seconds["dns"])
        self.changes[id] = (utcnow(), now + pending)
        seen = now + pending + later
        if at_once:
            self._views.pop(zone.resource_id, None)
        self._views.setdefault(zone.resource_id, []).append((seen, _bare(zone.name), records(zone)))
        return id

    def info(self, id: str) -> dict[str, Any]:
        if id not in self.changes:
            raise Route53ClientError("NoSuchChange", f"Could not find resource with ID: {id}")
        submitted, done = self.changes[id]
        status = "INSYNC" if time.monotonic() >= done else "PENDING"
        return {"ChangeInfo": {"Id": f"/change/{id}", "Status": status, "SubmittedAt": submitted}}

    # ------------------------------------------------------------------ the nameserver's

    def knows(self, name: str) -> bool:
        return _lies_in(name, DOMAIN) or self._zone(name) is not None

    def lookup(self, name: str, kind: str) -> tuple[int, list[str]] | None:
        if _lies_in(name, DOMAIN):
            return _endpoint(name, kind)
        found = self._zone(name) or {}
        sets = {key: value for key, value in found.items() if key[0] == name}
        if not sets:
            return None
        every = [value for key, value in sets.items() if key[1] == kind]
        return every[0] if every else (0, [])

    def _zone(self, name: str) -> Records | None:
        """The records of the closest zone, as they are seen now."""
        now, closest, found = time.monotonic(), "", None
        with self.lock:
            for views in self._views.values():
                while len(views) > 1 and views[1][0] <= now:
                    views.pop(0)
                seen, zone, records = views[0]
                if _lies_in(name, zone) and len(zone) > len(closest):
                    closest, found = zone, records if seen <= now else {}
        return found


names = Names()


def records(zone: FakeZone) -> Records:
    return {
        (_bare(item.name), str(item.type), item.set_identifier): (int(item.ttl or 0), list(item.records))
        for item in zone.rrsets
    }


def _endpoint(name: str, kind: str) -> tuple[int, list[str]] | None:
    for instance in real_instances():
        if instance.server is not None and instance.endpoint and instance.address == name:
            return ENDPOINT_TTL, [instance.server.host] if kind == "A" else []
    return None


def _bare(name: str) -> str:
    return name.rstrip(".").lower()


def _lies_in(name: str, zone: str) -> bool:
    return name == zone or name.endswith(f".{zone}")


def _check(zone: FakeZone, changes: list[dict[str, Any]]) -> None:
    """A batch is carried out as a whole or not at all.

    https://docs.aws.amazon.com/Route53/latest/APIReference/API_ChangeResourceRecordSets.html
    """
    now, problems = records(zone), []
    for change in changes:
        asked, action = change["ResourceRecordSet"], change["Action"]
        models.validate_domain_name(asked["Name"], code="InvalidChangeBatch")
        name, kind = _bare(asked["Name"]), asked["Type"]
        if not _lies_in(name, _bare(zone.name)):
            raise DnsNameInvalidForZone(name=asked["Name"], zone_name=zone.name)
        key = (name, kind, asked.get("SetIdentifier"))
        what = f"resource record set [name='{name}.', type='{kind}']"
        value = (int(asked.get("TTL") or 0), [item["Value"] for item in asked.get("ResourceRecords") or ()])
        if action == "CREATE" and key in now:
            problems.append(f"Tried to create {what} but it already exists")
        elif action == "DELETE" and key not in now:
            problems.append(f"Tried to delete {what} but it was not found")
        elif action == "DELETE" and _sorted(now[key]) != _sorted(value):
            problems.append(f"Tried to delete {what} but the values provided do not match the current values")
        elif action == "DELETE":
            del now[key]
        else:
            now[key] = value
    for name, kind, _ in now:
        others = {other[1] for other in now if other[0] == name} - {"CNAME"}
        if kind == "CNAME" and others:
            problems.append(
                f"RRSet of type CNAME with DNS name {name}. is not permitted as it conflicts with other records with "
                f"the same DNS name in zone {zone.name}"
            )
    if problems:
        raise Route53ClientError("InvalidChangeBatch", f"[{', '.join(problems)}]")


def _sorted(value: tuple[int, list[str]]) -> tuple[int, list[str]]:
    return value[0], sorted(map(_bare, value[1]))


# ------------------------------------------------------------------------------------------------- moto takes them


def change_record_sets(self: Route53) -> ActionResult:
    changes = self._get_param("ChangeBatch.Changes")
    with names.lock:
        zone = self.backend.get_hosted_zone(self._get_param("HostedZoneId"))
        _check(zone, changes)
        for change in changes:
            asked = dict(change["ResourceRecordSet"])
            asked["Name"] = f"{_bare(asked['Name'])}."
            asked["ResourceRecords"] = [item["Value"] for item in asked.get("ResourceRecords") or ()]
            if change["Action"] == "DELETE":
                zone.rrsets = [
                    item
                    for item in zone.rrsets
                    if (item.name, item.type, item.set_identifier)
                    != (asked["Name"], asked["Type"], asked.get("SetIdentifier"))
                ]
            else:
                zone.upsert_rrset(asked)
        return ActionResult(names.info(names.changed(zone)))


def get_change(self: Route53) -> ActionResult:
    return ActionResult(names.info(self._get_param("Id").rpartition("/")[2]))


def install() -> None:
    """From now on this process's moto keeps names so."""
    Route53.change_resource_record_sets = change_record_sets  # type: ignore[method-assign]
    Route53.get_change = get_change  # type: ignore[method-assign]
