"""The `.asb` backup format: what stands before the records, and a strict reader of whole files.

Versions 3.0 to 3.2 are read, 3.1 is written. Names are escaped, values are preceded by their length and never
escaped, so nothing here looks for line ends inside a value. Bulk records go through `kernel`; this module is for
headers, secondary indexes, UDFs, and for looking into a file record by record.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator

from dbops.errors import FinalError


class AsbError(FinalError):
    """Text that is not `.asb`, or something that `.asb` cannot hold. Says where, what was found, what expected."""


_INDEX_TYPES = {"default": "N", "none": "N", "list": "L", "mapkeys": "K", "mapvalues": "V"}
_DATA_TYPES = {"numeric": "N", "string": "S", "geo2dsphere": "G", "blob": "B"}


def escape(name: str | bytes) -> bytes:
    """A name as it stands in a line: a backslash before each space, line feed and backslash."""
    return re.sub(rb"([ \n\\])", rb"\\\1", name.encode() if isinstance(name, str) else name)


def header(namespace: str, *, first_file: bool = False, version: str = "3.1") -> bytes:
    """The first lines of a file. `first_file` marks the one file of a set that holds the indexes and UDFs."""
    text = b"Version " + version.encode() + b"\n# namespace " + escape(namespace) + b"\n"
    return text + b"# first-file\n" if first_file else text


def version_for(sindex_list: str) -> str:
    """3.2 when an index is on an expression, which 3.1 cannot hold (and asrestore cannot read), else 3.1."""
    return "3.2" if any(index.get("exp", "null") != "null" for index in _indexes(sindex_list)) else "3.1"


def index_lines(sindex_list: str, version: str = "3.1") -> Iterator[tuple[bytes, str]]:
    """Lines of the secondary indexes in the answer to `sindex-list:namespace=<ns>;b64=true`, each with its name.

    :raises AsbError: the answer is an error, or an index is of a kind that the version cannot hold.
    """
    for index in _indexes(sindex_list):
        name = index.get("indexname", "?")
        try:
            kind = _INDEX_TYPES[index["indextype"].lower()]
            data = _DATA_TYPES[index["type"].lower()]
            namespace, bin_name = index["ns"], index["bin"]
        except KeyError as problem:
            raise AsbError(f"index {name}: {problem} of {index} is not known to the .asb format") from None
        set_name = index.get("set", "")
        context, expression = index.get("context", "null"), index.get("exp", "null")
        marker = b"i"
        if expression != "null":
            if version != "3.2":
                raise AsbError(f"index {name}: is on an expression, which .asb {version} cannot hold; write 3.2")
            marker, bin_name = b"e", "" if bin_name == "null" else bin_name
        columns = [
            *(b"*", marker, escape(namespace), b"" if set_name.lower() == "null" else escape(set_name)),
            *(escape(name), kind.encode(), b"1", escape(bin_name), data.encode()),
        ]
        for encoded in (context, expression):
            if encoded != "null":
                if not re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", encoded):
                    raise AsbError(f"index {name}: {encoded!r} is not base64; ask for sindex-list with b64=true")
                columns.append(encoded.encode())
        yield b" ".join(columns) + b"\n", name


def _indexes(sindex_list: str) -> Iterator[dict[str, str]]:
    if sindex_list.startswith(("ERROR", "FAIL")):
        raise AsbError(f"the list of secondary indexes is an error: {sindex_list}")
    for entry in re.split(r"[;\n]", sindex_list):
        if entry.strip():
            yield dict(re.findall(r"(\w+)=([^:]*)(?::|$)", entry))


def udf_names(udf_list: str) -> list[str]:
    """File names in the answer to `udf-list`."""
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
        content = base64.b64decode(answer["content"], validate=True)
    except binascii.Error as problem:
        raise AsbError(f"UDF {name}: its content is not base64: {problem}") from None
    return b"* u L " + escape(name) + b" %d " % len(content) + content + b"\n"
