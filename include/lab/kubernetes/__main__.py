from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path

from dbops_lab.kubernetes import PASSWORD, TOKEN
from dbops_lab.kubernetes.api import Kubernetes

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=f"Kubernetes of the lab; secrets come in {TOKEN} and {PASSWORD}")
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--nameserver", required=True)
    parser.add_argument("--user", required=True)
    parser.add_argument("--database", required=True)
    arguments = parser.parse_args()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    api = Kubernetes(
        arguments.state, os.environ[TOKEN], nameserver=arguments.nameserver, user=arguments.user,
        password=os.environ[PASSWORD], database=arguments.database, port=arguments.port,
    )  # fmt: skip
    signal.sigwait({signal.SIGINT, signal.SIGTERM})
    api.close()
