"""`redshift-serverless`: namespaces, workgroups, snapshots, recovery points and restores."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from dbops_lab.redshift_api.clusters import ADDRESS, in_background, warehouses
from dbops_lab.redshift_api.json_service import ServiceError

PREFIX = "arn:aws:redshift-serverless:eu-west-1:123456789012"
PAGE = 100


def missing(what: str, name: str) -> ServiceError:
    return ServiceError("ResourceNotFoundException", f"{what} {name} does not exist")


def conflict(text: str) -> ServiceError:
    return ServiceError("ConflictException", text)


class Serverless:
    """What exists, as the API shows it. Snapshots know their data by `id`, since two namespaces share no names."""

    def __init__(self) -> None:
        self.namespaces: dict[str, dict[str, Any]] = {}
        self.workgroups: dict[str, dict[str, Any]] = {}
        self.snapshots: dict[str, dict[str, Any]] = {}
        self.recovery_points: dict[str, dict[str, Any]] = {}
        self.tags: dict[str, dict[str, str]] = {}
        self._lock = threading.RLock()

    def operation(self, name: str) -> Callable[[dict[str, Any]], dict[str, Any]] | None:
        found = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
        return getattr(self, f"do_{found}", None)

    # ------------------------------------------------------------------ namespaces and workgroups

    def do_create_namespace(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = asked["namespaceName"]
        if name in self.namespaces:
            raise conflict(f"Namespace {name} already exists")
        kept = ("namespaceName", "dbName", "adminUsername", "iamRoles", "defaultIamRoleArn", "kmsKeyId", "logExports")
        arn = f"{PREFIX}:namespace/{name}"
        self.namespaces[name] = {
            **{key: asked[key] for key in kept if key in asked},
            "namespaceId": name,
            "namespaceArn": arn,
            "status": "AVAILABLE",
            "creationDate": now(),
        }
        self._tag(arn, asked)
        return {"namespace": self.namespaces[name]}

    def do_get_namespace(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"namespace": self._namespace(asked["namespaceName"])}

    def do_delete_namespace(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = asked["namespaceName"]
        found = self._namespace(name)
        if any(item["namespaceName"] == name for item in self.workgroups.values()):
            raise conflict(f"Namespace {name} has a workgroup")
        warehouses.drop(name)
        return {"namespace": self.namespaces.pop(name) | {"status": "DELETING"} if found else found}

    def do_create_workgroup(self, asked: dict[str, Any]) -> dict[str, Any]:
        name, namespace = asked["workgroupName"], self._namespace(asked["namespaceName"])
        if name in self.workgroups:
            raise conflict(f"Workgroup {name} already exists")
        if any(item["namespaceName"] == asked["namespaceName"] for item in self.workgroups.values()):
            raise conflict("The namespace already has a workgroup")
        arn = f"{PREFIX}:workgroup/{name}"
        made = self.workgroups[name] = {
            **{key: value for key, value in asked.items() if key != "tags"},
            "workgroupId": name,
            "workgroupArn": arn,
            "status": "AVAILABLE",
            "creationDate": now(),
            "namespaceName": namespace["namespaceName"],
        }
        self._tag(arn, asked)
        return {"workgroup": self._shown(made)}

    def do_get_workgroup(self, asked: dict[str, Any]) -> dict[str, Any]:
        found = self.workgroups.get(asked["workgroupName"])
        if found is None:
            raise missing("Workgroup", asked["workgroupName"])
        return {"workgroup": self._shown(found)}

    def do_delete_workgroup(self, asked: dict[str, Any]) -> dict[str, Any]:
        found = self.do_get_workgroup(asked)["workgroup"]
        del self.workgroups[asked["workgroupName"]]
        return {"workgroup": found | {"status": "DELETING"}}

    def _shown(self, workgroup: dict[str, Any]) -> dict[str, Any]:
        place = warehouses.places.get(workgroup["namespaceName"])
        return workgroup | ({"endpoint": {"address": ADDRESS, "port": place.port}} if place else {})

    def _namespace(self, name: str) -> dict[str, Any]:
        found = self.namespaces.get(name)
        if found is None:
            raise missing("Namespace", name)
        return found

    # ------------------------------------------------------------------ snapshots

    def do_create_snapshot(self, asked: dict[str, Any]) -> dict[str, Any]:
        name, namespace = asked["snapshotName"], asked["namespaceName"]
        self._namespace(namespace)
        with self._lock:
            if name in self.snapshots:
                raise conflict(f"Snapshot {name} already exists")
            arn = f"{PREFIX}:snapshot/{name}"
            made = self.snapshots[name] = {
                "snapshotName": name,
                "snapshotArn": arn,
                "namespaceName": namespace,
                "status": "CREATING",
                "snapshotCreateTime": now(),
                "snapshotRetentionPeriod": asked.get("retentionPeriod", -1),
            }
        self._tag(arn, asked)

        def copy() -> None:
            made["totalBackupSizeInMegaBytes"] = warehouses.dump(namespace, f"serverless/{name}").megabytes
            made["status"] = "AVAILABLE"

        in_background(copy, "snapshot", lambda: made.update(status="FAILED"))
        return {"snapshot": dict(made)}

    def do_get_snapshot(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = asked.get("snapshotName") or asked["snapshotArn"].rpartition("/")[2]
        if name not in self.snapshots:
            raise missing("Snapshot", name)
        return {"snapshot": self.snapshots[name]}

    def do_list_snapshots(self, asked: dict[str, Any]) -> dict[str, Any]:
        found = [
            item for item in self.snapshots.values() if asked.get("namespaceName") in (None, item["namespaceName"])
        ]
        return paged("snapshots", found, asked)

    def do_delete_snapshot(self, asked: dict[str, Any]) -> dict[str, Any]:
        found = self.do_get_snapshot(asked)["snapshot"]
        del self.snapshots[asked["snapshotName"]]
        warehouses.forget(f"serverless/{asked['snapshotName']}")
        return {"snapshot": found | {"status": "DELETED"}}

    def do_list_recovery_points(self, asked: dict[str, Any]) -> dict[str, Any]:
        wanted = asked.get("namespaceName")
        found = [item for item in self.recovery_points.values() if wanted in (None, item["namespaceName"])]
        return paged("recoveryPoints", found, asked)

    # ------------------------------------------------------------------ restores

    def do_restore_from_snapshot(self, asked: dict[str, Any]) -> dict[str, Any]:
        found = self.do_get_snapshot(asked)["snapshot"]
        if found["status"] != "AVAILABLE":
            raise ServiceError("ValidationException", f"Snapshot {found['snapshotName']} is {found['status']}")
        namespace = self._restore(asked, f"serverless/{found['snapshotName']}")
        return {"namespace": namespace, "snapshotName": found["snapshotName"]}

    def do_restore_from_recovery_point(self, asked: dict[str, Any]) -> dict[str, Any]:
        point = asked["recoveryPointId"]
        if point not in self.recovery_points:
            raise missing("Recovery point", point)
        return {"namespace": self._restore(asked, f"recovery/{point}"), "recoveryPointId": point}

    def _restore(self, asked: dict[str, Any], dump: str) -> dict[str, Any]:
        name = asked["namespaceName"]
        namespace, data = self._namespace(name), warehouses.dumps.get(dump)
        self.do_get_workgroup(asked)
        if data is None:
            raise ServiceError("ValidationException", "The snapshot holds no data")
        if namespace["status"] != "AVAILABLE":
            raise conflict(f"Namespace {name} is {namespace['status']}")
        namespace["status"] = "MODIFYING"

        def copy() -> None:
            if name in self.namespaces:
                warehouses.drop(name)
                warehouses.restore(data, name)
                namespace["status"] = "AVAILABLE"

        in_background(copy, "restore", lambda: None)
        return dict(namespace)

    # ------------------------------------------------------------------ tags

    def do_tag_resource(self, asked: dict[str, Any]) -> dict[str, Any]:
        self._tag(asked["resourceArn"], asked)
        return {}

    def do_list_tags_for_resource(self, asked: dict[str, Any]) -> dict[str, Any]:
        found = self.tags.get(asked["resourceArn"], {})
        return {"tags": [{"key": key, "value": value} for key, value in found.items()]}

    def _tag(self, arn: str, asked: dict[str, Any]) -> None:
        self.tags.setdefault(arn, {}).update({tag["key"]: tag["value"] for tag in asked.get("tags", ())})


def now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z"


def paged(key: str, found: list[dict[str, Any]], asked: dict[str, Any]) -> dict[str, Any]:
    first, size = int(asked.get("nextToken") or 0), int(asked.get("maxResults") or PAGE)
    answer: dict[str, Any] = {key: found[first : first + size]}
    if first + size < len(found):
        answer["nextToken"] = str(first + size)
    return answer
