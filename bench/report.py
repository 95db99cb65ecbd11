"""What every bench prints: machine, figures, targets; and its exit code."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

MET, MISSED, NOT_MEASURED = 0, 1, 2


def machine(**more: str) -> dict[str, Any]:
    """Processor, cores, memory, load and versions; `more` are the versions of the peers."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": model[1] if model else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        **more,
    }


@dataclass
class Report:
    """Figures in the order in which they were taken, and what they are held against."""

    machine: dict[str, Any]
    figures: dict[str, dict[str, float]] = field(default_factory=dict)
    targets: list[dict[str, Any]] = field(default_factory=list)
    not_measured: list[str] = field(default_factory=list)

    def add(self, name: str, samples: list[dict[str, float]]) -> None:
        """One line of the table: the median of each column over the rounds."""
        self.figures[name] = {key: median(sample[key] for sample in samples) for key in samples[0]}
        print(f"measured: {name}", file=sys.stderr)

    def target(self, name: str, value: float | None, *, least: float | None = None, most: float | None = None) -> None:
        """Hold a value against its limit; None when it could not be measured."""
        met = None if value is None else (least is None or value >= least) and (most is None or value <= most)
        limit = f">= {least:g}" if least is not None else f"<= {most:g}"
        shown = None if value is None else round(value, 3)
        self.targets.append({"name": name, "value": shown, "target": limit, "ok": met})

    def code(self) -> int:
        states = [target["ok"] for target in self.targets if target["ok"] is not None]
        return NOT_MEASURED if not states else MET if all(states) else MISSED

    def show(self, *, as_json: bool) -> int:
        """Print everything; return the exit code."""
        if as_json:
            what = {"machine": self.machine, "figures": self.figures, "targets": self.targets}
            print(json.dumps({**what, "not_measured": self.not_measured}, indent=1))
            return self.code()
        print(", ".join(f"{key} {value}" for key, value in self.machine.items()), end="\n\n")
        for name, values in self.figures.items():
            print(f"{name:46}" + "  ".join(f"{key} {_number(value):>9}" for key, value in values.items()))
        for name in self.not_measured:
            print(f"{name:46}not measured")
        print()
        for target in self.targets:
            state = {True: "met", False: "MISSED", None: "not measured"}[target["ok"]]
            value = "" if target["value"] is None else _number(target["value"])
            print(f"{target['name']:58}{value:>10}  {target['target']:10}{state}")
        return self.code()


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
