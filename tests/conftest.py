"""Fixtures for all tests: the lab's parts come from its own pytest plugin."""

import os
import signal
import tempfile
from pathlib import Path

# A CI that runs in the background hands SIGINT down as ignored; tests interrupt what they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Before anything imports Airflow, which reads its configuration once.
_home = tempfile.mkdtemp(prefix="airflow-of-tests-")
_project = Path(__file__).resolve().parents[1]
os.environ.update(
    AIRFLOW_HOME=_home,
    AIRFLOW__CORE__DAGS_FOLDER=str(_project / "dags"),
    AIRFLOW__CORE__PLUGINS_FOLDER=str(_project / "plugins"),
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{_home}/airflow.db",
    AIRFLOW__USAGE_DATA_COLLECTION__ENABLED="False",
)

pytest_plugins = ["dbops_lab.testing"]
