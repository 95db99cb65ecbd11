"""A program that plays a recorded conversation: a real executable that keeps what it was given."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

VERSIONS = {
    "asbackup": "Aerospike Backup\nVersion 4.5.8\n",
    "asrestore": "Aerospike Restore\nVersion 4.5.8\n",
    "absctl": "version: 1.1.0 (83b7265) 2026-07-27T13:10:39Z \n",
}

_SCRIPT = """#!{python} -IS
import json, os, signal, subprocess, sys, time

here = os.path.abspath(__file__)
with open(here + ".play") as file:
    play = json.load(file)
if sys.argv[1:] == ["--version"]:
    with open(here + ".asked", "a") as file:
        file.write("x")
    time.sleep(play["version_seconds"])
    sys.stdout.write(play["version"])
    sys.exit(play["version_code"])
seen = dict(argv=sys.argv[1:], env=dict(os.environ), pid=os.getpid(), children=[])
for argument in sys.argv:
    if argument.startswith("--only-config-file="):
        with open(argument.split("=", 1)[1]) as file:
            seen["config"] = file.read()
if play["grandchild"]:
    seen["children"].append(subprocess.Popen(["sleep", "600"]).pid)
if play["reads"] is not None:
    data = sys.stdin.buffer.read(play["reads"]) if play["reads"] >= 0 else sys.stdin.buffer.read()
    seen["stdin"] = data.decode("latin-1")
with open(here + ".tmp", "w") as file:
    json.dump(seen, file)
os.rename(here + ".tmp", here + ".seen")
sys.stdout.buffer.write(play["stdout"].encode("latin-1"))
sys.stdout.buffer.flush()
sys.stderr.write(play["stderr"] * play["times"])
sys.stderr.flush()
if play["hangs"]:
    time.sleep(600)
if play["signal"]:
    os.kill(os.getpid(), play["signal"])
os._exit(play["code"])
"""


class Fake:
    """An executable named like an official program; `play` says what it does, `seen` what it was given."""

    def __init__(self, directory: Path, name: str, **play: Any) -> None:
        self.path = directory / name
        self.name = name
        self.path.write_text(_SCRIPT.replace("{python}", sys.executable))
        self.path.chmod(0o755)
        self._play: dict[str, Any] = {
            "version": VERSIONS[name],
            "version_code": 0,
            "version_seconds": 0,
            "grandchild": False,
            "reads": -1 if name == "asrestore" else None,
            "stdout": "",
            "stderr": "",
            "times": 1,
            "hangs": False,
            "signal": 0,
            "code": 0,
        }
        self.play(**play)

    def play(self, **play: Any) -> None:
        """Change what it does; `stdout` is bytes."""
        if isinstance(text := play.get("stdout"), bytes):
            play["stdout"] = text.decode("latin-1")
        self._play |= play
        Path(f"{self.path}.play").write_text(json.dumps(self._play))

    @property
    def asked(self) -> int:
        """How often its version was asked for."""
        file = Path(f"{self.path}.asked")
        return len(file.read_text()) if file.exists() else 0

    @property
    def seen(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(Path(f"{self.path}.seen").read_text())
        return found
