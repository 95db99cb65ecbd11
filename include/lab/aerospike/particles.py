"""Values of bins: what a client may send, and the form in which it is kept and given back."""

from __future__ import annotations

import json

from dbops_lab.aerospike import msgpack
from dbops_lab.aerospike.protocol import (
    BAD_GEOJSON,
    BLOB,
    BOOL,
    FLOAT,
    GEOJSON,
    HLL,
    INTEGER,
    LANGUAGE_BLOBS,
    LIST,
    MAP,
    PARAMETER,
    STRING,
    Refused,
)

AS_SENT = frozenset((STRING, BLOB)) | LANGUAGE_BLOBS
GEOMETRIES = {"Point", "Polygon", "MultiPolygon", "AeroCircle"}
HLL_HEADER = 11  # flags, index bits, minhash bits, cached count


def stored(particle: int, value: bytes) -> bytes:
    """The value as it is kept. Raises Refused for one that is malformed or of an unknown type."""
    if particle in AS_SENT:
        return value
    if particle == INTEGER:
        if len(value) not in (1, 2, 4, 8):
            raise Refused(PARAMETER)
        return value.rjust(8, b"\0")  # shorter ones are widened without sign
    if particle == LIST:
        msgpack.check_list(value)
    elif particle == MAP:
        msgpack.check_map(value)
    elif particle == GEOJSON:
        return _geojson(value)
    elif (
        (particle == FLOAT and len(value) != 8)
        or (particle == BOOL and value not in (b"\0", b"\1"))
        or (particle == HLL and not hll_is_sound(value))
        or particle not in (FLOAT, BOOL, HLL)
    ):
        raise Refused(PARAMETER)
    return value


def hll_size(index_bits: int, minhash_bits: int) -> int:
    return HLL_HEADER + ((6 + minhash_bits) * (1 << index_bits) + 7) // 8


def hll_is_sound(value: bytes) -> bool:
    if len(value) < HLL_HEADER:
        return False
    index_bits, minhash_bits = value[1], value[2]
    return (
        value[0] == 0
        and 4 <= index_bits <= 16
        and (minhash_bits == 0 or 4 <= minhash_bits <= 51)
        and index_bits + minhash_bits <= 64
        and len(value) == hll_size(index_bits, minhash_bits)
    )


def _geojson(value: bytes) -> bytes:
    """Flags, number of cells, the cells, the text. Cells are the server's business: none are kept here."""
    if len(value) < 3:
        raise Refused(PARAMETER)
    text = value[3 + 8 * int.from_bytes(value[1:3], "big") :]
    try:
        shape = json.loads(text)
        if shape["type"] == "Feature":
            shape = shape["geometry"]
        sound = shape["type"] in GEOMETRIES and isinstance(shape["coordinates"], list) and shape["coordinates"]
    except (ValueError, TypeError, KeyError):
        sound = False
    if not sound:
        raise Refused(BAD_GEOJSON)
    return b"\0\0\0" + text
