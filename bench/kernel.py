"""The kernel alone, on one core: records a second from the wire to `.asb` text, back, and checked.

    python bench/kernel.py [--records 200000] [--rounds 5] [--json]

The records are those of the platform's measurements: 254 bytes in 6 bins (int, string, double, 48 bytes, list,
map). Rounds alternate between all that is measured; the limit beside it is a plain copy of the same bytes. What a
process pays before its first record (import, compiled code from the disk) is measured in processes of their own.
All seconds are of the processor, so that other work on the machine matters less.
"""

from __future__ import annotations

import argparse
import random
import struct
import subprocess
import sys
import time
from collections.abc import Callable

import numba
import numpy as np
from dbops.aerospike import kernel
from numpy.typing import NDArray
from report import NOT_MEASURED, Report, machine

START = """
import time; began = time.process_time()
import numpy as np; from dbops.aerospike import kernel as k
imported = time.process_time()
b = lambda n: np.zeros(n, np.uint8)
k.encode(b(8), 0, 0, b(8), 0, np.zeros(k.STATE_SIZE, np.int64), np.zeros(4096, np.int64),
         np.zeros(4096, np.uint64), np.zeros((4096, 20), np.uint8), b(4096), b(4096))
print(imported - began, time.process_time() - imported, sum(k.encode.stats.cache_misses.values()))
"""


def answer(records: int) -> bytes:
    """The bytes that a server sends for so many records, in frames of about 100 KiB."""
    rng = random.Random(20261123)
    messages = []
    for number in range(records):
        fields = [(0, b"bidder"), (4, rng.randbytes(20)), (1, b"lineitems")]
        bins = [
            (1, b"id", struct.pack(">q", rng.randrange(1 << 40))),
            (3, b"name", b"line item %09d" % number),
            (2, b"bid", struct.pack(">d", rng.random() * 10)),
            (4, b"payload", rng.randbytes(48)),
            (20, b"geos", b"\x95\1\2\3\4\xa3\3us"),
            (19, b"caps", b"\x82\xa4\3day\5\xa5\3hour\2"),
        ]
        messages.append(
            struct.pack(">BBBBBBIIIHH", 22, 0, 0, 0, 0, 0, 3, 533080879, 0, len(fields), len(bins))
            + b"".join(struct.pack(">IB", len(data) + 1, kind) + data for kind, data in fields)
            + b"".join(
                struct.pack(">IBBBB", 4 + len(name) + len(value), 1, kind, 0, len(name)) + name + value
                for kind, name, value in bins
            )
        )
    frames = [b"".join(messages[at : at + 400]) for at in range(0, records, 400)]
    frames.append(struct.pack(">BBBBBBIIIHH", 22, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0))
    return b"".join(struct.pack(">Q", 2 << 56 | 3 << 48 | len(frame)) + frame for frame in frames)


def state() -> NDArray[np.int64]:
    return np.zeros(kernel.STATE_SIZE, np.int64)


def tally() -> tuple[NDArray[np.generic], ...]:
    marks = np.zeros(4096, np.uint8)
    return (
        *(np.zeros(4096, np.int64), np.zeros(4096, np.uint64)),
        *(np.zeros((4096, 20), np.uint8), marks, marks.copy()),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="records a second of the kernel, one core")
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    source = np.frombuffer(bytearray(answer(args.records)), np.uint8)
    out = np.zeros(args.records * 400 + 4096, np.uint8)
    _, size, status = kernel.encode(source, 0, len(source), out, 0, state(), *tally())
    if status != kernel.DONE:
        print(f"the kernel did not take its input: status {status}", file=sys.stderr)
        return NOT_MEASURED
    text = out[:size].copy()
    rows = np.zeros((args.records, 2), np.int64)
    namespace = np.zeros(0, np.uint8)

    measured: dict[str, Callable[[], object]] = {
        "encode (wire -> text)": lambda: kernel.encode(source, 0, len(source), out, 0, state(), *tally()),
        "digests (wire -> digests)": lambda: kernel.digests(source, 0, len(source), out, 0, state(), *tally()),
        "scan (text checked)": lambda: kernel.scan(text, 0, size, True, state(), *tally()[:2]),
        "decode (text -> batch rows)": lambda: kernel.decode(
            text, 0, size, True, out, 0, state(), namespace, 1, 16, 0, rows, *kernel.EVERYTHING
        ),
        "limit: the text copied": lambda: np.copyto(out[:size], text),
    }
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in measured}
    for call in measured.values():  # compiled, and all pages touched
        call()
    for _ in range(args.rounds):
        for name, call in measured.items():
            began = time.thread_time()
            call()
            seconds = time.thread_time() - began
            rate = args.records / seconds
            samples[name].append({"records/s": rate, "ns/record": 1e9 / rate, "text MB/s": size / seconds / 1e6})

    starts = []
    for _ in range(args.rounds):
        done = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, check=True)
        imported, loaded, compiled = map(float, done.stdout.split())
        starts.append({"import s": imported, "first call s": loaded, "compiled": compiled})

    report = Report(machine(numba=numba.__version__))
    report.figures["input"] = {
        "records": args.records,
        "wire bytes/record": len(source) / args.records,
        "text bytes/record": size / args.records,
    }
    for name, values in samples.items():
        report.add(name, values)
    report.add("start of a process, code on the disk", starts)
    figures = report.figures
    report.target("encode, records/s on one core", figures["encode (wire -> text)"]["records/s"], least=1.5e6)
    report.target("scan, records/s on one core", figures["scan (text checked)"]["records/s"], least=2e6)
    start = figures["start of a process, code on the disk"]
    report.target("import of the kernel, seconds", start["import s"], most=1.5)
    report.target("functions compiled by a second process", start["compiled"], most=0)
    return report.show(as_json=args.json)


if __name__ == "__main__":
    sys.exit(main())
