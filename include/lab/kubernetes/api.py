"""The HTTPS side: what is asked for, by whom, and what is answered."""

from __future__ import annotations

import contextlib
import copy
import hmac
import json
import re
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg2
from dbops_lab.certificates import certificate
from dbops_lab.dns import resolve
from dbops_lab.kubernetes.deployments import Controller, Deployment, spec_of
from dbops_lab.kubernetes.patch import MERGE, STRATEGIC, patched

LOOPBACK = "127.0.0.1"
REASONS = {400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 405: "MethodNotAllowed",
           409: "Conflict", 415: "UnsupportedMediaType", 422: "Invalid", 429: "TooManyRequests",
           500: "InternalError", 503: "ServiceUnavailable"}  # fmt: skip
DEPLOYMENTS = re.compile(r"/apis/apps/v1/namespaces/([^/]+)/deployments(?:/([^/]+))?(/status)?")
PODS = re.compile(r"/api/v1/namespaces/([^/]+)/pods(?:/([^/]+))?")


class Refused(Exception):
    """A request that is answered with a Status."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Kubernetes:
    """The API and its deployments; pods ask `nameserver`, and connect as `user` to `database`."""

    def __init__(
        self, state: Path, token: str, *, nameserver: str, user: str, password: str, database: str, port: int = 0
    ) -> None:
        self.token = token
        self._faults: list[dict[str, Any]] = []

        def connect(address: str, port: int, application: str) -> psycopg2.extensions.connection:
            return psycopg2.connect(
                host=address, port=port, user=user, password=password, dbname=database, application_name=application,
                connect_timeout=2,
            )  # fmt: skip

        self.controller = Controller(lambda name: resolve(nameserver, name), connect)
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer()

            def do_PATCH(self) -> None:
                self._answer()

            def do_POST(self) -> None:
                self._answer()

            def do_PUT(self) -> None:
                self._answer()

            def do_DELETE(self) -> None:
                self._answer()

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                kind = self.headers.get("Content-Type", "").partition(";")[0]
                status, answer = api.answer(self.command, self.path, body, kind, self.headers.get("Authorization", ""))
                text = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def handle(self) -> None:
                with contextlib.suppress(OSError):  # who is refused by TLS, or hangs up
                    super().handle()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer((LOOPBACK, port), Handler)
        self._server.daemon_threads = True
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(*certificate(state))
        # The handshake is left to the thread of the request: who does not speak must not hold up others.
        self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self.controller.close()

    def answer(self, method: str, target: str, body: bytes, kind: str, authorization: str) -> tuple[int, Any]:
        address = urlsplit(target)
        query = {name: values[-1] for name, values in parse_qs(address.query).items()}
        try:
            if address.path.startswith("/lab/"):
                return 200, self._control(address.path, _json(body))
            given = authorization.removeprefix("Bearer ")
            if not authorization.startswith("Bearer ") or not hmac.compare_digest(given.encode(), self.token.encode()):
                raise Refused(401, "Unauthorized")
            self._fail(method, address.path)
            if query.get("watch") in ("1", "true"):
                raise Refused(400, "the lab does not serve watches: ask again")
            if found := DEPLOYMENTS.fullmatch(address.path):
                return 200, self._deployments(method, found[1], found[2], body, kind, query)
            if found := PODS.fullmatch(address.path):
                return 200, self._pods(method, found[1], found[2], query)
            raise Refused(404, "the server could not find the requested resource")
        except Refused as problem:
            return problem.code, _status(problem.code, str(problem))

    # ------------------------------------------------------------------ resources

    def _deployments(
        self, method: str, namespace: str, name: str | None, body: bytes, kind: str, query: dict[str, str]
    ) -> dict[str, Any]:
        with self.controller.lock:
            if name is None:
                _only("GET", method)
                every = [item for (where, _), item in self.controller.deployments.items() if where == namespace]
                return _list("apps/v1", "DeploymentList", [item.document() for item in every])
            found = self.controller.deployments.get((namespace, name))
            if found is None:
                raise Refused(404, f'deployments.apps "{name}" not found')
            if method == "PATCH":
                return copy.deepcopy(self._patch(found, _json(body), kind, is_dry=query.get("dryRun") == "All"))
            _only("GET", method)
            return copy.deepcopy(found.document())

    def _patch(self, found: Deployment, patch: Any, kind: str, *, is_dry: bool) -> dict[str, Any]:
        if kind not in (STRATEGIC, MERGE):
            raise Refused(415, f"the body of the request was in an unknown format - accepted: {MERGE}, {STRATEGIC}")
        if not isinstance(patch, dict):
            raise Refused(400, "the patch is no object")
        before = found.document()
        wanted = patched(before, patch, strategic=kind == STRATEGIC)
        about, spec = wanted["metadata"], wanted["spec"]
        if about.get("resourceVersion") != found.version:
            text = f'Operation cannot be fulfilled on deployments.apps "{found.name}": the object has been modified'
            raise Refused(409, f"{text}; please apply your changes to the latest version and try again")
        problem = None
        if spec.get("selector") != found.spec["selector"]:
            problem = "spec.selector: field is immutable"
        elif not isinstance(spec.get("replicas"), int) or spec["replicas"] < 0:
            problem = "spec.replicas: Invalid value: must be greater than or equal to 0"
        elif spec["template"]["metadata"].get("labels") != found.spec["selector"]["matchLabels"]:
            problem = "spec.template.metadata.labels: Invalid value: `selector` does not match template `labels`"
        elif (about["name"], about["namespace"]) != (found.name, found.namespace):
            problem = "metadata.name: field is immutable"
        elif spec.get("strategy", {}).get("type", "RollingUpdate") != "RollingUpdate":
            problem = "spec.strategy.type: the lab rolls out only"
        if problem:
            raise Refused(422, f'Deployment.apps "{found.name}" is invalid: {problem}')
        if is_dry:
            return dict(wanted)
        found.labels, found.annotations = about.get("labels", {}), {**found.annotations, **about.get("annotations", {})}
        found.change(spec, self.controller.new_version())
        return found.document()

    def _pods(self, method: str, namespace: str, name: str | None, query: dict[str, str]) -> dict[str, Any]:
        _only("GET", method)
        with self.controller.lock:
            every = [
                pod.document(namespace)
                for (where, _), deployment in self.controller.deployments.items()
                if where == namespace
                for pod in deployment.pods
            ]
        if name is None:
            wanted = dict(
                part.split("=", 1) for part in query.get("labelSelector", "").replace("==", "=").split(",") if part
            )
            chosen = [pod for pod in every if wanted.items() <= pod["metadata"]["labels"].items()]
            return _list("v1", "PodList", chosen)
        found = [pod for pod in every if pod["metadata"]["name"] == name]
        if not found:
            raise Refused(404, f'pods "{name}" not found')
        return found[0]

    # ------------------------------------------------------------------ orders

    def _control(self, path: str, asked: Any) -> dict[str, Any]:
        if path == "/lab/deployments":
            self.deploy(**asked)
        elif path == "/lab/faults":
            self.faults(*asked)
        elif path == "/lab/step":
            self.controller.seconds = float(asked["seconds"])
        else:
            raise Refused(404, "the lab has no such order")
        return {}

    def deploy(
        self, namespace: str, name: str, *, if_missing: bool = False, replicas: int, host: str, port: int, **words: Any
    ) -> None:
        """Make a deployment (or change one, unless only what is missing is wanted) for a database at a name."""
        with self.controller.lock:
            if not if_missing or (namespace, name) not in self.controller.deployments:
                self.controller.deploy(namespace, name, spec_of(name, replicas, host, port, **words))

    def faults(self, *orders: dict[str, Any]) -> None:
        """Let requests fail, or the new pods of a deployment; without an order, end all faults."""
        with self.controller.lock:
            self._faults = [dict(order) for order in orders if "deployment" not in order]
            failing = {order["deployment"] for order in orders if "deployment" in order}
            for (namespace, name), deployment in self.controller.deployments.items():
                deployment.crashes = f"{namespace}/{name}" in failing
                if not deployment.crashes:
                    for pod in deployment.pods:
                        pod.crashes = False

    def _fail(self, method: str, path: str) -> None:
        for order in self._faults:
            fits = order.get("method", method) == method and re.search(order.get("path", ""), path)
            if fits and order.get("times", 1) > 0:
                order["times"] = order.get("times", 1) - 1
                time.sleep(order.get("delay", 0))
                if "status" in order:
                    raise Refused(order["status"], "the lab was told to fail")
                return


def _only(wanted: str, method: str) -> None:
    if method != wanted:
        raise Refused(405, "the server does not allow this method on the requested resource")


def _json(body: bytes) -> Any:
    try:
        return json.loads(body or b"{}")
    except ValueError as problem:
        raise Refused(400, f"the object provided is unrecognized: {problem}") from None


def _list(version: str, kind: str, items: list[dict[str, Any]]) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"resourceVersion": "1"}, "items": copy.deepcopy(items)}


def _status(code: int, message: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Status",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": REASONS.get(code, "Unknown"),
        "code": code,
    }
