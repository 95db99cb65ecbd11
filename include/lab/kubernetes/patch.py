"""What a PATCH makes of an object.

https://kubernetes.io/docs/tasks/manage-kubernetes-objects/update-api-object-kubectl-patch/
"""

from __future__ import annotations

from typing import Any

KEYS = {"containers": "name", "initContainers": "name", "env": "name", "volumes": "name", "imagePullSecrets": "name",
        "volumeMounts": "mountPath", "ports": "containerPort"}  # fmt: skip
"""By which key a strategic merge patch finds the entry of a list; other lists are replaced."""
STRATEGIC, MERGE = "application/strategic-merge-patch+json", "application/merge-patch+json"


def patched(found: Any, patch: Any, *, strategic: bool) -> Any:
    """The object with the patch applied; None removes a field."""
    if not isinstance(patch, dict):
        return patch
    made = dict(found) if isinstance(found, dict) else {}
    for name, value in patch.items():
        if value is None:
            made.pop(name, None)
        elif strategic and name in KEYS and isinstance(value, list):
            made[name] = _merged(made.get(name) or [], value, KEYS[name])
        else:
            made[name] = patched(made.get(name), value, strategic=strategic)
    return made


def _merged(found: list[Any], patch: list[Any], key: str) -> list[Any]:
    made = {item[key]: item for item in found}
    for item in patch:
        if item.get("$patch") == "delete":
            made.pop(item[key], None)
        else:
            made[item[key]] = patched(made.get(item[key]), item, strategic=True)
    return list(made.values())
