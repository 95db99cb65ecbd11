"""Secondary indexes and UDFs: their definitions, and the queries that name a range of an index.

There is no index behind: such a query looks at every record of its partitions.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from dbops_lab.aerospike import msgpack
from dbops_lab.aerospike.protocol import (
    F_INDEX_CONTEXT,
    F_INDEX_RANGE,
    F_INDEX_TYPE,
    GEOJSON,
    INDEX_NOT_FOUND,
    INTEGER,
    LIST,
    MAP,
    PARAMETER,
    STRING,
    UNSUPPORTED,
    Refused,
)
from dbops_lab.aerospike.records import Namespace, Record

VALUE_TYPES = {"numeric": INTEGER, "string": STRING, "blob": 4, "geo2dsphere": GEOJSON}
COLLECTIONS = ("default", "list", "mapkeys", "mapvalues")


@dataclass(frozen=True)
class Index:
    namespace: str
    name: str
    set_name: str
    bin_name: str
    value_type: str
    collection: str
    context: str  # base64 of msgpack, "" for none
    made_at: float = field(default_factory=time.monotonic, compare=False)

    @property
    def definition(self) -> tuple[str, ...]:
        return (self.set_name, self.bin_name, self.value_type, self.collection, self.context)

    def row(self, *, b64: bool) -> str:
        context = (self.context if b64 else _readable(self.context)) if self.context else "null"
        return (
            f"ns={self.namespace}:indexname={self.name}:set={self.set_name or 'null'}:bin={self.bin_name}"
            f":type={self.value_type}:indextype={self.collection}:context={context}:exp=null:state=RW"
        )


def context_is_sound(text: str) -> bool:
    """Base64 of a msgpack list of (kind, value) pairs."""
    try:
        return len(msgpack.split(base64.b64decode(text, validate=True))) % 2 == 0
    except (binascii.Error, ValueError, Refused):
        return False


def _readable(context: str) -> str:
    items = msgpack.split(base64.b64decode(context))
    kinds = {0: "index", 1: "rank", 2: "key", 3: "value"}
    steps = []
    for kind, value in zip(items[::2], items[1::2], strict=True):
        number = msgpack.integer(kind)
        owner = "map" if number & 0x20 else "list"
        element = msgpack.head(value, 0)
        shown = str(element.value) if element.kind == "int" else f"<string#{len(element.value) - 1}>"
        steps.append(f"{owner}_{kinds.get(number & 0x0F, 'value')}({shown})")
    return f"[{','.join(steps)}]"


@dataclass(frozen=True)
class Where:
    """The range that a query asks for."""

    index: Index
    low: int | bytes
    high: int | bytes

    def matches(self, record: Record) -> int | None:
        """What the index holds for a record in the range, else None."""
        if self.index.set_name and record.set_name != self.index.set_name.encode():
            return None
        content = record.bins().get(self.index.bin_name.encode())
        if content is None:
            return None
        for particle, value in _indexed(content, self.index.collection):
            if particle != VALUE_TYPES[self.index.value_type]:
                continue
            if particle == INTEGER:
                number = int.from_bytes(value, "big", signed=True)
                if self.low <= number <= self.high:  # type: ignore[operator]
                    return number
            elif value == self.low:
                return int.from_bytes(hashlib.blake2b(value, digest_size=8).digest(), "big", signed=True)
        return None


def _indexed(content: tuple[int, bytes], collection: str) -> Iterator[tuple[int, bytes]]:
    particle, value = content
    if collection == "default":
        yield content
    elif collection == "list" and particle == LIST:
        yield from (msgpack.as_particle(item) for item in msgpack.split_list(value)[1])
    elif collection != "list" and particle == MAP:
        which = 0 if collection == "mapkeys" else 1
        yield from (msgpack.as_particle(pair[which]) for pair in msgpack.split_map(value)[1])


class Indexes:
    def __init__(self) -> None:
        self._by_name: dict[tuple[str, str], Index] = {}

    def rows(self, namespace: str | None = None) -> list[Index]:
        return [index for index in self._by_name.values() if namespace in (None, index.namespace)]

    def get(self, namespace: str, name: str) -> Index | None:
        return self._by_name.get((namespace, name))

    def count(self, namespace: str, set_name: str) -> int:
        return sum(index.set_name == set_name for index in self.rows(namespace))

    def create(self, index: Index) -> bool:
        """False when the name is taken by another definition. The same one under a new name renames."""
        before = self.get(index.namespace, index.name)
        if before is not None:
            return before.definition == index.definition
        for other in self.rows(index.namespace):
            if other.definition == index.definition:
                del self._by_name[index.namespace, other.name]
        self._by_name[index.namespace, index.name] = index
        return True

    def remove(self, namespace: str, name: str) -> None:
        self._by_name.pop((namespace, name), None)

    def where(self, namespace: Namespace, fields: dict[int, bytes]) -> Where:
        """The range field: one range of bin name, particle type, and both ends with their sizes."""
        data = fields[F_INDEX_RANGE]
        collection = fields.get(F_INDEX_TYPE, b"\0")
        if len(data) < 2 or data[0] != 1 or len(collection) != 1 or collection[0] >= len(COLLECTIONS):
            raise Refused(PARAMETER)
        if F_INDEX_CONTEXT in fields:
            raise Refused(UNSUPPORTED)
        at = 2 + data[1]
        bin_name, particle = data[2:at].decode("latin-1"), data[at : at + 1]
        ends = []
        at += 1
        for _ in range(2):
            size = int.from_bytes(data[at : at + 4], "big")
            ends.append(data[at + 4 : at + 4 + size])
            at += 4 + size
        if at != len(data):
            raise Refused(PARAMETER)
        kinds = [name for name, number in VALUE_TYPES.items() if number == particle[0]]
        if not kinds or particle[0] == GEOJSON:
            raise Refused(UNSUPPORTED)
        for index in self.rows(namespace.name):
            if (index.bin_name, index.value_type, index.collection, index.context) == (
                bin_name, kinds[0], COLLECTIONS[collection[0]], "",
            ):  # fmt: skip
                if particle[0] == INTEGER:
                    low, high = (int.from_bytes(end, "big", signed=True) for end in ends)
                    return Where(index, low, high)
                return Where(index, ends[0], ends[1])
        raise Refused(INDEX_NOT_FOUND)


class Udfs:
    """Files of Lua, kept and given back, never run."""

    def __init__(self) -> None:
        self._content: dict[str, bytes] = {}

    def put(self, name: str, content: bytes) -> None:
        self._content[name] = content

    def get(self, name: str) -> bytes | None:
        return self._content.get(name)

    def remove(self, name: str) -> None:
        self._content.pop(name, None)

    def rows(self) -> str:
        return "".join(
            f"filename={name},hash={hashlib.sha1(content).hexdigest()},type=LUA;"
            for name, content in sorted(self._content.items())
        )
