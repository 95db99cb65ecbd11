"""S3 of the lab: moto's server in a process of its own, with faults that a test can order.

`python -m dbops_lab.s3 --port P --bucket NAME`. Its state is lost when it ends. `POST /lab/faults` takes a
list of `{"method": "PUT", "key": regex, "status": 503, "times": 2, "delay": 0.5, "reset_after": 65536}`. The
first entry that matches path and query and has `times` left is applied: `delay` (seconds) waits first,
`status` answers an S3 error, `reset_after` reads that many bytes of the body and cuts the connection, `headers`
(`{"x-amz-replication-status": "FAILED"}`) are added to moto's answer, for what moto does not do. With `"after": true`
the request is carried out, and its answer is lost. What a service in JSON is asked for stands behind the query:
`/?#RedshiftData.ExecuteStatement`; for one that takes forms, `Action=...` does. `code` is the error's name, where
S3's does not do (`ThrottlingException`). An empty list ends all faults.

The same server answers for the lab's warehouse and for its PostgreSQL instances, once it is told of them: see
`dbops_lab.redshift_api` and `dbops_lab.rds_api`. Glue's runs become what `POST /lab/glue` says: see `dbops_lab.glue`.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import re
import signal
import socket
import struct
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable
from typing import Any

from dbops_lab import glue
from dbops_lab.rds_api import RdsApi
from dbops_lab.redshift_api import RedshiftApi
from dbops_lab.supervisor import direct

REGION = "eu-west-1"
BUCKET = "bedrock-backups"
ERRORS = {
    500: "InternalError",
    503: "SlowDown",
    403: "AccessDenied",
    404: "NoSuchBucket",
    400: "RequestTimeout",
}


class Faults:
    """WSGI application around moto's that fails as ordered."""

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app
        self._orders: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/lab/faults":
            body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            with self._lock:
                self._orders = json.loads(body)
            start_response("200 OK", [("Content-Length", "0")])
            return [b""]
        if path == "/lab/glue":
            return _glue(environ, start_response)
        target = path + "?" + environ.get("QUERY_STRING", "") + _asked_for(environ)
        order = self._match(environ["REQUEST_METHOD"], target)
        if order is None:
            return self._app(environ, start_response)
        time.sleep(order.get("delay", 0))
        if "reset_after" in order:
            _reset(environ, order["reset_after"])
        if "headers" in order:
            more = list(order["headers"].items())
            return self._app(environ, lambda status, headers, *rest: start_response(status, [*headers, *more], *rest))
        if "status" not in order:
            return self._app(environ, start_response)
        if order.get("after"):
            b"".join(self._app(environ, lambda status, headers, *rest: None))
        else:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        status = order["status"]
        code, said = order.get("code", ERRORS.get(status, "InternalError")), "the lab was told to fail"
        body, kind = f"<Error><Code>{code}</Code><Message>{said}</Message></Error>", "application/xml"
        if environ.get("HTTP_X_AMZ_TARGET"):
            body, kind = json.dumps({"__type": code, "message": said}), "application/x-amz-json-1.1"
        elif "#" in target:
            body = f"<ErrorResponse>{body}</ErrorResponse>"
        start_response(f"{status} Fault", [("Content-Type", kind), ("Content-Length", str(len(body)))])
        return [body.encode()]

    def _match(self, method: str, target: str) -> dict[str, Any] | None:
        with self._lock:
            for order in self._orders:
                fits = order.get("method", method) == method and re.search(order.get("key", ""), target)
                if fits and order.get("times", 1) > 0:
                    order["times"] = order.get("times", 1) - 1
                    return order
        return None


def _glue(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    try:
        orders = json.loads(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
        status, answer = "200 OK", json.dumps(glue.arrange(orders, REGION))
    except (KeyError, TypeError, ValueError) as problem:
        status, answer = "400 Bad Request", json.dumps({"error": f"{type(problem).__name__}: {problem}"})
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
    return [answer.encode()]


def _asked_for(environ: dict[str, Any]) -> str:
    """What a request asks a service for whose requests all have the same path."""
    if target := environ.get("HTTP_X_AMZ_TARGET"):
        return f"#{target}"
    if environ.get("CONTENT_TYPE", "").startswith("application/x-www-form-urlencoded"):
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        return f"#{body.decode()}"
    return ""


def _reset(environ: dict[str, Any], after: int) -> None:
    environ["wsgi.input"].read(min(after, int(environ.get("CONTENT_LENGTH") or 0)))
    connection = environ["werkzeug.socket"]
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.shutdown(socket.SHUT_RDWR)
    raise ConnectionResetError("the lab was told to reset")


def create_bucket(port: int, bucket: str) -> None:
    """Ask the server for the bucket over its own socket; a bucket that exists is fine."""
    place = f"<LocationConstraint>{REGION}</LocationConstraint>"
    body = f"<CreateBucketConfiguration>{place}</CreateBucketConfiguration>"
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/{bucket}",
        data=body.encode(),
        method="PUT",
        headers={
            "Authorization": f"AWS4-HMAC-SHA256 Credential=lab/20260101/{REGION}/s3/aws4_request",
            "Content-Type": "application/xml",
        },
    )
    direct.open(request, timeout=10).close()


def ready(port: int, bucket: str = BUCKET) -> bool:
    """Whether the server answers and the bucket exists."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{bucket}", method="HEAD")
    try:
        direct.open(request, timeout=2).close()
    except OSError:
        return False
    return True


def serve(port: int, bucket: str) -> None:
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    glue.install()
    rds = RdsApi(RedshiftApi(DomainDispatcherApplication(create_backend_app)))
    app = Faults(rds)
    server = make_server("127.0.0.1", port, app, threaded=True, request_handler=MotoRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    create_bucket(port, bucket)
    signal.sigwait({signal.SIGINT, signal.SIGTERM})
    rds.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="S3 of the lab")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--bucket", default=BUCKET)
    arguments = parser.parse_args()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    serve(arguments.port, arguments.bucket)
