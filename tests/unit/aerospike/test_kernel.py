"""The kernel against plain Python, real captures, cut and damaged input; the last test runs all again without JIT."""

from __future__ import annotations

import io
import os
import random
import struct
import subprocess
import sys

import numpy as np
import pytest
from answers import (
    GOLDEN,
    LAST,
    PARTICLES,
    Guarded,
    Run,
    Scan,
    WireRecord,
    answer,
    captured_answers,
    doubles,
    made_field,
    made_frame,
    made_message,
    made_op,
    rows,
    wire_records,
)
from dbops.aerospike import asb, kernel
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

PLAIN_PYTHON = os.environ.get("NUMBA_DISABLE_JIT") == "1"
HEADER = asb.header("bidder")
pytestmark = [
    # The fixed-width numbers of numpy wrap around on purpose; nothing may say so.
    pytest.mark.filterwarnings("error::RuntimeWarning"),
]
check = settings(
    max_examples=100 if PLAIN_PYTHON else 300,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
SAMPLE = [
    WireRecord(
        digest=bytes(range(20)),
        set=b"set with \\ and\n",
        key=(3, b"user key"),
        generation=7,
        void_time=533080879,
        bins=(
            (b"nil", 0, b""),
            (b"int", 1, struct.pack(">q", -42)),
            (b"double", 2, struct.pack(">d", 3.14)),
            (b"text", 3, b"two\nlines"),
            (b"blob", 4, bytes(range(48))),
            (b"bool", 17, b"\1"),
            (b"hll", 18, b"\0\4" * 11),
            (b"map", 19, b"\x83\1\xa2\3v"),
            (b"list", 20, b"\x93\1\2\3"),
            (b"geo", 23, b"\0\0\1cellcell" + b'{"type": "Point"}'),
        ),
    ),
    WireRecord(digest=bytes(range(50, 70)), key=(1, struct.pack(">q", -(1 << 63)))),
    WireRecord(digest=bytes(range(100, 120)), set=b"s", bins=((b"a b", 2, struct.pack(">d", -0.0)),)),
]
SAMPLE_TEXT = b"".join(record.expected_text() for record in SAMPLE)


def base64_text(text: bytes) -> bytes:
    """The same records as an asbackup without --compact writes them."""
    _, entries = asb.read(io.BytesIO(HEADER + text))
    return b"".join(entry.text(compact=False) for entry in entries if isinstance(entry, asb.Record))


# ---------------------------------------------------------------- wire -> text


@check
@given(st.lists(wire_records, max_size=4))
def test_every_record_becomes_the_text_that_asbackup_writes(records):
    run = Run().read(answer(records))
    assert (run.status, run.state[kernel.RESULT]) == (kernel.DONE, 0)
    assert run.output == b"".join(record.expected_text() for record in records)
    assert run.state[kernel.RECORDS] == len(records)


@check
@given(st.lists(wire_records, max_size=6))
def test_partitions_are_counted_fingerprinted_and_their_last_digest_kept(records):
    run = Run().read(answer(records))
    counts, fingerprints, last = [0] * 4096, [0] * 4096, {}
    for record in records:
        partition = int.from_bytes(record.digest[:2], "little") % 4096
        counts[partition] += 1
        fingerprints[partition] += int.from_bytes(record.digest[12:], "little")
        last[partition] = record.digest
    assert run.counts.tolist() == counts
    assert run.fingerprints.tolist() == [value % (1 << 64) for value in fingerprints]
    assert {int(p): run.last[p].tobytes() for p in np.flatnonzero(run.seen)} == last
    assert not run.unavailable.any()


@check
@given(st.lists(wire_records, max_size=4))
def test_digests_of_an_answer_are_those_of_its_records(records):
    run = Run().read(answer(records), call=kernel.digests)
    assert (run.status, run.output) == (kernel.DONE, b"".join(record.digest for record in records))
    assert run.counts.sum() == len(records)


@check
@given(
    st.lists(wire_records, max_size=4),
    st.lists(st.integers(1, 300), max_size=40),
    st.integers(0, 3000),
    st.sampled_from([kernel.encode, kernel.digests]),
)
def test_chunks_and_room_do_not_change_the_output(records, chunks, room, call):
    stream = answer(records)
    once = Run().read(stream, call=call)
    pieces = Run().read(stream, chunks, room, call)
    assert pieces.output == once.output
    assert pieces.status == once.status == kernel.DONE
    for name in ("counts", "fingerprints", "last", "seen"):
        assert (getattr(pieces, name) == getattr(once, name)).all()


def test_byte_after_byte_gives_the_same_output():
    stream = answer(SAMPLE, per_frame=2)
    run = Run().read(stream, [1] * len(stream))
    assert (run.status, run.output) == (kernel.DONE, SAMPLE_TEXT)


def test_every_small_room_gives_the_same_output():
    stream = answer(SAMPLE)
    for room in range(1200):
        run = Run().read(stream, room=room)
        assert (run.status, run.output) == (kernel.DONE, SAMPLE_TEXT)


def test_an_answer_cut_anywhere_needs_more_and_gives_whole_records_only():
    stream = answer(SAMPLE, per_frame=1)
    prefixes = [b"".join(r.expected_text() for r in SAMPLE[:n]) for n in range(len(SAMPLE) + 1)]
    for size in range(len(stream)):
        run = Run().read(stream[:size])
        assert run.status == kernel.NEED_MORE
        assert run.output == prefixes[run.state[kernel.RECORDS]]


def test_needed_bytes_are_never_more_than_the_message_has():
    message = SAMPLE[0].message()
    stream = made_frame(message)
    for size in range(8, len(stream)):
        run = Run().read(stream[:size])
        assert size - 8 < run.state[kernel.SOURCE_NEEDED] <= len(message)


@check
@given(st.randoms(use_true_random=False), st.lists(wire_records, min_size=1, max_size=3))
def test_a_damaged_answer_never_crashes_nor_leaves_its_buffers(rng, records):
    stream = bytearray(answer(records))
    for _ in range(rng.randint(1, 3)):
        stream[rng.randrange(len(stream))] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
    for call in (kernel.encode, kernel.digests):
        run = Run().read(bytes(stream), call=call)
        assert run.status in (kernel.NEED_MORE, kernel.DONE, kernel.REFUSED, kernel.BROKEN)
        if run.status == kernel.BROKEN:
            assert kernel.reason(int(run.state[kernel.WHY]))


def test_each_single_flipped_bit_is_survived():
    stream = answer(SAMPLE)
    for at in range(len(stream)):
        damaged = bytearray(stream)
        damaged[at] ^= 1 << (at % 8)
        run = Run().read(bytes(damaged))
        assert run.status in (kernel.NEED_MORE, kernel.DONE, kernel.REFUSED, kernel.BROKEN)
        if run.status == kernel.DONE:  # what went through is text that the strict reader takes
            assert Scan().read(run.output).status == kernel.DONE


def test_bytes_behind_the_end_do_not_matter():
    stream = answer(SAMPLE)
    src = Guarded(stream + b"\xff" * 50)
    out = Guarded(4096)
    run = Run()
    tally = (run.counts, run.fingerprints, run.last, run.seen, run.unavailable)
    pos, w, status = kernel.encode(src.array, 0, len(stream), out.array, 0, run.state, *tally)
    assert (pos, status) == (len(stream), kernel.DONE)
    assert out.array[:w].tobytes() == SAMPLE_TEXT


DIGEST = made_field(4, bytes(20))
NAMESPACE = made_field(0, b"dmp")
INT = made_op(1, 1, b"i", bytes(8))


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (made_message([NAMESPACE], [INT]), "without a digest"),
        (made_message([DIGEST], [INT]), "without a namespace"),
        (made_message([NAMESPACE, made_field(4, bytes(19))]), "a field"),
        (made_message([NAMESPACE, DIGEST, DIGEST]), "a field"),
        (made_message([NAMESPACE, DIGEST, made_field(99, b"x")]), "a field"),
        (made_message([NAMESPACE, DIGEST, made_field(2, b"\x01" + bytes(7))]), "user key"),
        (made_message([NAMESPACE, DIGEST, made_field(2, b"\x13" + bytes(8))]), "user key"),
        (made_message([NAMESPACE, DIGEST], generation=65536), "generation"),
        (made_message([NAMESPACE, DIGEST], [made_op(1, 1, b"i", bytes(8), flags=1)]), "unknown flags"),
        (made_message([NAMESPACE, DIGEST], [made_op(1, 1, b"", bytes(8))]), "without a name"),
        (made_message([NAMESPACE, DIGEST], [made_op(1, 21, b"u", bytes(8))]), "particle type"),
        (made_message([NAMESPACE, DIGEST], [made_op(1, 5, b"u", bytes(8))]), "particle type"),
        (made_message([NAMESPACE, DIGEST], [made_op(1, 1, b"i", bytes(4))]), "particle type does not allow"),
        (made_message([NAMESPACE, DIGEST], [made_op(1, 2, b"d", bytes(4))]), "particle type does not allow"),
        (made_message([NAMESPACE, DIGEST], [made_op(1, 0, b"n", b"x")]), "particle type does not allow"),
        (made_message([NAMESPACE, DIGEST], [made_op(1, 17, b"z", b"\2")]), "particle type does not allow"),
        (made_message([NAMESPACE, DIGEST], [made_op(1, 17, b"z", b"")]), "particle type does not allow"),
        (made_message([NAMESPACE, DIGEST], [made_op(1, 23, b"g", b"\0\0")]), "particle type does not allow"),
        (made_message([NAMESPACE, DIGEST], [made_op(1, 23, b"g", b"\0\0\2cellcell")]), "does not allow"),
        (made_message([NAMESPACE, DIGEST], info3=8), "info3"),
        (made_message(info3=4, result=11, generation=4096), "partition number"),
        (LAST + LAST, "behind the last message"),
        (b"\x17" + LAST[1:], "22 bytes"),
        (made_message([NAMESPACE, DIGEST])[:20] + b"\0\1", "do not fit"),
        (made_message([b"\0\0\0\0" + b"\0"]), "do not fit"),
        (made_message([NAMESPACE, DIGEST], [struct.pack(">IBBBB", 4, 1, 3, 0, 1)]), "do not fit"),
        (made_message([NAMESPACE, b"\xff\xff\xff\xff\x04"]), "do not fit"),
    ],
)
def test_what_the_protocol_does_not_allow_is_named_and_nothing_of_it_written(message, reason):
    run = Run().read(made_frame(SAMPLE[1].message(), message))
    assert run.status == kernel.BROKEN
    assert reason in kernel.reason(int(run.state[kernel.WHY]))
    assert run.output == SAMPLE[1].expected_text()
    assert run.counts.sum() == run.state[kernel.RECORDS] == 1
    assert run.state[kernel.OFFSET] >= 8


@pytest.mark.parametrize(
    "head", [b"\1\3" + bytes(5) + b"\x16", b"\2\4" + bytes(5) + b"\x16", b"\2\3" + bytes(6), b"\2\3" + b"\xff" * 6]
)
def test_a_frame_of_another_kind_or_size_is_broken(head):
    run = Run().read(head + LAST)
    assert run.status == kernel.BROKEN
    assert "frame" in kernel.reason(int(run.state[kernel.WHY]))


def test_a_partition_that_the_node_does_not_have_is_noted_and_the_answer_goes_on():
    gone = made_message(info3=4, result=11, generation=4095)
    there = made_message(info3=4, result=0, generation=17)
    run = Run().read(made_frame(gone, SAMPLE[0].message(), there) + made_frame(LAST))
    assert (run.status, run.output) == (kernel.DONE, SAMPLE[0].expected_text())
    assert np.flatnonzero(run.unavailable).tolist() == [4095]
    assert run.unavailable[4095] == 11


def test_last_carries_the_result_code():
    run = Run().read(made_frame(made_message(info3=1, result=18)))
    assert (run.status, run.state[kernel.RESULT]) == (kernel.DONE, 18)


def test_a_refusal_is_told_apart_from_an_end():
    run = Run().read(made_frame(made_message(result=20)))
    assert (run.status, run.state[kernel.RESULT]) == (kernel.REFUSED, 20)


def test_several_frames_may_follow_in_one_buffer_and_nothing_behind_last_is_touched():
    stream = answer(SAMPLE) + b"the next answer"
    run = Run()
    src, out = Guarded(stream), Guarded(4096)
    tally = (run.counts, run.fingerprints, run.last, run.seen, run.unavailable)
    pos, _, status = kernel.encode(src.array, 0, len(stream), out.array, 0, run.state, *tally)
    assert status == kernel.DONE
    assert stream[pos:] == b"the next answer"


# ---------------------------------------------------------------- a real server's answers


QUERIES = ("asbackup", "query_", "scan_partition", "sindex_query")


@pytest.mark.parametrize(("name", "data", "whole"), captured_answers(), ids=lambda v: v if isinstance(v, str) else "")
def test_every_captured_frame_is_read_and_every_cut_of_it_needs_more(name, data, whole):
    run = Run().read(data)
    if name.startswith(QUERIES) and whole:
        assert run.status in (kernel.NEED_MORE, kernel.DONE)
        assert run.state[kernel.FRAME_LEFT] == 0
        assert (run.status == kernel.DONE) == (len(data) == 30)
        assert Scan().read(run.output).status == kernel.DONE
        assert run.output.count(b"\n+ d ") == run.state[kernel.RECORDS] == run.counts.sum()
        assert bool(run.output) == (len(data) > 30)
    else:  # answers to single and batch requests hold no digest, so they are no records of a query
        assert run.status in (kernel.DONE, kernel.REFUSED, kernel.NEED_MORE, kernel.BROKEN)
    for size in range(len(data)):
        cut = Run().read(data[:size])
        assert cut.status in (kernel.NEED_MORE, run.status)
        assert run.output.startswith(cut.output)


def test_the_captured_answer_to_asbackup_becomes_these_records():
    frames = [data for name, data, _ in captured_answers() if name in ("asbackup[43]", "asbackup[45]")]
    run = Run().read(b"".join(frames))
    assert run.status == kernel.DONE
    assert run.output == (
        b"+ k S 2 k1\n+ n dmp\n+ d YaY96VHsJ/YqRE40Y6zphwxENG8=\n+ s wire\n+ g 4\n+ t 0\n+ b 7\n"
        b"- I i -41\n- S s 5 hello\n- D f 1.5\n- B! b 3 \x00\x01\xfe\n- L! l 5 \x92\x01\xa2\x03a\n"
        b"- M! m 5 \x81\xa2\x03k\x01\n- Z t T\n"
    )


# ---------------------------------------------------------------- doubles


def as_bits(values: np.ndarray) -> list[bytes]:
    raw = values.astype(">f8").tobytes()
    return [raw[at : at + 8] for at in range(0, len(raw), 8)]


def printed(values: np.ndarray) -> list[bytes]:
    """Each value as the kernel writes it."""
    texts: list[bytes] = []
    for start in range(0, len(values), 60_000):
        some = values[start : start + 60_000]
        bins = tuple((b"d", 2, bits) for bits in as_bits(some))
        run = Run().read(answer([WireRecord(bytes(20), bins=bins)]), room=1 << 22)
        assert run.status == kernel.DONE
        texts += [line[6:] for line in run.output.splitlines() if line.startswith(b"- D d ")]
        back, _, status, _ = rows(run.output, room=1 << 21)
        assert status == kernel.DONE
        wanted = tuple((b"d", 2, bits) for bits in as_bits(np.where(np.isnan(some), np.nan, some)))
        assert back == [WireRecord(bytes(20), bins=wanted).expected_row(0, 1, 16)]
    return texts


COUNT = 300 if PLAIN_PYTHON else 60_000


@pytest.mark.parametrize(
    "kind",
    ["bits", "uniform", "cents", "integers", "1e15..1e23", "ties", "subnormal", "sparse", "near powers of ten"],
)
def test_doubles_are_written_as_printf_does_and_read_back_to_the_bit(kind):
    rng = np.random.default_rng(20261123)
    bits = rng.integers(0, 1 << 64, COUNT, np.uint64)
    powers = np.resize([float(f"1e{n}") for n in range(-323, 309)], COUNT)
    values = {
        "bits": lambda: bits.view(np.float64),
        "uniform": lambda: rng.random(COUNT) * 1000,
        "cents": lambda: rng.integers(-(10**9), 10**9, COUNT) / 100,
        "integers": lambda: rng.integers(-(1 << 60), 1 << 60, COUNT).astype(np.float64),
        "1e15..1e23": lambda: 10 ** rng.uniform(15, 23, COUNT),
        "ties": lambda: rng.integers(1 << 52, 1 << 53, COUNT) * 2.0 ** rng.integers(-60, 60, COUNT),
        "subnormal": lambda: (bits & np.uint64((1 << 52) - 1)).view(np.float64),
        "sparse": lambda: rng.integers(1, 1 << 12, COUNT) * 2.0 ** rng.integers(-1060, 1000, COUNT),
        "near powers of ten": lambda: (powers.view(np.int64) + rng.integers(-2, 3, COUNT)).view(np.float64),
    }[kind]()
    expected = [b"%.17g" % value for value in values.tolist()]
    assert printed(values) == expected


def test_doubles_that_have_no_digits_are_written_for_every_reader():
    texts = printed(np.array([np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0]))
    assert texts == [b"nan", b"nan", b"inf", b"-inf", b"0", b"-0"]


@check
@given(doubles, st.integers(1, 40), st.booleans())
def test_doubles_of_any_precision_are_read_as_python_reads_them(value, digits, plain):
    """Other writers print fewer or more digits, and without exponent."""
    text = (f"{value:.{digits}f}" if plain and abs(value) < 1e40 else f"{value:.{digits}g}").encode()
    record = b"+ n n\n+ d " + b"A" * 27 + b"=\n+ g 0\n+ t 0\n+ b 1\n- D d " + text + b"\n"
    found, _, status, _ = rows(record)
    assert status == kernel.DONE
    assert found[0][-8:] == struct.pack(">d", float(text) if value == value else float("nan"))


@pytest.mark.parametrize(
    "text",
    ["1e400", "1e-400", "0e999", "1" * 400, "0." + "0" * 330 + "1", "9007199254740993", "9007199254740992.5",
     "9007199254740993.00000000000000000000000000000001", "2.2250738585072011e-308", "1.7976931348623158e308",
     "1.7976931348623159e308", "4.9e-324", "2.4e-324", "2.5e-324", "+1", ".5", "5.", "-.5e+3", "INF", "-Infinity",
     "000000000000000000000000000001", "0.00000000000000000000000000000123456789012345678901"],
)  # fmt: skip
def test_unusual_numbers_are_read_as_python_reads_them(text):
    record = b"+ n n\n+ d " + b"A" * 27 + b"=\n+ g 0\n+ t 0\n+ b 1\n- D d " + text.encode() + b"\n"
    found, _, status, _ = rows(record)
    assert status == kernel.DONE
    assert found[0][-8:] == struct.pack(">d", float(text))


# ---------------------------------------------------------------- text -> rows


@check
@given(st.lists(wire_records, max_size=4), st.booleans())
def test_any_record_survives_wire_to_text_to_wire(records, compact):
    text = Run().read(answer(records)).output
    if not compact:
        one = [record for record in records if record.namespace == b"bidder"]
        records, text = one, base64_text(Run().read(answer(one)).output)
    found, voids, status, state = rows(text)
    assert status == kernel.DONE
    assert found == [record.expected_row(i, 0x01, 0x10) for i, record in enumerate(records)]
    assert voids == [record.void_time for record in records]
    assert state[kernel.RECORDS] == len(records)


@check
@given(st.lists(wire_records, max_size=4), st.integers(0, 600), st.integers(1, 5))
def test_room_and_batch_size_do_not_change_the_rows(records, room, limit):
    text = Run().read(answer(records)).output
    found, _, status, _ = rows(text, room=room, limit=limit)
    assert status == kernel.DONE
    expected = [record.expected_row(0, 1, 16)[4:] for record in records]
    assert [row[4:] for row in found] == expected


def test_a_restore_may_name_another_namespace():
    found, _, _, _ = rows(SAMPLE_TEXT, namespace=b"scratch")
    renamed = [WireRecord(**{**record.__dict__, "namespace": b"scratch"}) for record in SAMPLE]
    assert found == [record.expected_row(i, 1, 16) for i, record in enumerate(renamed)]


@pytest.mark.parametrize(("now", "left"), [(533080878, 3), (533080879, 2), (533080880, 2)])
def test_records_whose_time_is_over_are_left_out_and_counted(now, left):
    found, voids, status, state = rows(SAMPLE_TEXT, now=now)
    assert (status, len(found), state[kernel.EXPIRED]) == (kernel.DONE, left, 3 - left)
    kept = [record for record in SAMPLE if not record.void_time or record.void_time > now]
    assert found == [record.expected_row(i, 1, 16, now) for i, record in enumerate(kept)]
    assert voids == [record.void_time for record in kept]


def test_a_bin_name_that_the_wire_cannot_hold_is_refused():
    record = b"+ n n\n+ d " + b"A" * 27 + b"=\n+ g 0\n+ t 0\n+ b 1\n- N " + b"x" * 256 + b"\n"
    assert Scan().read(record).status == kernel.DONE
    _, _, status, state = rows(record)
    assert status == kernel.BROKEN
    assert "too long for the wire" in kernel.reason(int(state[kernel.WHY]))


# ---------------------------------------------------------------- the strict scan


def body(name: str) -> bytes:
    """Records of a golden file."""
    with (GOLDEN / "asb" / name).open("rb") as stream:
        head = asb.read_header(stream)
        return head.rest + stream.read()


@pytest.mark.parametrize("name", ["facts.asb", "facts_compact.asb", "facts_nobins.asb", "setsp.asb"])
def test_files_of_asbackup_are_scanned_whole(name):
    text = body(name)
    scan = Scan().read(text)
    assert (scan.status, scan.pos) == (kernel.DONE, len(text))
    digests = [line for line in text.split(b"\n") if line.startswith(b"+ d ")]
    assert scan.counts.sum() == scan.state[kernel.RECORDS] == len(digests)


def test_files_of_asbackup_give_the_same_rows_in_both_forms():
    compact, _, _, _ = rows(body("facts_compact.asb"))
    plain, _, _, _ = rows(body("facts.asb"))
    assert sorted(row[4:] for row in compact) == sorted(row[4:] for row in plain)
    assert len(compact) == 7


@check
@given(st.lists(wire_records, max_size=4))
def test_a_scan_counts_and_fingerprints_what_was_written(records):
    run = Run().read(answer(records))
    scan = Scan().read(run.output)
    assert (scan.status, scan.pos) == (kernel.DONE, len(run.output))
    assert (scan.counts == run.counts).all()
    assert (scan.fingerprints == run.fingerprints).all()


@check
@given(st.lists(wire_records, max_size=3), st.lists(st.integers(0, 200), max_size=30))
def test_a_scan_in_chunks_finds_the_same(records, chunks):
    text = Run().read(answer(records)).output
    scan, once = Scan().read(text, chunks), Scan().read(text)
    assert (scan.status, scan.pos) == (kernel.DONE, len(text))
    assert (scan.fingerprints == once.fingerprints).all()


def test_text_cut_anywhere_but_behind_a_record_is_broken_when_it_is_all():
    text = SAMPLE_TEXT + base64_text(SAMPLE_TEXT)
    ends = {0, len(text)}
    for record in SAMPLE:
        ends |= {max(ends - {len(text)}) + len(record.expected_text())}
    start = max(ends - {len(text)})
    for record in SAMPLE[:-1]:
        start += len(base64_text(record.expected_text()))
        ends.add(start)
    for size in range(len(text)):
        whole, open_end = Scan().read(text[:size]), Scan().read(text[:size], cut=True)
        assert (whole.status == kernel.DONE) == (size in ends)
        assert open_end.status == kernel.NEED_MORE
        assert open_end.pos == whole.pos == max(end for end in ends if end <= size)
        if whole.status == kernel.BROKEN:
            assert "the end of the text" in kernel.reason(int(whole.state[kernel.WHY]))
            assert whole.state[kernel.OFFSET] == size
        _, _, status, _ = rows(text[:size])
        assert status == whole.status


def strict_reader_takes(text: bytes) -> bool | None:
    """What the independent reader in plain Python says; None when only the namespace is another one."""
    try:
        for _ in asb.read(io.BytesIO(HEADER + text))[1]:
            pass
    except asb.AsbError as problem:
        return None if "namespace bidder of the file" in str(problem) else False
    return True


@check
@given(st.randoms(use_true_random=False), st.booleans())
def test_the_kernel_and_the_plain_reader_agree_on_damaged_text(rng, compact):
    text = bytearray(SAMPLE_TEXT if compact else base64_text(SAMPLE_TEXT))
    for _ in range(rng.randint(1, 2)):
        at = rng.randrange(len(text))
        edit = rng.randrange(3)
        if edit == 0:
            text[at] = rng.choice([*b" \n\\+-0123456789!=.eTFBNZ", rng.randrange(256)])
        elif edit == 1:
            del text[at]
        else:
            text.insert(at, rng.choice(b" \n\\+-0123456789!=.eTFBNZ"))
    assume(text[:1] not in (b"*", b"#"))  # more header, which is not the kernel's
    scan = Scan().read(bytes(text))
    _, _, status, _ = rows(bytes(text))
    assert scan.status == status
    strict = strict_reader_takes(bytes(text))
    assert strict is None or strict == (scan.status == kernel.DONE)


RECORD = b"+ n n\n+ d " + b"A" * 27 + b"=\n+ s s\n+ g 1\n+ t 2\n+ b 1\n- I i 3\n"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"+ n n", b"+ x n", "no record"),
        (b"+ n n", b"* i n", "no record"),
        (b"+ n n", b"+ k Q 1\n+ n n", "user key"),
        (b"+ n n", b"+ k I 1\n+ s n", "no namespace line"),
        (b"+ n n", b"+ n ", "a name"),
        (b"+ n n", b"+ n " + b"n" * 1000, "a name"),
        (b"+ n n", b"+ n a b", "a name"),
        (b"+ d ", b"+ e ", "digest"),
        (b"AAA=", b"AAAA", "digest"),
        (b"AAA=", b"AA==", "digest"),
        (b"AAA=", b"AAB=", "digest"),
        (b"AAA=", b"A%A=", "digest"),
        (b"+ s s", b"+ s ", "a name"),
        (b"+ g 1\n", b"", "generation"),
        (b"+ g 1", b"+ g 65536", "whole number"),
        (b"+ g 1", b"+ g -1", "whole number"),
        (b"+ g 1", b"+ g ", "whole number"),
        (b"+ t 2\n", b"", "void-time"),
        (b"+ t 2", b"+ t 4294967296", "whole number"),
        (b"+ t 2", b"+ t 000000000000000000002", "whole number"),
        (b"+ b 1\n", b"", "bin-count"),
        (b"+ b 1", b"+ b 2", "end of the text"),
        (b"+ b 1", b"+ b 0", "no record"),
        (b"- I i", b"+ I i", "no bin line"),
        (b"- I i", b"- Q i", "unknown type"),
        (b"- I i", b"- I! i", "unknown type"),
        (b"- I i", b"- U i", "large-data-type"),
        (b"- I i", b"- I ", "a name"),
        (b"i 3", b"i 9223372036854775808", "whole number"),
        (b"i 3", b"i -9223372036854775809", "whole number"),
        (b"i 3", b"i +3", "whole number"),
        (b"i 3", b"i -", "whole number"),
        (b"- I i 3", b"- Z i t", "neither T nor F"),
        (b"- I i 3", b"- D i 1E5", "floating-point"),
        (b"- I i 3", b"- D i 1e", "floating-point"),
        (b"- I i 3", b"- D i .", "floating-point"),
        (b"- I i 3", b"- D i nano", "floating-point"),
        (b"- I i 3", b"- D i 1.2.3", "floating-point"),
        (b"- I i 3", b"- D i " + b"0" * 1001, "floating-point"),
        (b"- I i 3", b"- S i 1 ab", "line feed"),
        (b"- I i 3", b"- S i 134217729 a", "whole number"),
        (b"- I i 3", b"- B i 3 AAA", "length"),
        (b"- I i 3", b"- B i 4 AAA\xff", "base64"),
        (b"- I i 3", b"- B i 4 A===", "base64"),
        (b"- I i 3", b"- B i 4 AAB=", "base64"),
        (b"- I i 3", b"- X i 4 A=AA", "base64"),
    ],
)
def test_what_the_format_does_not_allow_is_named(old, new, reason):
    text = RECORD.replace(old, new, 1)
    assert text != RECORD
    assert Scan().read(RECORD).status == kernel.DONE
    scan = Scan().read(RECORD + text)
    assert scan.status == kernel.BROKEN
    assert reason in kernel.reason(int(scan.state[kernel.WHY]))
    assert scan.pos == len(RECORD) or reason == "no record"
    assert scan.state[kernel.OFFSET] >= len(RECORD)
    assert strict_reader_takes(text.replace(b"+ n n\n", b"+ n bidder\n")) is False


@pytest.mark.parametrize(
    ("line", "kind", "value"),
    [
        (b"- X b 4 YWI=", 3, b"ab"),
        (b"- S b 2 ab", 3, b"ab"),
        (b"- B b 0 ", 4, b""),
        (b"- B! b 0 ", 4, b""),
        (b"- B b 8 AAECAwQF", 4, bytes(range(6))),
        (b"- Y b 4 AA==", 18, b"\0"),
        (b"- I b -0", 1, bytes(8)),
        (b"- G b 2 {}", 23, b"\0\0\0{}"),
    ],
)
def test_older_and_plain_forms_of_a_value_are_read(line, kind, value):
    record = RECORD.replace(b"- I i 3", line)
    found, _, status, _ = rows(record)
    assert status == kernel.DONE
    assert found[0].endswith(made_op(2, kind, b"b", value))


def test_keys_in_base64_are_read():
    for line, key in ((b"+ k X 4 YWI=", (3, b"ab")), (b"+ k B 4 YWI=", (4, b"ab")), (b"+ k B! 2 ab", (4, b"ab"))):
        found, _, _, _ = rows(line + b"\n" + RECORD)
        assert made_field(2, bytes([key[0]]) + key[1]) in found[0]


def test_names_of_version_3_0_are_not_escaped():
    record = RECORD.replace(b"+ s s", b"+ s a b\\n").replace(b"- I i ", b"- I i\\ ")
    assert Scan().read(record).status == kernel.BROKEN
    scan = Scan()
    scan.state[kernel.LEGACY] = 1
    assert scan.read(record).status == kernel.DONE
    found, _, _, _ = rows(record, legacy=True)
    assert made_field(1, b"a b\\n") in found[0]
    assert found[0].endswith(made_op(2, 1, b"i\\", struct.pack(">q", 3)))


# ---------------------------------------------------------------- both modes, and the cache


def test_every_particle_type_is_covered():
    text = Run().read(answer([WireRecord(bytes(20), bins=SAMPLE[0].bins)])).output
    kinds = {kind for _, kind, _ in SAMPLE[0].bins}
    assert kinds | {7, 8, 9, 10, 11, 12} == set(PARTICLES)
    assert text.count(b"\n- ") == len(SAMPLE[0].bins)


@pytest.mark.skipif(not PLAIN_PYTHON, reason="compiled code checks nothing")
def test_plain_python_refuses_what_lies_outside_an_array():
    array = np.zeros(8, np.uint8)
    for outside in (
        lambda: kernel._load64(array, 1),
        lambda: kernel._load8(array, -1),
        lambda: kernel._store16(array, 7, 0),
        lambda: kernel._copy(array, 0, array, 4, 5),
    ):
        with pytest.raises(IndexError):
            outside()


@pytest.mark.skipif(PLAIN_PYTHON, reason="nothing is compiled without JIT")
def test_a_second_process_compiles_nothing():
    Run().read(answer(SAMPLE))
    code = (
        "import numpy as np; from dbops.aerospike import kernel as k\n"
        "assert not k.encode.signatures\n"
        "b = lambda n: np.zeros(n, np.uint8)\n"
        "r = k.encode(b(8), 0, 0, b(8), 0, np.zeros(16, np.int64), np.zeros(4096, np.int64),\n"
        "  np.zeros(4096, np.uint64), np.zeros((4096, 20), np.uint8), b(4096), b(4096))\n"
        "s = k.encode.stats\n"
        "print(r, sum(s.cache_hits.values()), sum(s.cache_misses.values()))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert found.stdout.split() == ["(0,", "0,", "0)", "1", "0"], found.stderr


@pytest.mark.skipif(PLAIN_PYTHON, reason="is that run")
@pytest.mark.slow
def test_everything_holds_as_plain_python():
    """Without JIT the primitives refuse any byte outside their array, so this run also proves the measuring."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    assert "passed" in done.stdout


def test_random_garbage_is_never_taken_for_records():
    rng = random.Random(20261123)
    for _ in range(50 if PLAIN_PYTHON else 2000):
        junk = rng.randbytes(rng.randrange(1, 400))
        assert Scan().read(junk).status == kernel.BROKEN
        assert Run().read(b"\2\3" + bytes(4) + struct.pack(">H", len(junk)) + junk).status != kernel.DONE
