"""The `.asb` backup format: what stands before the records, and a strict reader of whole files.

Versions 3.0 to 3.2 are read, 3.1 is written. Names are escaped, values are preceded by their length and never
escaped, so nothing here looks for line ends inside a value. Bulk records go through `kernel`, which is as
strict; this module is for headers, indexes and UDFs, and for looking into a file record by record.

Names are `str` with surrogateescape, so any bytes survive.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NoReturn, cast

import zstandard

from dbops.errors import FinalError

VERSIONS = ("3.0", "3.1", "3.2")
BLOBS = "BJCPRHEYML"  # bin types whose value is bytes, in base64 or, with "!", as they are
MAX_NAME = 999  # the official readers keep a name in 1000 bytes, NUL included
MAX_VALUE = 128 << 20

_INDEX_TYPES = {"default": "N", "none": "N", "list": "L", "mapkeys": "K", "mapvalues": "V"}
_DATA_TYPES = {"numeric": "N", "string": "S", "geo2dsphere": "G", "blob": "B"}
_DOUBLE = re.compile(rb"[+-]?(?:(?:(?i:nan|inf|infinity))|(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)")
_ZSTD = b"\x28\xb5\x2f\xfd"
_BLOCK = 8192  # small, since a block of zstd may unpack to 30,000 times its size


class AsbError(FinalError):
    """Text that is not `.asb`, or something that `.asb` cannot hold.

    `line` and `offset` say where in the uncompressed text, counted from 1 and 0; None when nothing was read.
    """

    def __init__(self, message: str, line: int | None = None, offset: int | None = None) -> None:
        super().__init__(message)
        self.line = line
        self.offset = offset


def escape(name: str) -> bytes:
    """A name as it stands in a line: a backslash before each space, line feed and backslash."""
    return re.sub(rb"([ \n\\])", rb"\\\1", name.encode(errors="surrogateescape"))


@dataclass(frozen=True)
class Header:
    """The first lines of a file. `first_file` marks the one file of a set that holds the indexes and UDFs."""

    version: str
    namespace: str
    first_file: bool

    def text(self) -> bytes:
        lines = b"Version " + self.version.encode() + b"\n# namespace " + escape(self.namespace) + b"\n"
        return lines + b"# first-file\n" if self.first_file else lines


@dataclass(frozen=True)
class Index:
    """A secondary index: kind N (bin), L, K, V (list elements, map keys, map values); data N, S, G or B.

    `context` and `expression` are base64 as the server gives them.
    """

    namespace: str
    set: str
    name: str
    kind: str
    bin: str
    data: str
    context: str | None = None
    expression: str | None = None

    def text(self) -> bytes:
        columns = [
            b"* i" if self.expression is None else b"* e",
            *(escape(self.namespace), escape(self.set), escape(self.name), self.kind.encode(), b"1"),
            *(escape(self.bin), self.data.encode()),
            *(encoded.encode() for encoded in (self.context, self.expression) if encoded is not None),
        ]
        return b" ".join(columns) + b"\n"


@dataclass(frozen=True)
class Udf:
    """A file of Lua functions."""

    name: str
    content: bytes

    def text(self) -> bytes:
        return b"* u L " + escape(self.name) + b" %d " % len(self.content) + self.content + b"\n"


@dataclass(frozen=True)
class Key:
    """The user key, kept only for records that were written with it: type I, D, S or B."""

    type: str
    value: int | float | bytes


@dataclass(frozen=True)
class Bin:
    """One bin: type N (nil), Z (bool), I, D, S, G (GeoJSON) or one of BLOBS. Texts are bytes."""

    name: str
    type: str
    value: bool | int | float | bytes | None


@dataclass(frozen=True)
class Record:
    """One record. `void_time` is in seconds since 2010-01-01 UTC, 0 = never expires."""

    namespace: str
    digest: bytes
    set: str
    key: Key | None
    generation: int
    void_time: int
    bins: tuple[Bin, ...]

    def text(self, compact: bool = True) -> bytes:
        """The record's lines as asbackup writes them, `compact` = with its --compact."""
        parts = []
        if self.key is not None:
            parts += [b"+ k ", _value(self.key.type, self.key.value, b"", compact)]
        parts += [b"+ n ", escape(self.namespace), b"\n+ d ", base64.b64encode(self.digest), b"\n"]
        if self.set:
            parts += [b"+ s ", escape(self.set), b"\n"]
        parts.append(b"+ g %d\n+ t %d\n+ b %d\n" % (self.generation, self.void_time, len(self.bins)))
        for item in self.bins:
            parts += [b"- ", _value(item.type, item.value, escape(item.name), compact)]
        return b"".join(parts)


def _value(kind: str, value: bool | int | float | bytes | None, name: bytes, compact: bool) -> bytes:
    """From the type letter to the line feed."""
    letter = kind.encode()
    name = b" " + name if name else b""
    if kind == "N":
        return letter + name + b"\n"
    if kind == "Z":
        return letter + name + (b" T\n" if value else b" F\n")
    if kind == "I":
        return letter + name + b" %d\n" % cast(int, value)
    if kind == "D":
        return letter + name + b" %.17g\n" % cast(float, value)
    data = cast(bytes, value)
    if kind in BLOBS:
        letter, data = (letter + b"!", data) if compact else (letter, base64.b64encode(data))
    return letter + name + b" %d " % len(data) + data + b"\n"


# ---------------------------------------------------------------- what the server says -> lines


def header(namespace: str, *, first_file: bool = False, version: str = "3.1") -> bytes:
    """The first lines of a file, see `Header`."""
    return Header(version, namespace, first_file).text()


def version_for(sindex_list: str) -> str:
    """3.2 when an index is on an expression, which 3.1 cannot hold (and asrestore cannot read), else 3.1."""
    return "3.2" if any(_given(index, "exp") for index in _listed(sindex_list)) else "3.1"


def index_lines(sindex_list: str, version: str = "3.1") -> Iterator[tuple[bytes, str]]:
    """Lines of the indexes in the answer to `sindex-list:namespace=<ns>;b64=true`, each with its name.

    :raises AsbError: the answer is an error, or an index is of a kind that the version cannot hold.
    """
    for said in _listed(sindex_list):
        name = said.get("indexname", "?")
        context, expression = _given(said, "context"), _given(said, "exp")
        if expression is not None and version != "3.2":
            raise AsbError(f"index {name}: is on an expression, which .asb {version} cannot hold; write 3.2")
        for encoded in (context, expression):
            if encoded is not None and not re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", encoded):
                raise AsbError(f"index {name}: {encoded!r} is not base64; ask for sindex-list with b64=true")
        try:
            kind, data = _INDEX_TYPES[said["indextype"].lower()], _DATA_TYPES[said["type"].lower()]
            bin_name = said["bin"] if expression is None else _given(said, "bin") or ""
            index = Index(*(said["ns"], _given(said, "set") or "", name, kind, bin_name, data, context, expression))
        except KeyError as problem:
            raise AsbError(f"index {name}: {problem} of {said} is not known to the .asb format") from None
        yield index.text(), name


def _given(said: dict[str, str], key: str) -> str | None:
    """A value of a listing, where "null" (older servers: "NULL") means that there is none."""
    value = said.get(key, "null")
    return None if value.lower() == "null" else value


def _listed(sindex_list: str) -> Iterator[dict[str, str]]:
    if sindex_list.startswith(("ERROR", "FAIL")):
        raise AsbError(f"the list of secondary indexes is an error: {sindex_list}")
    for entry in re.split(r"[;\n]", sindex_list):
        if entry.strip():
            yield dict(re.findall(r"(\w+)=([^:]*)(?::|$)", entry))


def udf_names(udf_list: str) -> list[str]:
    """File names in the answer to `udf-list`."""
    if udf_list.startswith(("ERROR", "FAIL")):
        raise AsbError(f"the list of UDFs is an error: {udf_list}")
    return re.findall(r"filename=([^,;]*)", udf_list)


def udf_line(name: str, udf_get: str) -> bytes:
    """The line of one UDF file, from the answer to `udf-get:filename=<name>`.

    :raises AsbError: the answer is an error, or the file is of a language other than Lua.
    """
    answer = dict(re.findall(r"(\w+)=([^;]*)(?:;|$)", udf_get))
    if "content" not in answer:
        raise AsbError(f"UDF {name}: the server answered {udf_get[:200]!r}")
    if answer.get("type", "LUA").upper() != "LUA":
        raise AsbError(f"UDF {name}: its language {answer['type']} is not known to the .asb format, only LUA is")
    try:
        return Udf(name, base64.b64decode(answer["content"], validate=True)).text()
    except binascii.Error as problem:
        raise AsbError(f"UDF {name}: its content is not base64: {problem}") from None


_COLLECTIONS = {"N": "", "L": "indextype=list;", "K": "indextype=mapkeys;", "V": "indextype=mapvalues;"}
_VALUE_TYPES = {"N": "numeric", "S": "string", "G": "geo2dsphere", "B": "blob"}


def index_command(index: Index, namespace: str) -> str:
    """The info command that makes a secondary index in `namespace`."""
    path = f"exp={index.expression};" if index.expression is not None else f"bin={index.bin};"
    context = f"context={index.context};" if index.context is not None else ""
    where = f"namespace={namespace};" + (f"set={index.set};" if index.set else "")
    kind = _COLLECTIONS[index.kind]
    return f"sindex-create:{where}indexname={index.name};{kind}{context}{path}type={_VALUE_TYPES[index.data]}"


def udf_command(udf: Udf) -> str:
    """The info command that registers a file of UDFs."""
    content = base64.b64encode(udf.content).decode()
    return f"udf-put:filename={udf.name};content={content};content-len={len(content)};udf-type=LUA;"


# ---------------------------------------------------------------- reading


def open_asb(stream: BinaryIO) -> BinaryIO:
    """The text of a backup file that may be compressed with zstd (one or more frames): its first bytes tell.

    Reading raises AsbError where the compressed data is damaged or ends too early.
    """
    buffered = io.BufferedReader(cast(io.RawIOBase, stream), _BLOCK)
    if buffered.peek(4)[:4] != _ZSTD:
        return cast(BinaryIO, buffered)
    return cast(BinaryIO, io.BufferedReader(_Unpacked(cast(BinaryIO, buffered)), 1 << 16))


class _Unpacked(io.RawIOBase):
    """zstd frames as one stream that, unlike the library's, does not take a cut frame for a whole one."""

    def __init__(self, packed: BinaryIO) -> None:
        self._packed = packed
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._text = b""
        self._taken = 0
        self._inside = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast(bytearray, buffer))
        while not self._text:
            block = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame, self._inside = zstandard.ZstdDecompressor().decompressobj(), False
            at = self._taken - len(block)
            if not block:
                block = self._packed.read(_BLOCK)
                self._taken += len(block)
            if not block:
                if self._inside:
                    raise AsbError(f"compressed data ends at byte {at}, inside a zstd frame: it is cut off")
                return 0
            self._inside = True
            try:
                self._text = self._frame.decompress(block)
            except zstandard.ZstdError as problem:
                raise AsbError(f"compressed data is damaged near byte {at}: {problem}") from None
        size = min(len(view), len(self._text))
        view[:size] = self._text[:size]
        self._text = self._text[size:]
        return size


@dataclass(frozen=True)
class Preamble:
    """All that stands before the records. `rest`, already taken from the stream, begins with a record."""

    header: Header
    indexes: tuple[Index, ...]
    udfs: tuple[Udf, ...]
    size: int
    rest: bytes


def read_header(stream: BinaryIO, namespace: str | None = None) -> Preamble:
    """Read up to the first record, for `kernel.scan` and `kernel.decode` to go on behind it.

    :param namespace: refuse a file of another one.
    :raises AsbError: names line and offset.
    """
    reader = _Reader(stream)
    head = reader.header(namespace)
    found = list(reader.globals(head))
    indexes = tuple(item for item in found if isinstance(item, Index))
    udfs = tuple(item for item in found if isinstance(item, Udf))
    return Preamble(head, indexes, udfs, reader.offset, reader.rest())


def read(stream: BinaryIO, namespace: str | None = None) -> tuple[Header, Iterator[Index | Udf | Record]]:
    """Read a whole file (uncompressed: see `open_asb`): its header, then everything behind it, in order.

    :param namespace: refuse a file of another one.
    :raises AsbError: names line and offset; also while iterating.
    """
    reader = _Reader(stream)
    head = reader.header(namespace)

    def entries() -> Iterator[Index | Udf | Record]:
        yield from reader.globals(head)
        while reader.peek(1):
            yield reader.record(head)

    return head, entries()


class _Reader:
    """Takes bytes off a stream, knows where it is, and says so when it finds what it may not."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._buffer = b""
        self._at = 0
        self.offset = 0
        self.line = 1

    def peek(self, size: int) -> bytes:
        """The next bytes, fewer only at the end of the stream."""
        while len(self._buffer) - self._at < size:
            block = self._stream.read(max(size, 1 << 16))
            if not block:
                break
            self._buffer, self._at = self._buffer[self._at :] + block, 0
        return self._buffer[self._at : self._at + size]

    def rest(self) -> bytes:
        return self._buffer[self._at :]

    def fail(self, expected: str, found: bytes | None = None) -> NoReturn:
        found = self.peek(40) if found is None else found[:40]
        what = repr(found)[1:] if found else "the end of the text"
        raise AsbError(
            f"line {self.line}, byte {self.offset}: found {what}, expected {expected}", self.line, self.offset
        )

    def take(self, size: int, expected: str) -> bytes:
        data = self.peek(size)
        if len(data) < size:
            self.fail(expected, b"")
        self._at += size
        self.offset += size
        self.line += data.count(b"\n")
        return data

    def expect(self, text: bytes, expected: str | None = None) -> None:
        if self.peek(len(text)) != text:
            self.fail(expected or repr(text)[1:])
        self.take(len(text), "")

    def until(self, delimiter: bytes, limit: int, expected: str) -> bytes:
        """The bytes before the delimiter, which is taken too; at most `limit`."""
        size = self.peek(limit + 1).find(delimiter)
        if size < 0:
            self.fail(expected)
        return self.take(size + 1, expected)[:-1]

    def name(self, delimiter: bytes, legacy: bool, expected: str, empty: bool = False) -> str:
        """An escaped name (in version 3.0: one as it is) and the delimiter behind it."""
        allowed = rb"[^\n]" if legacy and delimiter == b"\n" else rb"[^ \n]" if legacy else rb"(?:\\[\s\S]|[^ \n\\])"
        found = re.match(rb"(%s*)%s" % (allowed, delimiter), self.peek(2 * MAX_NAME + 1))
        raw = found[1] if found else b""
        name = raw if legacy else re.sub(rb"\\([\s\S])", rb"\1", raw)
        if not found or len(name) > MAX_NAME or not (name or empty):
            self.fail(f"{expected} of 1 to {MAX_NAME} bytes, spaces escaped")
        self.take(found.end(), expected)
        return name.decode(errors="surrogateescape")

    def number(self, delimiter: bytes, low: int, high: int, expected: str) -> int:
        raw = self.peek(22)
        size = raw.find(delimiter)
        pattern = rb"-?[0-9]{1,20}" if low < 0 else rb"[0-9]{1,20}"
        if size < 0 or not re.fullmatch(pattern, raw[:size]) or not low <= int(raw[:size]) <= high:
            self.fail(f"{expected}, a whole number from {low} to {high}")
        return int(self.take(size + 1, expected)[:-1])

    def double(self) -> float:
        size = self.peek(1000).find(b"\n")
        if size < 0 or not _DOUBLE.fullmatch(raw := self.peek(size)):
            self.fail("a floating-point number")
        self.take(size + 1, "")
        return float(raw)

    def sized(self, encoded: bool, expected: str) -> bytes:
        size = self.number(b" ", 0, MAX_VALUE, f"the length of {expected}")
        if encoded and size % 4:
            self.fail(f"a length that base64 can have, of {expected}", b"%d" % size)
        data = self.take(size, f"{size} bytes of {expected}")
        if encoded:
            data = self.base64(data, expected)
        self.expect(b"\n", f"a line feed behind {expected}")
        return data

    def base64(self, text: bytes, expected: str) -> bytes:
        try:
            data = base64.b64decode(text, validate=True)
        except binascii.Error:
            data = b""
        if base64.b64encode(data) != text:
            self.fail(f"base64 of {expected}", text)
        return data

    # ------------------------------------------------------------ lines

    def header(self, namespace: str | None) -> Header:
        if self.peek(4) == _ZSTD:
            self.fail("'Version ': the file is compressed with zstd, open it with asb.open_asb")
        self.expect(b"Version ", "'Version ': this is not an .asb file, or it is encrypted")
        version = self.peek(3).decode("latin-1")
        if version not in VERSIONS:
            self.fail(f"a version that is known: {', '.join(VERSIONS)}")
        self.expect(version.encode() + b"\n")
        named: str | None = None
        first_file = False
        while self.peek(1) == b"#":
            if named is None and self.peek(12) == b"# namespace ":
                self.take(12, "")
                where = self.line, self.offset
                named = self.name(b"\n", version == "3.0", "a namespace")
                if namespace is not None and named != namespace:
                    self.line, self.offset = where
                    self.fail(f"a backup of namespace {namespace}", named.encode(errors="surrogateescape"))
            elif not first_file and self.peek(13) == b"# first-file\n":
                self.take(13, "")
                first_file = True
            else:
                self.fail("'# namespace ' or '# first-file', each once")
        if named is None:
            self.fail("'# namespace '")
        return Header(version, named, first_file)

    def globals(self, head: Header) -> Iterator[Index | Udf]:
        while self.peek(1) == b"*":
            marker = self.peek(4)
            if head.version == "3.0" or marker not in (b"* i ", b"* u ", b"* e "):
                self.fail("'* i ' (index), '* u ' (UDF) or a record")
            if marker == b"* e " and head.version != "3.2":
                self.fail("an expression index only in version 3.2")
            self.take(4, "")
            yield self.udf() if marker == b"* u " else self.index(marker == b"* e ")

    def index(self, expression: bool) -> Index:
        namespace = self.name(b" ", False, "a namespace")
        set_name = self.name(b" ", False, "a set", empty=True)
        name = self.name(b" ", False, "an index name")
        kind = self.one_of("NLKV", "an index type (N, L, K, V)")
        self.expect(b"1 ", "1 path")
        bin_name = self.name(b" ", False, "a bin", empty=expression)
        data = self.peek(2)
        if data[:1] not in (b"N", b"S", b"G", b"B") or data[1:] not in (b" ", b"\n"):
            self.fail("a data type (N, S, G, B)")
        self.take(1, "")
        encoded: list[str] = []
        while self.peek(1) == b" " and len(encoded) < 1 + expression:
            self.take(1, "")
            size = re.match(rb"[A-Za-z0-9+/]*={0,2}", self.peek(1 << 16))
            text = self.take(size.end() if size else 0, "")
            self.base64(text, "a context or expression")
            encoded.append(text.decode())
        self.expect(b"\n", "the end of the index line")
        if expression and not encoded:
            self.fail("an expression")
        found = encoded.pop() if expression else None
        return Index(
            *(namespace, set_name, name, kind, bin_name, data[:1].decode()),
            context=encoded[0] if encoded else None,
            expression=found,
        )

    def one_of(self, letters: str, expected: str) -> str:
        found = self.peek(2)
        if found[:1].decode("latin-1") not in letters or found[1:] != b" ":
            self.fail(expected)
        return self.take(2, expected)[:1].decode()

    def udf(self) -> Udf:
        self.expect(b"L ", "the language L (Lua)")
        name = self.name(b" ", False, "a file name")
        return Udf(name, self.sized(False, "a UDF file"))

    def record(self, head: Header) -> Record:
        legacy = head.version == "3.0"
        key = None
        if self.peek(4) == b"+ k ":
            self.take(4, "")
            key = self.key()
        self.expect(b"+ n ", "'+ n ' (namespace)" if key else "a record: '+ k ' (key) or '+ n ' (namespace)")
        namespace = self.name(b"\n", legacy, "a namespace")
        if namespace != head.namespace:
            self.fail(f"namespace {head.namespace} of the file", namespace.encode(errors="surrogateescape"))
        self.expect(b"+ d ", "'+ d ' (digest)")
        text = self.take(28, "a digest")
        digest = self.base64(text, "a digest of 20 bytes")
        if len(digest) != 20:
            self.fail("a digest of 20 bytes", text)
        self.expect(b"\n", "a line feed behind the digest")
        set_name = ""
        if self.peek(4) == b"+ s ":
            self.take(4, "")
            set_name = self.name(b"\n", legacy, "a set")
        self.expect(b"+ g ", "'+ g ' (generation)")
        generation = self.number(b"\n", 0, 65535, "a generation")
        self.expect(b"+ t ", "'+ t ' (void time)")
        void_time = self.number(b"\n", 0, 0xFFFFFFFF, "a void time")
        self.expect(b"+ b ", "'+ b ' (bin count)")
        count = self.number(b"\n", 0, 65535, "a bin count")
        bins = tuple(self.bin(legacy) for _ in range(count))
        return Record(namespace, digest, set_name, key, generation, void_time, bins)

    def key(self) -> Key:
        if self.peek(3) == b"B! ":
            self.take(3, "")
            return Key("B", self.sized(False, "a key"))
        kind = self.one_of("IDSXB", "a key type (I, D, S, X, B or B!)")
        if kind == "I":
            return Key(kind, self.number(b"\n", -(1 << 63), (1 << 63) - 1, "a key"))
        if kind == "D":
            return Key(kind, self.double())
        return Key("B" if kind == "B" else "S", self.sized(kind != "S", "a key"))

    def bin(self, legacy: bool) -> Bin:
        self.expect(b"- ", "'- ' (a bin, as the bin count says)")
        kind = self.peek(1).decode("latin-1")
        if kind == "U":
            self.fail("a bin type other than U: servers since 3.15 have no large data types to restore it to")
        if not kind or kind not in "NZIDSXG" + BLOBS:
            self.fail(f"a bin type: one of NZIDSXG{BLOBS}")
        self.take(1, "")
        raw = kind in BLOBS and self.peek(1) == b"!"
        self.expect(b"! " if raw else b" ", "a space behind the bin type")
        name = self.name(b"\n" if kind == "N" else b" ", legacy, "a bin name")
        value: bool | int | float | bytes | None
        if kind == "N":
            value = None
        elif kind == "Z":
            if self.peek(2) not in (b"T\n", b"F\n"):
                self.fail("T or F")
            value = self.take(2, "") == b"T\n"
        elif kind == "I":
            value = self.number(b"\n", -(1 << 63), (1 << 63) - 1, "the value")
        elif kind == "D":
            value = self.double()
        else:
            value = self.sized(kind == "X" or (kind in BLOBS and not raw), f"bin {name!r}")
        return Bin(name, "S" if kind == "X" else kind, value)
