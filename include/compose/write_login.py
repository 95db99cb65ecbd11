"""Give the user `admin` of Airflow's UI the password of .env, where Airflow's simple auth manager reads it."""

from __future__ import annotations

import json
import os
from pathlib import Path


def write_login(environ: os._Environ[str] | dict[str, str] = os.environ) -> None:
    path = Path(environ["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"])
    path.touch(mode=0o600)
    path.write_text(json.dumps({"admin": environ["AIRFLOW_UI_PASSWORD"]}))


if __name__ == "__main__":
    write_login()
