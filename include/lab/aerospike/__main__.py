"""`python -m dbops_lab.aerospike`: prints `ready <ports> control <port>` when it listens; SIGTERM ends it."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import ssl

from dbops_lab.aerospike.cluster import Cluster
from dbops_lab.aerospike.control import Control
from dbops_lab.aerospike.server import Server

LOOPBACK = "127.0.0.1"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dbops_lab.aerospike", description=__doc__)
    parser.add_argument("--name", default="lab", help="of the cluster")
    parser.add_argument("--ports", default="0", help="one node per port, comma-separated; 0 takes a free one")
    parser.add_argument("--namespaces", default="bidder,dmp,spend")
    parser.add_argument("--control-port", type=int, default=0)
    parser.add_argument("--default-ttl", type=int, default=0, metavar="SECONDS")
    parser.add_argument("--start-delay", type=float, default=0.0, metavar="SECONDS", help="until a node is ready")
    parser.add_argument("--reform-seconds", type=float, default=0.0, help="until a changed cluster forms again")
    parser.add_argument("--migrate-seconds", type=float, default=0.0, help="how long partitions migrate after that")
    parser.add_argument("--user", action="append", default=[], metavar="NAME", help="password in LAB_PASSWORD_<NAME>")
    parser.add_argument("--tls-cert", metavar="FILE", help="all service ports then speak TLS")
    parser.add_argument("--tls-key", metavar="FILE")
    parser.add_argument("--tls-name", default="")
    parser.add_argument("--exit-with-parent", action="store_true")
    return parser.parse_args()


def _passwords(names: list[str]) -> dict[str, str]:
    users = {}
    for name in names:
        variable = f"LAB_PASSWORD_{name.upper()}"
        if variable not in os.environ:
            raise SystemExit(f"--user {name}: no password for it in the environment variable {variable}")
        users[name] = os.environ[variable]
    return users


async def _wait(stopped: asyncio.Event, parent: int, *, exit_with_parent: bool) -> None:
    while not stopped.is_set():
        if exit_with_parent and os.getppid() != parent:
            return
        try:
            await asyncio.wait_for(stopped.wait(), 0.5)
        except TimeoutError:
            continue


async def _main(arguments: argparse.Namespace) -> None:
    parent, stopped = os.getppid(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    tls = None
    if arguments.tls_cert:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(arguments.tls_cert, arguments.tls_key)
    cluster = Cluster(
        arguments.name,
        [name for name in arguments.namespaces.split(",") if name],
        [(LOOPBACK, int(port)) for port in arguments.ports.split(",")],
        default_ttl=arguments.default_ttl,
        start_delay=arguments.start_delay,
        reform_seconds=arguments.reform_seconds,
        migrate_seconds=arguments.migrate_seconds,
    )
    server = Server(cluster, users=_passwords(arguments.user), tls=tls, tls_name=arguments.tls_name)
    await server.open()
    control = Control(server)
    await control.open(LOOPBACK, arguments.control_port)
    ports = ",".join(str(node.port) for node in cluster.nodes)
    print(f"ready {ports} control {control.port}", flush=True)  # noqa: T201 - what the starter waits for
    await _wait(stopped, parent, exit_with_parent=arguments.exit_with_parent)
    control.close()
    await server.close()


if __name__ == "__main__":
    gc.set_threshold(200_000, 20, 100)  # millions of small records: full collections are slow and find nothing
    try:
        asyncio.run(_main(_arguments()))
    except OSError as problem:
        raise SystemExit(f"cannot start the Aerospike stand-in: {problem}") from None
