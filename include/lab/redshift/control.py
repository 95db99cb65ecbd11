"""The control port: JSON over loopback HTTP, for tests and for `dbops lab`.

POST /faults       a list of orders that replaces all before; each is fulfilled by statements whose text its
                   `match` (a regular expression, any case) finds:
    skip, times    the first `skip` matching statements are spared, the next `times` (1) are not
    error          the statement fails with this code and `message`; "1023" is the serialisable isolation violation
    delay          the statement takes so many seconds longer; it can be cancelled meanwhile
    slice          an UNLOAD fails when this slice (from 0) writes its file; those of the others stay
    drop           the connection ends: "before" the statement runs, "during" it (what it did is undone; a VACUUM has
                   started, an UNLOAD or COPY is half done), or "after" it was committed and before the client hears
POST /serverless   {"on": true}: STL_, SVL_ and STV_ views are empty from now on
POST /plant        {"kind": "query", "records": [{...}]}: records for the history, columns as in journal.sql
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from dbops_lab.redshift.journal import KINDS, now

if TYPE_CHECKING:
    from dbops_lab.redshift.proxy import Proxy

LOOPBACK = "127.0.0.1"


class Control:
    def __init__(self, proxy: Proxy, port: int) -> None:
        self._proxy = proxy
        control = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                try:
                    status, result = 200, control.answer(self.path, json.loads(body))
                except (KeyError, TypeError, ValueError) as problem:
                    status, result = 400, {"error": f"{type(problem).__name__}: {problem}"}
                text = json.dumps(result).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer((LOOPBACK, port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, body: Any) -> dict[str, Any]:
        """:raises ValueError: and others, when the request is not of the form above."""
        if path == "/faults":
            self._proxy.faults.order(body)
        elif path == "/serverless":
            self._proxy.is_serverless = bool(body["on"])
        elif path == "/plant":
            self._plant(body["kind"], body["records"])
        else:
            raise ValueError(f"{path} is not known here")
        return {}

    def _plant(self, kind: str, records: list[dict[str, Any]]) -> None:
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is no kind of record: {', '.join(KINDS)}")
        journal = self._proxy.journal
        for record in records:
            defaults: dict[str, Any] = {"query_id": journal.next_query_id(), "username": self._proxy.database}
            if kind == "query":
                defaults |= {"xid": journal.next_xid(), "database": self._proxy.database, "query_type": "SELECT",
                             "started": now(), "ended": now(), "rows": 0, "querytxt": ""}  # fmt: skip
            journal.add(kind, **(defaults | record))
        journal.flush()
