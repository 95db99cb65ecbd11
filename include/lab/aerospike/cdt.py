"""Operations on lists and maps inside a bin (collection data types), without nested contexts.

Elements stay raw msgpack. An operation or a return type that is not known here is refused as unsupported.
"""

from __future__ import annotations

from typing import NamedTuple

from dbops_lab.aerospike import msgpack
from dbops_lab.aerospike.protocol import (
    BOOL,
    ELEMENT_EXISTS,
    ELEMENT_NOT_FOUND,
    INCOMPATIBLE_TYPE,
    INTEGER,
    LIST,
    MAP,
    NIL,
    NOT_APPLICABLE,
    PARAMETER,
    UNSUPPORTED,
    Refused,
)

Value = tuple[int, bytes]  # particle type and bytes

# Lists
SET_TYPE, APPEND, APPEND_ITEMS, INSERT, INSERT_ITEMS, POP, POP_RANGE = range(7)
REMOVE, REMOVE_RANGE, SET, TRIM, CLEAR, INCREMENT, SORT = range(7, 14)
SIZE, GET, GET_RANGE = 16, 17, 18
LIST_GETS = range(19, 27)  # by index, value, rank, all by value, value list, index range, value interval, rank range
LIST_REMOVES = range(32, 40)  # the same selections, 13 higher
# Maps
MAP_SET_TYPE, ADD, ADD_ITEMS, PUT, PUT_ITEMS, REPLACE, REPLACE_ITEMS = range(64, 71)
MAP_INCREMENT, MAP_DECREMENT, MAP_CLEAR = 73, 74, 75
BY_KEY, BY_INDEX, BY_VALUE, BY_RANK = 97, 98, 99, 100
ALL_BY_VALUE, KEY_INTERVAL, INDEX_RANGE, VALUE_INTERVAL, RANK_RANGE, KEY_LIST, VALUE_LIST = range(102, 109)
MAP_SIZE = 96
MAP_REMOVES = {
    76: BY_KEY,
    77: BY_INDEX,
    78: BY_VALUE,
    79: BY_RANK,
    81: KEY_LIST,
    82: ALL_BY_VALUE,
    83: VALUE_LIST,
    84: KEY_INTERVAL,
    85: INDEX_RANGE,
    86: VALUE_INTERVAL,
    87: RANK_RANGE,
}
MAP_GETS = frozenset(MAP_REMOVES.values())
# Return types
NONE, INDEX, REVERSE_INDEX, RANK, REVERSE_RANK, COUNT, KEY, VALUE, KEY_VALUE = range(9)
EXISTS, UNORDERED_MAP, ORDERED_MAP = 13, 16, 17
INVERTED = 0x10000
# Write flags
ADD_UNIQUE, INSERT_BOUNDED, LIST_NO_FAIL, LIST_PARTIAL = 1, 2, 4, 8
NO_OVERWRITE, NO_CREATE, MAP_NO_FAIL, MAP_PARTIAL = 1, 2, 4, 8


def integer(number: int) -> Value:
    return INTEGER, (number & 0xFFFFFFFFFFFFFFFF).to_bytes(8, "big")


class Selection(NamedTuple):
    picked: list[int]  # positions, in order
    is_single: bool


def _parse(payload: bytes) -> tuple[int, list[bytes]]:
    items = msgpack.split(payload)
    if not items:
        raise Refused(PARAMETER)
    code = msgpack.integer(items[0])
    if code >= 0xFE:  # a nested context or a select
        raise Refused(UNSUPPORTED)
    return code, items[1:]


def read(bin_value: Value, payload: bytes) -> Value:
    code, arguments = _parse(payload)
    particle, data = bin_value
    if code < SET_TYPE or (code >= MAP_SET_TYPE) != (particle == MAP) or particle not in (LIST, MAP):
        raise Refused(INCOMPATIBLE_TYPE)
    if particle == LIST:
        return _read_list(code, arguments, msgpack.split_list(data)[1])
    flags, pairs = msgpack.split_map(data)
    pairs = sorted(pairs, key=lambda pair: msgpack.order_key(pair[0]))
    if code == MAP_SIZE:
        return integer(len(pairs))
    if code not in MAP_GETS or not arguments:
        raise Refused(UNSUPPORTED)
    how, selection = _select_in_map(code, arguments, pairs)
    return _map_result(how, selection, pairs, flags) or (NIL, b"")


def modify(bin_value: Value | None, payload: bytes) -> tuple[Value | None, Value | None]:
    """The changed bin (None: leave it away) and what the operation returns (None: nothing)."""
    code, arguments = _parse(payload)
    is_map = code >= MAP_SET_TYPE
    if bin_value is not None and bin_value[0] != (MAP if is_map else LIST):
        raise Refused(INCOMPATIBLE_TYPE)
    if is_map:
        flags, pairs = msgpack.split_map(bin_value[1]) if bin_value else (0, [])
        return _modify_map(code, arguments, flags, pairs, is_new=bin_value is None)
    flags, items = msgpack.split_list(bin_value[1]) if bin_value else (0, [])
    return _modify_list(code, arguments, flags, items, is_new=bin_value is None)


# ---------------------------------------------------------------------- lists


def _number(arguments: list[bytes], position: int, default: int = 0) -> int:
    return msgpack.integer(arguments[position]) if len(arguments) > position else default


def _index(number: int, size: int) -> int:
    place = number + size if number < 0 else number
    if not 0 <= place < size:
        raise Refused(NOT_APPLICABLE)
    return place


def _range(arguments: list[bytes], position: int, size: int) -> range:
    """Positions of a first index and an optional count, clipped to what is there."""
    first = _number(arguments, position)
    first = first + size if first < 0 else first
    count = _number(arguments, position + 1, max(0, size - first))
    return range(max(0, first), min(size, max(0, first + count)))


def _read_list(code: int, arguments: list[bytes], items: list[bytes]) -> Value:
    if code == SIZE:
        return integer(len(items))
    if code == GET:
        return msgpack.as_particle(items[_index(_number(arguments, 0), len(items))])
    if code == GET_RANGE:
        return LIST, msgpack.pack_list([items[i] for i in _range(arguments, 0, len(items))])
    if code not in LIST_GETS or not arguments:
        raise Refused(UNSUPPORTED)
    how, selection = _select_in_list(code, arguments, items)
    return _list_result(how, selection, items) or (NIL, b"")


def _select_in_list(code: int, arguments: list[bytes], items: list[bytes]) -> tuple[int, Selection]:
    how, rest = msgpack.integer(arguments[0]), arguments[1:]
    keys = [msgpack.order_key(item) for item in items]
    ranked = sorted(range(len(items)), key=lambda i: (keys[i], i))
    by = code - LIST_GETS.start
    if by == 0:
        return how, Selection([_index(_number(rest, 0), len(items))], True)
    if by == 2:
        return how, Selection([ranked[_index(_number(rest, 0), len(items))]], True)
    if by in (1, 3):
        wanted = msgpack.order_key(rest[0])
        picked = [i for i, key in enumerate(keys) if key == wanted]
        picked = picked[:1] if by == 1 else picked
        return how, Selection(picked, by == 1)
    if by == 4:
        several = {msgpack.order_key(item) for item in msgpack.split(rest[0])}
        picked = [i for i, key in enumerate(keys) if key in several]
    elif by == 5:
        picked = list(_range(rest, 0, len(items)))
    elif by == 6:
        picked = [i for i, key in enumerate(keys) if _is_between(key, rest)]
    else:
        picked = [ranked[i] for i in _range(rest, 0, len(items))]
    return how, Selection(_inverted(picked, len(items)) if how & INVERTED else picked, False)


def _is_between(key: tuple[object, ...], bounds: list[bytes]) -> bool:
    low = msgpack.order_key(bounds[0]) if msgpack.head(bounds[0], 0).kind != "nil" else None
    high = None
    if len(bounds) > 1 and msgpack.head(bounds[1], 0).kind != "nil":
        high = msgpack.order_key(bounds[1])
    return (low is None or key >= low) and (high is None or key < high)


def _inverted(picked: list[int], size: int) -> list[int]:
    taken = set(picked)
    return [i for i in range(size) if i not in taken]


def _list_result(how: int, selection: Selection, items: list[bytes]) -> Value | None:
    how &= ~INVERTED
    picked, is_single = selection
    if how == NONE:
        return None
    if how == COUNT:
        return integer(len(picked))
    if how == EXISTS:
        return BOOL, bytes((bool(picked),))
    if how == VALUE:
        if is_single:
            return msgpack.as_particle(items[picked[0]]) if picked else (NIL, b"")
        return LIST, msgpack.pack_list([items[i] for i in picked])
    return _places(how, selection, len(items), [msgpack.order_key(item) for item in items])


def _places(how: int, selection: Selection, size: int, keys: list[tuple[object, ...]]) -> Value:
    """Indexes or ranks of what was picked."""
    picked, is_single = selection
    if how in (INDEX, REVERSE_INDEX):
        numbers = picked
    elif how in (RANK, REVERSE_RANK):
        rank = {i: place for place, i in enumerate(sorted(range(size), key=lambda i: (keys[i], i)))}
        numbers = [rank[i] for i in picked]
    else:
        raise Refused(UNSUPPORTED)
    if how in (REVERSE_INDEX, REVERSE_RANK):
        numbers = [size - 1 - number for number in numbers]
    if is_single:
        return integer(numbers[0] if numbers else -1)
    return LIST, msgpack.pack_list([msgpack.pack_int(number) for number in numbers])


def _packed_list(items: list[bytes], flags: int) -> Value:
    if flags & msgpack.ORDERED:
        items = sorted(items, key=msgpack.order_key)
    return LIST, msgpack.pack_list(items, flags & msgpack.ORDERED)


def _modify_list(
    code: int, arguments: list[bytes], flags: int, items: list[bytes], *, is_new: bool
) -> tuple[Value | None, Value | None]:
    result: Value | None = None
    if code == SET_TYPE:
        return _packed_list(items, _number(arguments, 0)), None
    if code in (APPEND, APPEND_ITEMS):
        if is_new:
            flags = _number(arguments, 1)
        added = [arguments[0]] if code == APPEND else msgpack.split(arguments[0])
        items = _with_unique(items, added, len(items), _number(arguments, 2))
        result = integer(len(items))
    elif code in (INSERT, INSERT_ITEMS):
        if flags & msgpack.ORDERED:
            raise Refused(PARAMETER)
        place = _number(arguments, 0)
        place = place + len(items) if place < 0 else place
        write_flags = _number(arguments, 2)
        if place < 0 or place > len(items):
            raise Refused(UNSUPPORTED if place > len(items) and not write_flags & INSERT_BOUNDED else NOT_APPLICABLE)
        added = [arguments[1]] if code == INSERT else msgpack.split(arguments[1])
        items = _with_unique(items, added, place, write_flags)
        result = integer(len(items))
    elif is_new:
        if code in (CLEAR, TRIM, POP_RANGE, REMOVE_RANGE) or code in LIST_REMOVES:
            return None, None
        raise Refused(NOT_APPLICABLE if code in (POP, REMOVE) else UNSUPPORTED)
    elif code == CLEAR:
        items = []
    elif code in (POP, REMOVE):
        place = _index(_number(arguments, 0), len(items))
        result = msgpack.as_particle(items[place]) if code == POP else integer(1)
        items = items[:place] + items[place + 1 :]
    elif code in (POP_RANGE, REMOVE_RANGE, TRIM):
        picked = _range(arguments, 0, len(items))
        inside = [items[i] for i in picked]
        outside = [items[i] for i in _inverted(list(picked), len(items))]
        if code == POP_RANGE:
            result = LIST, msgpack.pack_list(inside)
        else:
            result = integer(len(inside) if code == REMOVE_RANGE else len(outside))
        items = inside if code == TRIM else outside
    elif code == SET:
        if flags & msgpack.ORDERED:
            raise Refused(PARAMETER)
        items[_index(_number(arguments, 0), len(items))] = arguments[1]
    elif code == INCREMENT:
        place = _index(_number(arguments, 0), len(items))
        items[place] = _sum(items[place], arguments[1] if len(arguments) > 1 else b"\x01")
        result = msgpack.as_particle(items[place])
    elif code == SORT:
        order = _number(arguments, 0)
        items = sorted(items, key=msgpack.order_key, reverse=bool(order & 1))
        if order & 2:
            items = [item for i, item in enumerate(items) if not i or item != items[i - 1]]
    elif code in LIST_REMOVES and arguments:
        how, selection = _select_in_list(code - 13, arguments, items)
        result = _list_result(how, selection, items)
        items = [items[i] for i in _inverted(selection.picked, len(items))]
    else:
        raise Refused(UNSUPPORTED)
    return _packed_list(items, flags), result


def _sum(old: bytes, by: bytes) -> bytes:
    left, right = msgpack.head(old, 0), msgpack.head(by, 0)
    if left.kind != "int" or right.kind != "int":
        raise Refused(UNSUPPORTED if {left.kind, right.kind} <= {"int", "float"} else INCOMPATIBLE_TYPE)
    total = left.value + right.value
    return msgpack.pack_int((total + (1 << 63)) % (1 << 64) - (1 << 63))


def _with_unique(items: list[bytes], added: list[bytes], place: int, flags: int) -> list[bytes]:
    """The list with these elements put in at `place`, under the write flags."""
    if flags & ADD_UNIQUE:
        seen = {msgpack.order_key(item) for item in items}
        fresh = []
        for item in added:
            key = msgpack.order_key(item)
            if key not in seen:
                seen.add(key)
                fresh.append(item)
        if len(fresh) < len(added):
            if not flags & LIST_NO_FAIL:
                raise Refused(ELEMENT_EXISTS)
            if not flags & LIST_PARTIAL:
                fresh = []
        added = fresh
    return items[:place] + added + items[place:]


# ---------------------------------------------------------------------- maps


def _select_in_map(code: int, arguments: list[bytes], pairs: list[tuple[bytes, bytes]]) -> tuple[int, Selection]:
    """Of pairs sorted by key."""
    how, rest = msgpack.integer(arguments[0]), arguments[1:]
    size = len(pairs)
    keys = [msgpack.order_key(key) for key, _ in pairs]
    values = [msgpack.order_key(value) for _, value in pairs]
    ranked = sorted(range(size), key=lambda i: (values[i], i))
    if code in (BY_KEY, BY_VALUE):
        wanted = msgpack.order_key(rest[0])
        column = keys if code == BY_KEY else values
        return how, Selection([i for i in range(size) if column[i] == wanted][:1], True)
    if code == BY_INDEX:
        return how, Selection([_index(_number(rest, 0), size)], True)
    if code == BY_RANK:
        return how, Selection([ranked[_index(_number(rest, 0), size)]], True)
    if code in (KEY_LIST, VALUE_LIST):
        several = {msgpack.order_key(item) for item in msgpack.split(rest[0])}
        column = keys if code == KEY_LIST else values
        picked = [i for i in range(size) if column[i] in several]
    elif code == ALL_BY_VALUE:
        wanted = msgpack.order_key(rest[0])
        picked = [i for i in range(size) if values[i] == wanted]
    elif code in (KEY_INTERVAL, VALUE_INTERVAL):
        column = keys if code == KEY_INTERVAL else values
        picked = [i for i in range(size) if _is_between(column[i], rest)]
    elif code == INDEX_RANGE:
        picked = list(_range(rest, 0, size))
    else:
        picked = [ranked[i] for i in _range(rest, 0, size)]
    return how, Selection(_inverted(picked, size) if how & INVERTED else picked, False)


def _map_result(how: int, selection: Selection, pairs: list[tuple[bytes, bytes]], flags: int) -> Value | None:
    how &= ~INVERTED
    picked, is_single = selection
    if how == NONE:
        return None
    if how == COUNT:
        return integer(len(picked))
    if how == EXISTS:
        return BOOL, bytes((bool(picked),))
    if how in (KEY, VALUE):
        column = [pairs[i][0 if how == KEY else 1] for i in picked]
        if is_single:
            return msgpack.as_particle(column[0]) if column else (NIL, b"")
        return LIST, msgpack.pack_list(column)
    if how in (KEY_VALUE, UNORDERED_MAP, ORDERED_MAP):
        order = {KEY_VALUE: flags, UNORDERED_MAP: 0, ORDERED_MAP: 1}[how]
        return MAP, msgpack.pack_map([pairs[i] for i in sorted(picked)], order)
    return _places(how, selection, len(pairs), [msgpack.order_key(value) for _, value in pairs])


def _packed_map(pairs: dict[tuple[object, ...], tuple[bytes, bytes]], flags: int) -> Value:
    return MAP, msgpack.pack_map([pairs[key] for key in sorted(pairs)], flags)


def _modify_map(
    code: int, arguments: list[bytes], flags: int, pairs: list[tuple[bytes, bytes]], *, is_new: bool
) -> tuple[Value | None, Value | None]:
    kept = {msgpack.order_key(key): (key, value) for key, value in pairs}
    result: Value | None = None
    if code == MAP_SET_TYPE:
        flags = _number(arguments, 0) & 3
    elif code in (ADD, ADD_ITEMS, PUT, PUT_ITEMS, REPLACE, REPLACE_ITEMS):
        many = code in (ADD_ITEMS, PUT_ITEMS, REPLACE_ITEMS)
        rest = arguments[1 if many else 2 :]
        if is_new:
            flags = _number(rest, 0) & 3
        added = msgpack.split_map(arguments[0])[1] if many else [(arguments[0], arguments[1])]
        write_flags = _number(rest, 1) | (NO_OVERWRITE if code in (ADD, ADD_ITEMS) else 0)
        _put(kept, added, write_flags | (NO_CREATE if code in (REPLACE, REPLACE_ITEMS) else 0))
        result = integer(len(kept))
    elif code in (MAP_INCREMENT, MAP_DECREMENT):
        if is_new:
            flags = _number(arguments, 2) & 3
        key = msgpack.order_key(arguments[0])
        by = arguments[1]
        if code == MAP_DECREMENT:
            by = msgpack.pack_int(-msgpack.integer(by))
        kept[key] = (arguments[0], _sum(kept[key][1] if key in kept else b"\0", by))
        result = msgpack.as_particle(kept[key][1])
    elif is_new:
        if code == MAP_CLEAR or code in MAP_REMOVES:
            return None, None
        raise Refused(UNSUPPORTED)
    elif code == MAP_CLEAR:
        kept = {}
    elif code in MAP_REMOVES and arguments:
        ordered = [kept[key] for key in sorted(kept)]
        how, selection = _select_in_map(MAP_REMOVES[code], arguments, ordered)
        result = _map_result(how, selection, ordered, flags)
        for position in selection.picked:
            del kept[msgpack.order_key(ordered[position][0])]
    else:
        raise Refused(UNSUPPORTED)
    return _packed_map(kept, flags), result


def _put(kept: dict[tuple[object, ...], tuple[bytes, bytes]], added: list[tuple[bytes, bytes]], flags: int) -> None:
    fresh: dict[tuple[object, ...], tuple[bytes, bytes]] = {}
    failure = 0
    for key, value in added:
        place = msgpack.order_key(key)
        if place in kept and flags & NO_OVERWRITE:
            failure = ELEMENT_EXISTS
        elif place not in kept and flags & NO_CREATE:
            failure = ELEMENT_NOT_FOUND
        else:
            fresh[place] = (key, value)
    if failure:
        if not flags & MAP_NO_FAIL:
            raise Refused(failure)
        if not flags & MAP_PARTIAL:
            return
    kept.update(fresh)
