"""Deployments and how they are rolled out: one pod more, one pod less at a time, within surge and unavailability.

https://kubernetes.io/docs/concepts/workloads/controllers/deployment/
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import secrets
import threading
import time
from datetime import UTC, datetime
from typing import Any

from dbops_lab.kubernetes.pods import Connect, Pod, Resolve, stamp

NAME = "bcdfghjklmnpqrstvwxz2456789"  # of what Kubernetes makes the ends of names
DEADLINE = 2  # seconds without progress, in the lab; 600 in Kubernetes


class Deployment:
    """One deployment with its pods. What it wants to be is `spec`; the rest is what it is."""

    def __init__(
        self, namespace: str, name: str, spec: dict[str, Any], resolve: Resolve, connect: Connect, version: str
    ) -> None:
        self.namespace, self.name, self.spec = namespace, name, spec
        self.generation, self.observed, self.version = 1, 0, version
        self.labels, self.annotations = {"app": name}, {"deployment.kubernetes.io/revision": "1"}
        self.uid = f"{secrets.token_hex(4)}-{secrets.token_hex(2)}-{secrets.token_hex(2)}"
        self.crashes = False
        self.pods: list[Pod] = []
        self._resolve, self._connect = resolve, connect
        self._created = datetime.now(UTC)
        self._progressed, self._seen = time.monotonic(), (0, 0, 0, 0)
        self._updated = self._created

    @property
    def hash(self) -> str:
        """Which pods are of the current template."""
        text = json.dumps(self.spec["template"], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    @property
    def replicas(self) -> int:
        return int(self.spec["replicas"])

    def change(self, spec: dict[str, Any], version: str) -> None:
        if spec != self.spec:
            old, self.spec = self.hash, spec
            self.generation += 1
            if self.hash != old:
                revision = int(self.annotations["deployment.kubernetes.io/revision"])
                self.annotations["deployment.kubernetes.io/revision"] = str(revision + 1)
        self.version = version

    # ------------------------------------------------------------------ the controller's work

    def step(self) -> None:
        """What the controller does in one round."""
        if self.observed != self.generation:
            self.observed, self._progressed = self.generation, time.monotonic()
        if not self.spec.get("paused"):
            self._roll()
        new, ready = self._new(), self._ready()
        seen = (self.observed, len(new), len(self.pods), sum(pod.is_ready for pod in new))
        if seen != self._seen:
            self._seen, self._progressed, self._updated = seen, time.monotonic(), datetime.now(UTC)
        if ready == len(new) == len(self.pods) == self.replicas:
            self._progressed = time.monotonic()

    def _roll(self) -> None:
        surge, unavailable = self._limits()
        new, old = self._new(), [pod for pod in self.pods if pod.hash != self.hash]
        if len(new) < self.replicas and len(self.pods) < self.replicas + surge:
            self._begin()
        elif len(new) > self.replicas:
            self._end(new[-1])
        elif idle := [pod for pod in old if not pod.is_ready]:
            self._end(idle[0])
        elif old and self._ready() > self.replicas - unavailable:
            self._end(old[0])

    def _begin(self) -> None:
        name = f"{self.name}-{self.hash}-{''.join(secrets.choice(NAME) for _ in range(5))}"
        template = copy.deepcopy(self.spec["template"])
        made = Pod(self.name, name, self.hash, template, self._resolve, self._connect, crashes=self.crashes)
        self.pods = [*self.pods, made]

    def _end(self, pod: Pod) -> None:
        self.pods = [other for other in self.pods if other is not pod]
        pod.close()

    def close(self) -> None:
        for pod in self.pods:
            self._end(pod)

    def _new(self) -> list[Pod]:
        return [pod for pod in self.pods if pod.hash == self.hash]

    def _ready(self) -> int:
        return sum(pod.is_ready for pod in self.pods)

    def _limits(self) -> tuple[int, int]:
        """How many pods more, and how many ready ones less than wanted there may be: of a share, up and down."""
        words = self.spec.get("strategy", {}).get("rollingUpdate", {})
        surge = _count(words.get("maxSurge", "25%"), self.replicas, math.ceil)
        unavailable = _count(words.get("maxUnavailable", "25%"), self.replicas, math.floor)
        return (surge, unavailable) if surge or unavailable else (0, 1)

    # ------------------------------------------------------------------ as the API shows it

    def document(self) -> dict[str, Any]:
        new, ready = len(self._new()), self._ready()
        numbers = {
            "replicas": len(self.pods),
            "updatedReplicas": new,
            "readyReplicas": ready,
            "availableReplicas": ready,
            "unavailableReplicas": max(self.replicas, len(self.pods)) - ready,
        }
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {
                "name": self.name,
                "namespace": self.namespace,
                "uid": self.uid,
                "resourceVersion": self.version,
                "generation": self.generation,
                "creationTimestamp": stamp(self._created),
                "labels": self.labels,
                "annotations": self.annotations,
            },
            "spec": self.spec,
            "status": {
                **({"observedGeneration": self.observed} if self.observed else {}),
                **{name: number for name, number in numbers.items() if number},  # what is 0 is left out there, too
                "conditions": self._conditions(ready),
            },
        }

    def _conditions(self, ready: int) -> list[dict[str, Any]]:
        is_enough = ready >= self.replicas - self._limits()[1]
        limit = float(self.spec.get("progressDeadlineSeconds", 600))
        if len(self._new()) == len(self.pods) == self.replicas == ready:
            progress = ("True", "NewReplicaSetAvailable", "has successfully progressed.")
        elif time.monotonic() - self._progressed > limit:
            progress = ("False", "ProgressDeadlineExceeded", "has timed out progressing.")
        else:
            progress = ("True", "ReplicaSetUpdated", "is progressing.")
        available = ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
        if not is_enough:
            available = ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
        at, name = stamp(self._updated), f"{self.name}-{self.hash}"
        return [
            {"type": kind, "status": status, "reason": reason, "message": text, "lastUpdateTime": at,
             "lastTransitionTime": at}
            for kind, (status, reason, text) in (
                ("Available", available),
                ("Progressing", (progress[0], progress[1], f'ReplicaSet "{name}" {progress[2]}')),
            )
        ]  # fmt: skip


class Controller:
    """All deployments, and who looks after them."""

    def __init__(self, resolve: Resolve, connect: Connect) -> None:
        self.deployments: dict[tuple[str, str], Deployment] = {}
        self.seconds = 0.1
        self.lock = threading.RLock()
        self._resolve, self._connect = resolve, connect
        self._version = 0
        self._over = threading.Event()
        threading.Thread(target=self._work, daemon=True).start()

    def new_version(self) -> str:
        self._version += 1
        return str(self._version)

    def deploy(self, namespace: str, name: str, spec: dict[str, Any]) -> Deployment:
        """Make a deployment, or let one that is there be so."""
        with self.lock:
            found = self.deployments.get((namespace, name))
            if found is None:
                made = Deployment(namespace, name, spec, self._resolve, self._connect, self.new_version())
                self.deployments[namespace, name] = made
                return made
            found.change(spec, self.new_version())
            return found

    def remove(self, namespace: str, name: str) -> None:
        with self.lock:
            if found := self.deployments.pop((namespace, name), None):
                found.close()

    def _work(self) -> None:
        while not self._over.wait(self.seconds):
            with self.lock:
                for deployment in self.deployments.values():
                    deployment.step()

    def close(self) -> None:
        self._over.set()
        for namespace, name in list(self.deployments):
            self.remove(namespace, name)


def spec_of(name: str, replicas: int, host: str, port: int, deadline: int = DEADLINE) -> dict[str, Any]:
    """The specification of a deployment whose pods connect to a database."""
    labels = {"app": name}
    env = [{"name": "DATABASE_HOST", "value": host}, {"name": "DATABASE_PORT", "value": str(port)}]
    return {
        "replicas": replicas,
        "progressDeadlineSeconds": deadline,
        "selector": {"matchLabels": labels},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
        "template": {
            "metadata": {"labels": labels},
            "spec": {"containers": [{"name": name, "image": f"registry.lab/{name}:1", "env": env}]},
        },
    }


def _count(value: int | str, replicas: int, rounded: Any) -> int:
    if isinstance(value, str):
        return int(rounded(int(value.rstrip("%")) * replicas / 100))
    return value
