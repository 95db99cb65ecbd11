"""Deployments of Kubernetes that must be restarted to follow a CNAME: who they are, restarted once, rolled out.

Two requests are all that is needed, GET and PATCH of apps/v1 deployments, over HTTPS with a bearer token. Airflow's
provider `cncf.kubernetes` is no dependency of this project, and the command line works without Airflow.
"""

from __future__ import annotations

import json
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

from dbops.connections import ConnectionInfo
from dbops.errors import ConfigurationError, FinalError, RetryableError
from dbops.platform.postgres_recovery import Kubernetes

SECONDS = 15.0
MARK = "dbops.bedrockplatform.bid/recovery"
"""Annotation of the pods' template: which restart it has had."""
RESTARTED = "kubectl.kubernetes.io/restartedAt"
"""The one of `kubectl rollout restart`."""
RIGHTS = "include/iam/postgres-recovery-rbac.yaml"


class KubernetesUnreachable(RetryableError):
    """No answer, or one that says to come back later."""


class KubernetesRefused(FinalError):
    """Kubernetes does not let us, or does not know what was asked for."""


class RolloutFailed(FinalError):
    """A deployment's new pods do not become ready."""


@dataclass(frozen=True)
class Rollout:
    """How far a deployment's rollout is, as `kubectl rollout status` counts."""

    name: str
    done: bool
    message: str


class Cluster:
    """The deployments of one namespace."""

    def __init__(self, info: ConnectionInfo, kubernetes: Kubernetes) -> None:
        """:raises ConfigurationError: the connection is no address of HTTPS, or has no token."""
        self.kubernetes, self.namespace = kubernetes, kubernetes.namespace
        host = (info.host or "").rstrip("/")
        self.url = (host if "://" in host else f"https://{host}") + (f":{info.port}" if info.port else "")
        if not host or not self.url.startswith("https://"):
            raise ConfigurationError(
                f"connection {info.conn_id} is no address of a Kubernetes API: write https://name in its host"
            )
        if not info.password:
            raise ConfigurationError(f"connection {info.conn_id} has no password: it must be a service account's token")
        self._token = info.password
        ca_file = info.extra.get("ca_file")
        try:
            self._tls = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
        except OSError as error:
            raise ConfigurationError(
                f"connection {info.conn_id}: the CA certificate {ca_file} cannot be read ({error.strerror or error})"
            ) from None

    def deployments(self) -> list[dict[str, Any]]:
        """All that are configured. Also how rights and names are checked before anything is made.

        :raises KubernetesRefused: one is missing or paused, or may not be read.
        """
        found = [self.get(one.name) for one in self.kubernetes.deployments]
        for item in found:
            if item["spec"].get("paused"):
                raise KubernetesRefused(
                    f"deployment {self.namespace}/{item['metadata']['name']} is paused: it would not roll out. Resume "
                    "it, or take it out of `recovery.kubernetes`"
                )
        return found

    def get(self, name: str) -> dict[str, Any]:
        return self._ask("GET", name, None)

    def may_restart(self) -> None:
        """Ask for a restart that is not carried out, for the right to it.

        :raises KubernetesRefused: it is missing.
        """
        for one in self.kubernetes.deployments:
            self._ask("PATCH", one.name, _patch({RESTARTED: "dry-run"}), "?dryRun=All")

    def restart(self, name: str, mark: str, now: datetime) -> bool:
        """Restart it, once for each mark; False when it was restarted before."""
        if self.mark_of(name) == mark:
            return False
        self._ask("PATCH", name, _patch({MARK: mark, RESTARTED: f"{now:%FT%TZ}"}))
        return True

    def mark_of(self, name: str) -> str | None:
        template = self.get(name)["spec"]["template"]
        return (template.get("metadata", {}).get("annotations") or {}).get(MARK)

    def rollouts(self, names: Sequence[str] | None = None) -> list[Rollout]:
        """:raises RolloutFailed: one does not come to its end."""
        wanted = [one.name for one in self.kubernetes.deployments] if names is None else names
        return [rollout_of(self.get(name)) for name in wanted]

    def _ask(self, method: str, name: str, patch: dict[str, Any] | None, query: str = "") -> dict[str, Any]:
        path = f"/apis/apps/v1/namespaces/{quote(self.namespace)}/deployments/{quote(name)}{query}"
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "application/json"}
        body = None
        if patch is not None:
            body = json.dumps(patch).encode()
            headers["Content-Type"] = "application/strategic-merge-patch+json"
        request = urllib.request.Request(self.url + path, body, headers, method=method)  # noqa: S310 - https, see above
        verb = "read" if method == "GET" else "restart"
        what = f"{verb} deployment {self.namespace}/{name} at {self.url}"
        # Never through a proxy of the environment: the token would go along.
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self._tls), _NoRedirect()
        )
        try:
            with opener.open(request, timeout=SECONDS) as answer:
                found: dict[str, Any] = json.loads(answer.read())
                return found
        except urllib.error.HTTPError as error:
            said = _message(error.read(2000))
            if error.code in (401, 403):
                raise KubernetesRefused(f"{what}: {said} ({error.code}); compare the rights with {RIGHTS}") from None
            kind = KubernetesUnreachable if error.code in (409, 429) or error.code >= 500 else KubernetesRefused
            raise kind(f"{what}: {said} ({error.code})") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise KubernetesRefused(
                    f"{what}: its certificate is not signed by the connection's CA ({reason.verify_message})"
                ) from None
            raise KubernetesUnreachable(f"{what}: {reason}") from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A token goes to the address that was configured, and nowhere else."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _patch(annotations: dict[str, str]) -> dict[str, Any]:
    return {"spec": {"template": {"metadata": {"annotations": annotations}}}}


def _message(body: bytes) -> str:
    text = body.decode("utf-8", "replace")
    try:
        found = json.loads(text)
        text = str(found.get("message") or text) if isinstance(found, dict) else text
    except ValueError:
        pass
    return re.sub(r"\s+", " ", text)[:300]


def rollout_of(deployment: dict[str, Any]) -> Rollout:
    """What `kubectl rollout status` says.

    https://github.com/kubernetes/kubectl/blob/master/pkg/polymorphichelpers/rollout_status.go

    :raises RolloutFailed: it has exceeded its progress deadline.
    """
    about, spec, status = deployment["metadata"], deployment["spec"], deployment.get("status") or {}
    name, wanted = f"{about['namespace']}/{about['name']}", int(spec.get("replicas", 1))
    if int(status.get("observedGeneration", 0)) < int(about["generation"]):
        return Rollout(name, False, "the change is not seen yet")
    conditions = {item["type"]: item for item in status.get("conditions") or ()}
    if (progress := conditions.get("Progressing")) and progress.get("reason") == "ProgressDeadlineExceeded":
        raise RolloutFailed(
            f"deployment {name} does not roll out: {progress.get('message', '')} "
            f"({int(status.get('availableReplicas', 0))} of {wanted} pods are available)"
        )
    total, updated = int(status.get("replicas", 0)), int(status.get("updatedReplicas", 0))
    available = int(status.get("availableReplicas", 0))
    if updated < wanted:
        return Rollout(name, False, f"{updated} of {wanted} pods are new")
    if total > updated:
        return Rollout(name, False, f"{total - updated} old pods are still there")
    if available < updated:
        return Rollout(name, False, f"{available} of {updated} new pods are available")
    return Rollout(name, True, f"{updated} new pods are available")
