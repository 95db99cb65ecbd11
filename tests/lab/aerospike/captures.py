"""Reads the captures of a real server in tests/golden/aerospike.

Frames in them are cut: messages at 2 KiB, info frames at 320 bytes. A cut *request* is completed from its
decoded field lines; only the partition array does not fit into those either, and it goes on upwards from
where it was cut, without the partitions of the digest array. A cut *answer* stays cut and says so.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from pathlib import Path

GOLDEN = Path(__file__).parents[2] / "golden" / "aerospike"
INFO, MESSAGE = 1, 3
PARTITIONS, DIGESTS = 11, 12

_FRAME = re.compile(r"^\[\d+\] .* conn=(c\d+)\S* ([CS])->[CS]  proto: version=2 type=(\d)\(\w+\) size=(\d+)$")
_HEX = re.compile(r"^  [0-9a-f]{6}  ((?:[0-9a-f]{2} ?)+) *\|")
_FIELD = re.compile(r"^    field type=(\d+)\(.*\) size=(\d+) data=([0-9a-f]*)(\.\.\.)?")


@dataclass
class Frame:
    connection: str
    from_client: bool
    kind: int
    size: int
    data: bytes = b""  # header included, as far as it was kept
    fields: list[tuple[int, int, bytes]] = field(default_factory=list)  # type, size, as far as shown

    @property
    def is_whole(self) -> bool:
        return len(self.data) == self.size + 8

    @property
    def body(self) -> bytes:
        return self.data[8:]

    def request(self) -> bytes:
        """The whole frame, completed where it was cut."""
        if self.is_whole:
            return self.data
        assert self.kind == MESSAGE
        digests = b"".join(data for kind, _, data in self.fields if kind == DIGESTS)
        elsewhere = {int.from_bytes(digests[at : at + 2], "little") & 0xFFF for at in range(0, len(digests), 20)}
        made = bytearray(self.data[: 8 + 22])
        for kind, size, shown in self.fields:
            content = shown
            if len(shown) != size - 1:
                assert kind == PARTITIONS, "only a partition array may be cut in the decoded lines"
                first = int.from_bytes(shown[:2], "little")
                wanted = (number for number in range(first, 4096) if number not in elsewhere)
                content = b"".join(struct.pack("<H", number) for number in wanted)[: size - 1]
                assert content.startswith(shown)
            made += struct.pack(">IB", size, kind) + content
        assert len(made) == self.size + 8
        assert made.startswith(self.data)
        return bytes(made)


def frames(name: str) -> list[Frame]:
    """All frames of one capture in order."""
    found: list[Frame] = []
    for line in (GOLDEN / "wire" / f"{name}.txt").read_text().splitlines():
        if head := _FRAME.match(line):
            found.append(Frame(head[1], head[2] == "C", int(head[3]), int(head[4])))
        elif row := _HEX.match(line):
            found[-1].data += bytes.fromhex(row[1])
        elif shown := _FIELD.match(line):
            found[-1].fields.append((int(shown[1]), int(shown[2]), bytes.fromhex(shown[3])))
    return found


@dataclass
class Exchange:
    request: Frame
    answers: list[Frame]


def exchanges(name: str) -> list[Exchange]:
    """Requests with what the server sent for them, per connection."""
    found: list[Exchange] = []
    latest: dict[str, Exchange] = {}
    for frame in frames(name):
        if frame.from_client:
            latest[frame.connection] = Exchange(frame, [])
            found.append(latest[frame.connection])
        else:
            latest[frame.connection].answers.append(frame)
    return found


@dataclass(frozen=True)
class Message:
    info1: int
    info2: int
    info3: int
    result: int
    has_generation: bool
    expires: bool
    row: int
    fields: tuple[tuple[int, bytes], ...]
    ops: tuple[tuple[int, int, bytes, bytes], ...]


def messages(body: bytes) -> list[Message]:
    found, at = [], 0
    while at < len(body):
        size, info1, info2, info3, _, result, generation, void_time, row, n_fields, n_ops = struct.unpack_from(
            ">BBBBBBIIIHH", body, at
        )
        assert size == 22
        at += 22
        fields, ops = [], []
        for _ in range(n_fields):
            length, kind = struct.unpack_from(">IB", body, at)
            fields.append((kind, body[at + 5 : at + 4 + length]))
            at += 4 + length
        for _ in range(n_ops):
            length, code, particle, _, name = struct.unpack_from(">IBBBB", body, at)
            value_at = at + 8 + name
            ops.append((code, particle, body[at + 8 : value_at], body[value_at : at + 4 + length]))
            at += 4 + length
        found.append(
            Message(info1, info2, info3, result, generation > 0, void_time > 0, row, tuple(fields), tuple(ops))
        )
    assert at == len(body)
    return found


def info_capture(path: Path) -> tuple[str, str]:
    """A command and its whole answer. The captures show every `;` as a line break."""
    first, rest = path.read_text().split("\n", 1)
    rest = rest.removesuffix("\n").replace("\n", ";")
    return first.removeprefix("# "), rest if rest.startswith("ERROR") else rest.partition("\t")[2]
