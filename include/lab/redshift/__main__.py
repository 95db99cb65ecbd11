"""`python -m dbops_lab.redshift`: prints `ready <port> control <port>` when it listens; SIGTERM ends it."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading

import psycopg2
from dbops_lab.redshift.control import Control
from dbops_lab.redshift.process import ADMIN_VARIABLE
from dbops_lab.redshift.proxy import Proxy


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dbops_lab.redshift", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--control-port", type=int, default=0)
    parser.add_argument("--postgres-port", type=int, required=True)
    parser.add_argument("--database", required=True)
    parser.add_argument("--postgres-database", default="", help="what PostgreSQL calls it, if otherwise")
    parser.add_argument("--admin", required=True, help=f"PostgreSQL's administrator; password in {ADMIN_VARIABLE}")
    parser.add_argument("--s3-endpoint", default="", help="for COPY and UNLOAD; keys as boto3 finds them")
    parser.add_argument("--serverless", action="store_true")
    parser.add_argument("--exit-with-parent", action="store_true")
    return parser.parse_args()


def _wait(stopped: threading.Event, parent: int, *, exit_with_parent: bool) -> None:
    while not stopped.wait(0.5):
        if exit_with_parent and os.getppid() != parent:
            return


def main() -> None:
    arguments = _arguments()
    parent, stopped = os.getppid(), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda found, frame: stopped.set())
    proxy = Proxy(
        postgres_port=arguments.postgres_port,
        database=arguments.database,
        postgres_database=arguments.postgres_database,
        admin=(arguments.admin, os.environ[ADMIN_VARIABLE]),
        s3_endpoint=arguments.s3_endpoint,
        is_serverless=arguments.serverless,
    )
    port = proxy.listen(arguments.port)
    control = Control(proxy, arguments.control_port)
    sys.stdout.write(f"ready {port} control {control.port}\n")
    sys.stdout.flush()
    _wait(stopped, parent, exit_with_parent=arguments.exit_with_parent)
    control.close()
    proxy.close()


if __name__ == "__main__":
    try:
        main()
    except (OSError, KeyError, RuntimeError, psycopg2.Error) as problem:
        raise SystemExit(f"cannot start the Redshift stand-in: {problem}") from None
