"""Processes of one lab: started into a state folder, known by pid and start time, ended with no other.

Each process leads its own session and works below the state folder. It is recorded as `run/<name>.json` with
its start time, so a pid that the system has given to somebody else meanwhile is never signalled.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from dbops.errors import DbopsError, FinalError

PORTS = range(20_000, 32_000)  # below the ports that systems lend to outgoing connections (32768 and up)
START_SECONDS = 30.0
STOP_SECONDS = 15.0
_PR_SET_PDEATHSIG = 1
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Opens loopback addresses without the proxy that the environment may name."""

_libc = ctypes.CDLL(None, use_errno=True)


class StartFailed(FinalError):
    """A part of the lab ended or did not answer when it was started; the message holds the end of its log."""


@dataclass(frozen=True)
class Part:
    """One process of the lab.

    :param ready: called until it returns true; it must not block for longer than a moment.
    :param stop_signal: asks the process to end (PostgreSQL's SIGINT = disconnect all and stop).
    """

    name: str
    command: Sequence[str]
    ready: Callable[[], bool]
    env: Mapping[str, str] | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    log: str | None = None


class Supervisor:
    """Starts, finds and ends the processes of one state folder.

    :param guarded: the processes end when the thread that started them ends, even by SIGKILL (for tests);
        otherwise they live on until `stop` (for `dbops lab up`).
    """

    def __init__(self, state: Path, *, guarded: bool = False) -> None:
        self.state = state
        self._guarded = guarded
        self._run = state / "run"
        self._logs = state / "logs"
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        for folder in (state, self._run, self._logs):
            folder.mkdir(parents=True, exist_ok=True, mode=0o711)

    def start(self, part: Part) -> None:
        """Start a part without waiting for it; a part that runs already is left alone."""
        if self.alive(part.name):
            return
        self._end(part.name)
        with uninterrupted(), self.log_path(part).open("ab") as log:
            parent = os.getpid()
            child = subprocess.Popen(
                part.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.state,
                env={**os.environ, **(part.env or {})},
                start_new_session=True,
                preexec_fn=(lambda: _end_with(parent, part.stop_signal)) if self._guarded else None,
            )
            self._children[part.name] = child
            record = {"pid": child.pid, "created": _created(child.pid), "stop_signal": int(part.stop_signal)}
            write_private(self._run / f"{part.name}.json", json.dumps(record))

    def wait(
        self,
        parts: Iterable[Part],
        *,
        seconds: float = START_SECONDS,
        tick: Callable[[str], None] | None = None,
    ) -> None:
        """Wait until all are ready; `tick` gets the name of each that became so.

        :raises StartFailed: one ended or was not ready in time.
        """
        waiting, deadline, pause = list(parts), time.monotonic() + seconds, 0.02
        while waiting:
            for part in list(waiting):
                if part.ready():
                    waiting.remove(part)
                    if tick:
                        tick(part.name)
                elif not self.alive(part.name):
                    raise StartFailed(f"lab {self.state}: {part.name} ended while starting: {self._tail(part)}")
            if waiting and time.monotonic() > deadline:
                names = ", ".join(part.name for part in waiting)
                raise StartFailed(
                    f"lab {self.state}: {names} did not answer in {seconds:.0f} s: {self._tail(waiting[0])}"
                )
            if waiting:
                time.sleep(pause)
                pause = min(pause * 1.5, 0.25)

    def alive(self, name: str) -> bool:
        return self._leader(name) is not None

    def names(self) -> list[str]:
        """Parts that were started and not stopped, dead ones included."""
        return sorted(path.stem for path in self._run.glob("*.json"))

    def pid(self, name: str) -> int | None:
        leader = self._leader(name)
        return leader.pid if leader else None

    def memory(self, name: str) -> int:
        """Bytes that a part takes with all its descendants; pages that they share count once (on Linux)."""
        total = 0
        with contextlib.suppress(psutil.Error):
            leader = self._leader(name)
            for process in [leader, *leader.children(recursive=True)] if leader else []:
                with contextlib.suppress(psutil.Error):
                    full = process.memory_full_info()
                    total += getattr(full, "pss", 0) or full.rss
        return total

    def stop(self, names: Iterable[str] | None = None) -> list[str]:
        """End the named parts (default: all) and their descendants; returns those that were still alive."""
        names = self.names() if names is None else list(names)
        alive = [name for name in names if self.alive(name)]
        with uninterrupted():
            for name in alive:
                self._signal(name)
            deadline = time.monotonic() + STOP_SECONDS
            while any(self.alive(name) for name in alive) and time.monotonic() < deadline:
                time.sleep(0.02)
            for name in names:
                self._end(name)
        return alive

    def log_path(self, part: Part) -> Path:
        path = self._logs / (part.log or f"{part.name}.log")
        path.touch(mode=0o600)
        return path

    def _leader(self, name: str) -> psutil.Process | None:
        child = self._children.get(name)
        if child is not None and child.poll() is not None:
            return None
        record = self._record(name)
        if record is None:
            return None
        try:
            process = psutil.Process(record["pid"])
            same = abs(process.create_time() - record["created"]) < 0.05
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None

    def _record(self, name: str) -> dict[str, int] | None:
        try:
            return json.loads((self._run / f"{name}.json").read_text())
        except (OSError, ValueError):
            return None

    def _signal(self, name: str) -> None:
        record, leader = self._record(name), self._leader(name)
        if record and leader:
            with contextlib.suppress(psutil.Error):
                leader.send_signal(record["stop_signal"])

    def _members(self, name: str) -> Iterator[psutil.Process]:
        """The part and what it started: its session, as far as it works in the state folder."""
        record = self._record(name)
        if record is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            if abs(psutil.Process(record["pid"]).create_time() - record["created"]) >= 0.05:
                return  # the pid belongs to somebody else now, so the session is gone
        for pid in psutil.pids():
            with contextlib.suppress(OSError, psutil.Error):
                if os.getsid(pid) == record["pid"]:
                    process = psutil.Process(pid)
                    if Path(process.cwd()).is_relative_to(self.state.resolve()) or pid == record["pid"]:
                        yield process

    def _end(self, name: str) -> None:
        """Kill what is left of a part, descendants included, and forget it."""
        members = list(self._members(name))
        for process in members:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(members, timeout=5)
        child = self._children.pop(name, None)
        if child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=5)
        (self._run / f"{name}.json").unlink(missing_ok=True)

    def _tail(self, part: Part) -> str:
        lines = self.log_path(part).read_text(errors="replace").strip().splitlines()
        return " | ".join(lines[-8:]) or "its log is empty"


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP wait until the block is done (in the main thread; others get none)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda found, frame: arrived.append(found)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in dict.fromkeys(arrived):
            signal.raise_signal(number)


def _created(pid: int) -> float:
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return 0.0


def _end_with(parent: int, number: int) -> None:
    """In a new child, before it becomes the program: die when the starting thread dies (Linux only)."""
    _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


_claimed: list[socket.socket] = []


def free_port() -> int:
    """A loopback TCP port that nobody listens on, no outgoing connection can take, and no other lab is given.

    Between the choice and the server that listens there lie seconds, in which another lab could choose the same. So
    each choice is claimed until this process ends, by an abstract socket that carries the port in its name.
    """
    for port in random.SystemRandom().sample(PORTS, 200):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0dbops-lab-port-{port}")
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
            continue
        _claimed.append(claim)
        return port
    raise DbopsError("lab: 200 ports between 20000 and 32000 were tried and all are taken: end other labs")


def listens(port: int) -> bool:
    """Whether something accepts connections on this loopback port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    draft.replace(path)
