"""Answers of a server made in plain Python, what must become of them, and callers of the kernel."""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from dbops.aerospike import asb, kernel
from hypothesis import strategies as st

GOLDEN = Path(__file__).parents[2] / "golden" / "aerospike"
PARTICLES = {
    0: "N",
    1: "I",
    2: "D",
    3: "S",
    4: "B",
    7: "J",
    8: "C",
    9: "P",
    10: "R",
    11: "H",
    12: "E",
    17: "Z",
    18: "Y",
    19: "M",
    20: "L",
    23: "G",
}


@dataclass(frozen=True)
class WireRecord:
    """A record as the server sends it; `key` and each bin hold a particle type and the value's bytes."""

    digest: bytes
    namespace: bytes = b"bidder"
    set: bytes = b""
    key: tuple[int, bytes] | None = None
    generation: int = 1
    void_time: int = 0
    bins: tuple[tuple[bytes, int, bytes], ...] = ()

    def message(self) -> bytes:
        fields = [made_field(0, self.namespace), made_field(4, self.digest)]
        if self.set:
            fields.append(made_field(1, self.set))
        if self.key:
            fields.append(made_field(2, bytes([self.key[0]]) + self.key[1]))
        ops = [made_op(1, kind, name, value) for name, kind, value in self.bins]
        return made_message(fields, ops, generation=self.generation, void_time=self.void_time)

    def expected_text(self) -> bytes:
        """Through the reader's own objects, which know nothing of the kernel."""
        key = None
        if self.key:
            letter = PARTICLES[self.key[0]]
            key = asb.Key(letter, _python_value(letter, self.key[1]))
        return asb.Record(
            *(_name(self.namespace), self.digest, _name(self.set), key, self.generation, self.void_time),
            tuple(
                asb.Bin(_name(name), PARTICLES[kind], _python_value(PARTICLES[kind], value))
                for name, kind, value in self.bins
            ),
        ).text(compact=True)

    def expected_row(self, number: int, info2: int, info3: int, now: int = 0) -> bytes:
        """The row of a batch write; the cells of GeoJSON are the server's and not in it."""
        ttl = self.void_time - now if self.void_time else 0xFFFFFFFF
        fields = [made_field(0, self.namespace)]
        if self.set:
            fields.append(made_field(1, self.set))
        if self.key:
            fields.append(made_field(2, bytes([self.key[0]]) + self.key[1]))
        ops = [
            made_op(2, kind, name, b"\0\0\0" + _geo_text(value) if kind == 23 else value)
            for name, kind, value in self.bins
        ]
        row = struct.pack(">I20sBBBBHI", number, self.digest, 14, 0, info2, info3, self.generation, ttl)
        return row + struct.pack(">HH", len(fields), len(ops)) + b"".join(fields + ops)


def _name(raw: bytes) -> str:
    return raw.decode(errors="surrogateescape")


def _geo_text(value: bytes) -> bytes:
    return value[3 + 8 * int.from_bytes(value[1:3], "big") :]


def _python_value(letter: str, value: bytes) -> bool | int | float | bytes | None:
    if letter == "N":
        return None
    if letter == "I":
        return int.from_bytes(value, "big", signed=True)
    if letter == "D":
        return float(struct.unpack(">d", value)[0])
    if letter == "Z":
        return value == b"\1"
    return _geo_text(value) if letter == "G" else value


def made_field(kind: int, data: bytes) -> bytes:
    return struct.pack(">IB", len(data) + 1, kind) + data


def made_op(op: int, kind: int, name: bytes, value: bytes, flags: int = 0) -> bytes:
    return struct.pack(">IBBBB", 4 + len(name) + len(value), op, kind, flags, len(name)) + name + value


def made_message(
    fields: Sequence[bytes] = (),
    ops: Sequence[bytes] = (),
    info3: int = 0,
    result: int = 0,
    generation: int = 0,
    void_time: int = 0,
) -> bytes:
    head = struct.pack(">BBBBBB", 22, 0, 0, info3, 0, result)
    counts = struct.pack(">IIIHH", generation, void_time, 0, len(fields), len(ops))
    return head + counts + b"".join((*fields, *ops))


def made_frame(*messages: bytes) -> bytes:
    body = b"".join(messages)
    return struct.pack(">Q", 2 << 56 | 3 << 48 | len(body)) + body


LAST = made_message(info3=1)


def answer(records: Iterable[WireRecord], per_frame: int = 3) -> bytes:
    messages = [record.message() for record in records]
    frames = [made_frame(*messages[i : i + per_frame]) for i in range(0, len(messages), per_frame)]
    return b"".join([*frames, made_frame(LAST)])


# ---------------------------------------------------------------- strategies

_names = st.one_of(
    st.binary(min_size=1, max_size=15),
    st.text("ab \n\\", min_size=1, max_size=15).map(str.encode),
    st.sampled_from([b"n", b"eightchr", b"ninechars", b"fifteen-charact", b"\\", b" ", b"\n"]),
)
_bytes = st.one_of(
    st.binary(max_size=40),
    st.integers(0, 140).map(lambda size: bytes(range(size))),
    st.sampled_from([b"", b"\n+ n test\n", b"\n- I a 1\n", bytes(1000)]),
)
_ints = st.integers(-(1 << 63), (1 << 63) - 1).map(lambda v: v.to_bytes(8, "big", signed=True))
doubles = st.one_of(
    st.floats(),
    st.floats(0, 1e9).map(lambda v: round(v, 2)),
    st.integers(-(1 << 60), 1 << 60).map(float),
    st.sampled_from([0.0, -0.0, 5e-324, -5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 1e22, 1e23]),
)
_doubles = doubles.map(lambda v: struct.pack(">d", float("nan") if v != v else v))
_geo = st.tuples(st.integers(0, 3), _bytes).map(
    lambda t: bytes([0]) + struct.pack(">H", t[0]) + b"cellcell" * t[0] + t[1]
)
_values: dict[int, st.SearchStrategy[bytes]] = dict.fromkeys(PARTICLES, _bytes) | {
    0: st.just(b""),
    1: _ints,
    2: _doubles,
    17: st.sampled_from([b"\0", b"\1"]),
    23: _geo,
}
_bins = st.sampled_from(sorted(PARTICLES)).flatmap(lambda kind: st.tuples(_names, st.just(kind), _values[kind]))
_keys = st.sampled_from([1, 2, 3, 4]).flatmap(lambda kind: st.tuples(st.just(kind), _values[kind]))
wire_records = st.builds(
    WireRecord,
    digest=st.binary(min_size=20, max_size=20),
    namespace=st.one_of(st.just(b"bidder"), _names),
    set=st.one_of(st.just(b""), _names),
    key=st.one_of(st.none(), _keys),
    generation=st.integers(0, 65535),
    void_time=st.integers(0, 0xFFFFFFFF),
    bins=st.lists(_bins, max_size=6).map(tuple),
)


# ---------------------------------------------------------------- callers

GUARD = 64


class Guarded:
    """A byte array with a fence on both sides, which must stand afterwards."""

    def __init__(self, content: bytes | int) -> None:
        size = content if isinstance(content, int) else len(content)
        self._all = np.full(size + 2 * GUARD, 0xAA, np.uint8)
        self.array = self._all[GUARD : GUARD + size]
        if isinstance(content, bytes):
            self.array[:] = np.frombuffer(content, np.uint8)

    def check(self) -> None:
        assert (self._all[:GUARD] == 0xAA).all()
        assert (self._all[len(self._all) - GUARD :] == 0xAA).all()


@dataclass
class Run:
    """What a caller holds while it reads one answer."""

    state: np.ndarray = field(default_factory=lambda: np.zeros(kernel.STATE_SIZE, np.int64))
    counts: np.ndarray = field(default_factory=lambda: np.zeros(4096, np.int64))
    fingerprints: np.ndarray = field(default_factory=lambda: np.zeros(4096, np.uint64))
    last: np.ndarray = field(default_factory=lambda: np.zeros((4096, 20), np.uint8))
    seen: np.ndarray = field(default_factory=lambda: np.zeros(4096, np.uint8))
    unavailable: np.ndarray = field(default_factory=lambda: np.zeros(4096, np.uint8))
    status: int = kernel.NEED_MORE
    output: bytes = b""

    def read(
        self, stream: bytes, chunks: Sequence[int] = (), room: int = 1 << 16, call: Callable = kernel.encode
    ) -> Run:
        """As the engine does: feed piece by piece, drain `out` when it is full, make it larger when it must be."""
        sizes = iter(chunks)
        fed = have = next(sizes, len(stream))
        pos = 0
        out = Guarded(room)
        while True:
            src = Guarded(stream[pos:have])
            used = 0
            while True:
                src_pos, used, self.status = call(
                    *(src.array, 0, len(src.array), out.array, used, self.state, self.counts),
                    *(self.fingerprints, self.last, self.seen, self.unavailable),
                )
                out.check()
                src.check()
                pos += int(src_pos)
                src = Guarded(stream[pos:have])
                if self.status != kernel.OUT_FULL:
                    break
                if not used:
                    assert self.state[kernel.ROOM_NEEDED] > len(out.array)
                    out = Guarded(int(self.state[kernel.ROOM_NEEDED]))
                self.output += out.array[:used].tobytes()
                used = 0
            self.output += out.array[:used].tobytes()
            if self.status != kernel.NEED_MORE or have == len(stream):
                return self
            assert self.state[kernel.SOURCE_NEEDED] > 0
            fed = next(sizes, len(stream))
            have = min(have + fed, len(stream))


@dataclass
class Scan:
    """What a caller holds while it checks the text of one file."""

    state: np.ndarray = field(default_factory=lambda: np.zeros(kernel.STATE_SIZE, np.int64))
    counts: np.ndarray = field(default_factory=lambda: np.zeros(4096, np.int64))
    fingerprints: np.ndarray = field(default_factory=lambda: np.zeros(4096, np.uint64))
    status: int = kernel.NEED_MORE
    pos: int = 0

    def read(self, text: bytes, chunks: Sequence[int] = (), cut: bool = False) -> Scan:
        """`cut`: the text goes on behind what is there."""
        have = 0
        for size in [*chunks, len(text)]:
            have = min(have + size, len(text))
            part = Guarded(text[self.pos : have])
            final = have == len(text) and not cut
            pos, self.status = kernel.scan(
                part.array, 0, len(part.array), final, self.state, self.counts, self.fingerprints
            )
            if self.status == kernel.BROKEN:
                self.state[kernel.OFFSET] += self.pos
                self.pos += int(pos)
                return self
            self.pos += int(pos)
        return self


def rows(
    text: bytes, *, room: int = 1 << 20, limit: int = 10_000, namespace: bytes = b"", now: int = 0, legacy: bool = False
) -> tuple[list[bytes], list[int], int, np.ndarray]:
    """Decode the whole text: rows, void times, last status, state. Starts a new batch whenever one is full."""
    state = np.zeros(kernel.STATE_SIZE, np.int64)
    state[kernel.LEGACY] = legacy
    found: list[bytes] = []
    voids: list[int] = []
    src = Guarded(text)
    out = Guarded(room)
    table = np.zeros((limit, 2), np.int64)
    target = Guarded(namespace)
    pos = 0
    while True:
        pos, w, status = kernel.decode(
            *(src.array, pos, len(src.array), True, out.array, 0, state, target.array, 0x01, 0x10, now, table),
            *kernel.EVERYTHING,
        )
        out.check()
        count = int(state[kernel.ROWS])
        starts = [*table[:count, 0].tolist(), int(w)]
        found += [out.array[a:b].tobytes() for a, b in itertools.pairwise(starts)]
        voids += table[:count, 1].tolist()
        if status != kernel.OUT_FULL:
            return found, voids, status, state
        if not count:
            assert state[kernel.ROOM_NEEDED] > len(out.array)
            out = Guarded(int(state[kernel.ROOM_NEEDED]))
        state[kernel.ROWS] = 0


# ---------------------------------------------------------------- captures of a real server


def captured_answers() -> list[tuple[str, bytes, bool]]:
    """(capture and frame number, bytes of a MESSAGE frame from the server, whether it was kept whole)."""
    found = []
    for path in sorted((GOLDEN / "wire").glob("*.txt")):
        name, size, data = "", 0, b""
        for line in [*path.read_text().splitlines(), ""]:
            if row := re.match(r"  [0-9a-f]{6}  ((?:[0-9a-f]{2} )+)", line):
                data += bytes.fromhex(row[1])
            elif head := re.match(r"\[(\d+)\] .* S->C  proto: version=2 type=3\(MESSAGE\) size=(\d+)", line):
                name, size, data = f"{path.stem}[{head[1]}]", int(head[2]) + 8, b""
            elif name and data:
                found.append((name, data, len(data) == size))
                name = ""
            elif re.match(r"\[|==|--", line):
                name = ""
    return found
