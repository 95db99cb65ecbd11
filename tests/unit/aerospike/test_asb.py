"""Backup files: real ones are read and written again to the byte, damaged ones are refused with the place named."""

from __future__ import annotations

import io
import random

import pytest
import zstandard
from answers import GOLDEN, Run, answer, wire_records
from dbops.aerospike import asb
from hypothesis import given, settings
from hypothesis import strategies as st

FILES = ["facts.asb", "facts_compact.asb", "facts_nobins.asb", "setsp.asb"]
COMPACT = {"facts_compact.asb", "setsp.asb"}
HEAD = b"Version 3.1\n# namespace n\n"
RECORD = b"+ n n\n+ d " + b"A" * 27 + b"=\n+ g 1\n+ t 2\n+ b 1\n- I i 3\n"


def golden(name: str) -> bytes:
    return (GOLDEN / "asb" / name).read_bytes()


def said(name: str) -> str:
    """What a real server answered to an info command."""
    return (GOLDEN / "info" / f"{name}.txt").read_text().split("\t", 1)[1].rstrip("\n")


def read_all(data: bytes, namespace: str | None = None) -> tuple[asb.Header, list[asb.Index | asb.Udf | asb.Record]]:
    header, entries = asb.read(asb.open_asb(io.BytesIO(data)), namespace)
    return header, list(entries)


def texts(data: bytes) -> list[bytes]:
    """Header and entries, comparable (a NaN is not equal to itself)."""
    header, entries = read_all(data)
    return [header.text(), *(entry.text() for entry in entries)]


def refusal(data: bytes, namespace: str | None = None) -> asb.AsbError:
    with pytest.raises(asb.AsbError) as problem:
        read_all(data, namespace)
    return problem.value


# ---------------------------------------------------------------- files of the real asbackup


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_asbackup_is_read_and_written_again_to_the_byte(name):
    header, entries = read_all(golden(name), "bidder")
    compact = name in COMPACT
    text = [entry.text(compact) if isinstance(entry, asb.Record) else entry.text() for entry in entries]
    assert header.text() + b"".join(text) == golden(name)
    assert sum(isinstance(entry, asb.Record) for entry in entries) == (1 if name == "setsp.asb" else 7)


def test_both_forms_of_asbackup_hold_the_same_records():
    assert sorted(texts(golden("facts.asb"))) == sorted(texts(golden("facts_compact.asb")))


def test_values_of_a_real_file_are_what_was_stored():
    records = {e.key.value: e for e in read_all(golden("facts.asb"))[1] if isinstance(e, asb.Record) and e.key}
    values = {item.name: item.value for item in records[b"all-types"].bins}
    assert (values["int"], values["big"], values["bool"]) == (-42, (1 << 63) - 1, True)
    assert (values["str"], values["bytes"]) == (b"plain", b"\0\1\xfehello")
    assert records[b"strings"].bins[0] == asb.Bin("nl", "S", b"line1\nline2 with space\\back")
    assert records[b"strings"].bins[3].name == "bin w sp"
    assert records[b"all-types"].void_time == 535668841
    assert records[12345].key == asb.Key("I", 12345)
    assert records[b"gen5"].generation == 5


def test_lines_before_the_records_come_from_what_the_server_says_to_the_byte():
    text = asb.header("bidder", first_file=True)
    indexes = list(asb.index_lines(said("sindex_list_namespace_bidder_b64_true")))
    text += b"".join(line for line, _ in indexes)
    for name in asb.udf_names(said("udf_list")):
        text += asb.udf_line(name, said("udf_get_filename_facts_lua"))
    assert golden("facts.asb").startswith(text + b"+ k ")
    assert indexes[0][1] == "facts_int_idx"
    assert asb.version_for(said("sindex_list_namespace_bidder_b64_true")) == "3.1"


@pytest.mark.parametrize("name", FILES)
def test_the_records_of_a_file_begin_where_its_preamble_ends(name):
    stream = io.BytesIO(golden(name))
    found = asb.read_header(stream, "bidder")
    assert found.rest + stream.read() == golden(name)[found.size :]
    assert found.rest.startswith((b"+ k ", b"+ n "))
    assert (len(found.indexes), len(found.udfs)) == ((0, 1) if name == "setsp.asb" else (6, 1))
    assert found.header.first_file


# ---------------------------------------------------------------- any record


@settings(max_examples=100, deadline=None)
@given(st.lists(wire_records, max_size=4), st.booleans())
def test_what_the_kernel_writes_is_read_and_written_again(records, compact):
    records = [record for record in records if record.namespace == b"bidder"]
    text = Run().read(answer(records)).output
    _, entries = read_all(asb.header("bidder") + text)
    again = b"".join(entry.text(compact) for entry in entries if isinstance(entry, asb.Record))
    assert compact is False or again == text
    assert b"".join(entry.text() for entry in read_all(asb.header("bidder") + again)[1]) == text


name = st.one_of(st.text(min_size=1, max_size=15), st.text(" \n\\a", min_size=1, max_size=15))


@settings(deadline=None)
@given(
    st.builds(asb.Udf, name.filter(lambda v: v.isprintable() or v.strip()), st.binary(max_size=50)),
    st.builds(
        asb.Index,
        name,
        st.one_of(st.just(""), name),
        name,
        *map(st.sampled_from, ["NLKV"]),
        name,
        st.sampled_from("NSGB"),
        st.sampled_from([None, "kiKiA2s="]),
    ),
)
def test_indexes_and_udfs_are_read_as_written(udf, index):
    _, entries = read_all(HEAD + index.text() + udf.text() + RECORD)
    assert entries[:2] == [index, udf]


# ---------------------------------------------------------------- compressed


def packed(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def test_zstd_is_recognised_and_several_frames_are_one_file():
    text = golden("facts.asb")
    whole = texts(text)
    assert texts(packed(text)) == whole
    pieces = b"".join(packed(text[at : at + 100]) for at in range(0, len(text), 100))
    assert texts(pieces) == whole
    assert texts(pieces + packed(b"")) == whole


def test_a_compressed_file_cut_anywhere_but_between_frames_is_refused():
    text = golden("facts_compact.asb")
    cut = text.index(b"+ k S 3 hll")
    first = packed(text[:cut])
    data = first + packed(text[cut:])
    for size in range(4, len(data)):
        if size == len(first):
            assert len(read_all(data[:size])[1]) == 8
        else:
            assert "cut off" in str(refusal(data[:size]))


def test_a_flipped_bit_in_compressed_data_with_a_checksum_is_refused_or_changes_nothing():
    text = golden("facts.asb")
    data = zstandard.ZstdCompressor(write_checksum=True).compress(text)
    harmless = 0
    for at in range(4, len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 0x10
        try:
            found = asb.open_asb(io.BytesIO(bytes(damaged))).read()
        except asb.AsbError:
            continue
        assert found == text
        harmless += 1
    assert harmless < 5  # zstd has a few bits that mean nothing


def test_large_compressed_text_is_read_in_pieces():
    text = HEAD + RECORD * 20_000
    stream = asb.open_asb(io.BytesIO(packed(text)))
    assert b"".join(iter(lambda: stream.read(7001), b"")) == text


def test_opened_raw_a_compressed_file_says_what_to_do():
    with pytest.raises(asb.AsbError, match=r"zstd.*open_asb"):
        asb.read(io.BytesIO(packed(golden("facts.asb"))))


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_anywhere_but_behind_an_entry_is_refused(name):
    data = golden(name)
    header, entries = read_all(data)
    lines = [e.text(name in COMPACT) if isinstance(e, asb.Record) else e.text() for e in entries]
    ends = {data.index(b"# first-file"), len(header.text())}
    for line in lines:
        ends.add(max(ends) + len(line))
    whole = texts(data)
    for size in range(len(data)):
        if size in ends:
            assert texts(data[:size])[1:] == whole[1 : len(texts(data[:size]))]
        else:
            problem = refusal(data[:size])
            assert problem.offset is not None
            assert problem.offset <= size
            assert problem.line == data[: problem.offset].count(b"\n") + 1


def test_random_damage_never_gives_anything_but_records_or_a_named_place():
    rng = random.Random(20261123)
    data = golden("facts.asb")
    refused = []
    for _ in range(1000):
        damaged = bytearray(data)
        damaged[rng.randrange(len(data))] = rng.randrange(256)
        try:
            read_all(bytes(damaged))
        except asb.AsbError as problem:
            refused.append(problem)
    assert len(refused) > 300
    assert all(problem.line and problem.offset is not None for problem in refused)


@pytest.mark.parametrize(
    ("data", "line", "expected"),
    [
        (b"", 1, "'Version '"),
        (b"PK\3\4", 1, "not an .asb file"),
        (b"Version 3.3\n", 1, "3.0, 3.1, 3.2"),
        (b"Version 3.1\r\n", 1, "3.1"),
        (b"Version 3.1\n", 2, "'# namespace '"),
        (b"Version 3.1\n# comment\n", 2, "'# first-file'"),
        (HEAD + b"# namespace n\n", 3, "each once"),
        (HEAD + b"# first-file\n# first-file\n", 4, "each once"),
        (HEAD + b"* x n\n", 3, "'* i '"),
        (b"Version 3.0\n# namespace n\n* i n s i N 1 b N\n", 3, "a record"),
        (HEAD + b"* e n s i N 1 b N AAAA\n", 3, "3.2"),
        (HEAD + b"* i n s i Q 1 b N\n", 3, "an index type"),
        (HEAD + b"* i n s i N 2 b N\n", 3, "1 path"),
        (HEAD + b"* i n s i N 1 b I\n", 3, "a data type"),
        (HEAD + b"* i n s i N 1 b N A=A\n", 3, "base64"),
        (HEAD + b"* i n s i N 1 b N AAAA AAAA\n", 3, "end of the index line"),
        (HEAD + b"* u P f 1 a\n", 3, "Lua"),
        (HEAD + b"* u L f 3 a\n", 3, "3 bytes"),
        (HEAD + RECORD + RECORD.replace(b"+ n n", b"+ n m"), 10, "namespace n of the file"),
        (HEAD + RECORD + b"\n", 9, "'+ n '"),
        (HEAD + RECORD + b"* i n s i N 1 b N\n", 9, "a record"),
        (HEAD + RECORD.replace(b"- I i 3", b"- U i 3"), 8, "large data types"),
        (HEAD + RECORD.replace(b"- I i 3", b"- S i 9 a"), 8, "9 bytes of bin 'i'"),
        (HEAD + RECORD.replace(b"- I i 3", b"- S i 1 ab"), 8, "a line feed behind"),
    ],
)
def test_an_error_names_the_line_and_what_was_expected(data, line, expected):
    problem = refusal(data)
    assert expected in str(problem)
    assert str(problem).startswith(f"line {line}, byte {problem.offset}: found ")


def test_a_file_of_another_namespace_is_refused():
    problem = refusal(golden("facts.asb"), "dmp")
    assert "bidder" in str(problem)
    assert "namespace dmp" in str(problem)


# ---------------------------------------------------------------- versions


def test_version_3_0_takes_names_as_they_are():
    text = RECORD.replace(b"+ g 1", b"+ s a b\\\n+ g 1")
    _, entries = read_all(HEAD.replace(b"3.1", b"3.0") + text)
    assert entries[0].set == "a b\\"
    assert "a set" in str(refusal(HEAD + text))


def test_version_3_2_holds_indexes_on_expressions():
    listed = "ns=n:indexname=i:set=null:bin=null:type=numeric:indextype=default:context=null:exp=kwFR:state=RW"
    assert asb.version_for(listed) == "3.2"
    [(line, name)] = asb.index_lines(listed, "3.2")
    header, [index] = read_all(asb.header("n", version="3.2") + line)
    assert (header.version, name) == ("3.2", "i")
    assert index == asb.Index("n", "", "i", "N", "", "N", expression="kwFR")
    with pytest.raises(asb.AsbError, match=r"index i: .*expression"):
        list(asb.index_lines(listed))


def test_older_forms_of_strings_and_keys_are_read():
    text = b"+ k X 4 YWI=\n" + RECORD.replace(b"- I i 3", b"- X i 4 YWI=")
    [record] = read_all(HEAD + text)[1]
    assert record.key == asb.Key("S", b"ab")
    assert record.bins == (asb.Bin("i", "S", b"ab"),)


# ---------------------------------------------------------------- what a server may say


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        ("set=NULL:bin=b:type=string:indextype=none:context=NULL", b"* i n  i N 1 b S\n"),
        ("set=null:bin=b:type=string:indextype=default:context=null", b"* i n  i N 1 b S\n"),
        ("set=s t:bin=b c:type=blob:indextype=mapvalues:context=null", b"* i n s\\ t i V 1 b\\ c B\n"),
        ("set=s:bin=null:type=geo2dsphere:indextype=list:context=null", b"* i n s i L 1 null G\n"),
    ],
)
def test_an_index_is_written_as_the_server_defines_it(entry, line):
    listed = f"ns=n:indexname=i:{entry}:state=RW"
    assert list(asb.index_lines(listed)) == [(line, "i")]


@pytest.mark.parametrize("kind", ["type=cosmic:indextype=default", "type=numeric:indextype=tree", "type=numeric"])
def test_an_index_of_an_unknown_kind_is_not_left_out_silently(kind):
    with pytest.raises(asb.AsbError, match=r"index i: .* not known"):
        list(asb.index_lines(f"ns=n:indexname=i:set=s:bin=b:{kind}:context=null:exp=null"))


def test_a_context_that_is_not_base64_says_how_to_ask():
    with pytest.raises(asb.AsbError, match="b64=true"):
        list(asb.index_lines(said("sindex_list_namespace_bidder")))


def test_errors_of_the_server_are_not_taken_for_empty_lists():
    with pytest.raises(asb.AsbError, match="ERROR:20"):
        list(asb.index_lines("ERROR:20:no such namespace"))
    with pytest.raises(asb.AsbError, match="ERROR:4"):
        asb.udf_names("ERROR:4:bad")
    with pytest.raises(asb.AsbError, match=r"UDF f\.lua.*not found"):
        asb.udf_line("f.lua", "error=not_found not found")
    with pytest.raises(asb.AsbError, match="PYTHON"):
        asb.udf_line("f", "type=PYTHON;content=YWI=;")
    with pytest.raises(asb.AsbError, match="base64"):
        asb.udf_line("f", "type=LUA;content=YW;")
    assert list(asb.index_lines("")) == asb.udf_names("") == []
