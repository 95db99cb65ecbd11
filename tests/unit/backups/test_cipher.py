"""Encrypted objects: asbackup's own framing, any range of them, and errors that never tell a key."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard
from cipher_samples import GOLDEN, KEY, OTHER_PEM, PEM, PRIVATE, body_of, leaks, pem_of
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
)
from dbops.aerospike import asb
from dbops.backups import cipher
from dbops.backups.cipher import (
    NO_KEYS,
    EncryptingWriter,
    Key,
    KeyMissing,
    Keys,
    KeyUnusable,
    NotEncrypted,
    WrongKey,
    check_start,
    decrypt,
    key_from_pem,
    open_writer,
    ranges,
)
from dbops.backups.manifest import Encryption, EncryptionMode
from dbops.backups.store import LocalStore, Store
from hypothesis import given, settings
from hypothesis import strategies as st

BODY = body_of(PEM)
OTHER = Key("aes256", bytes(32))
CURVE = ec.generate_private_key(ec.SECP256R1())
PASSPHRASE = BestAvailableEncryption(b"pass")
PUBLIC_PEM = PRIVATE.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def stored(store: Store, text: bytes, key: Key = KEY, name: str = "a/object") -> bytes:
    with open_writer(store, name, key) as writer:
        writer.write(text)
    return store.get(name)


class TestAgainstAsbackup:
    """Files of the real program, see the README beside them. Ours in its hands: tests/lab/test_encryption.py."""

    @pytest.mark.parametrize(
        ("name", "mode"),
        [
            ("aes128.asb", "aes128"),
            ("aes256.asb", "aes256"),
            ("aes128_zstd.asb", "aes128"),
            ("aes256_zstd_env.asb", "aes256"),
        ],
    )
    @pytest.mark.parametrize("size", [1, 17, 1 << 20])
    def test_its_files_are_read(self, name: str, mode: EncryptionMode, size: int) -> None:
        def records(text: io.BytesIO) -> list[bytes]:
            _, entries = asb.read(asb.open_asb(text), "bidder")
            return sorted(entry.text() for entry in entries)

        text = b"".join(decrypt(pieces((GOLDEN / name).read_bytes(), size), key_from_pem(PEM, mode)))
        expected = records(io.BytesIO((GOLDEN / "plain.asb").read_bytes()))
        assert records(io.BytesIO(text)) == expected
        assert len(expected) == 41  # an index too

    def test_a_file_without_records_is_read(self) -> None:
        data = (GOLDEN / "empty_aes128.asb").read_bytes()
        assert (
            b"".join(decrypt(iter([data]), key_from_pem(PEM, "aes128")))
            == b"Version 3.1\n# namespace dmp\n# first-file\n"
        )

    @pytest.mark.parametrize("key", [OTHER, key_from_pem(PEM, "aes128")], ids=["key", "mode"])
    @pytest.mark.parametrize("name", ["aes256.asb", "aes256_zstd_env.asb"])
    def test_a_wrong_key_or_mode_is_said_before_anything_is_parsed(self, name: str, key: Key) -> None:
        chunks = decrypt(iter([(GOLDEN / name).read_bytes()]), key)
        with pytest.raises(WrongKey, match=rf"x\.asb: is no backup file after decryption with the {key}: the key or"):
            next(check_start(chunks, "x.asb", key))

    def test_an_encrypted_file_without_a_key_is_told_from_a_broken_one(self) -> None:
        with pytest.raises(WrongKey, match=r"x\.asb: is neither \.asb text nor zstd: it may be encrypted"):
            next(check_start(iter([(GOLDEN / "aes128.asb").read_bytes()]), "x.asb", None))

    @pytest.mark.parametrize("size", [1, 3, 8, 100])
    def test_a_file_of_the_right_key_passes_whole(self, size: int) -> None:
        for text in ((GOLDEN / "plain.asb").read_bytes(), zstandard.compress(b"Version 3.1\n")):
            assert b"".join(check_start(pieces(text, size), "x.asb", KEY)) == text


@pytest.mark.parametrize("mode", ["aes128", "aes256"])
def test_what_we_write_is_what_openssl_makes_of_it(local: LocalStore, tmp_path: Path, mode: EncryptionMode) -> None:
    """The program, that is: another implementation than the library's, given key, counter and text."""
    text = os.urandom(100_003)
    key = key_from_pem(PEM, mode)
    data = stored(local, text, key)
    pkcs1 = base64.b64decode(BODY)
    secret = hashlib.sha256(pkcs1).digest()[: 16 if mode == "aes128" else 32]
    assert key.secret == secret
    bits = mode.removeprefix("aes")

    def openssl(data: bytes, *options: str) -> bytes:
        return subprocess.run(
            ["openssl", "enc", *options, "-K", secret.hex()], input=data, capture_output=True, check=True
        ).stdout

    start = openssl(data[:16], f"-aes-{bits}-ecb", "-d", "-nopad")
    counter = (int.from_bytes(start, "big") + 1) % (1 << 128)
    assert openssl(data[16:], f"-aes-{bits}-ctr", "-d", "-iv", f"{counter:032x}") == text


class TestKey:
    @pytest.mark.parametrize("mode", ["aes128", "aes256"])
    def test_all_forms_of_one_private_key_are_one_key(self, mode: EncryptionMode) -> None:
        pkcs1, pkcs8 = pem_of(PRIVATE, PrivateFormat.TraditionalOpenSSL), pem_of(PRIVATE, PrivateFormat.PKCS8)
        assert b"BEGIN RSA PRIVATE KEY" in pkcs1
        assert b"BEGIN PRIVATE KEY" in pkcs8
        forms = [
            pkcs1,
            pkcs8,
            pkcs1.replace(b"\n", b"\r\n"),
            pkcs1.replace(b"\n", b"\\n"),  # as an environment file writes it
            pkcs1.replace(b"\n", b" "),  # as a form of one line makes of it
            pkcs8.replace(b"\n", b""),
            body_of(pkcs1),  # asbackup --encryption-key-env
            b"some certificate\n-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n" + pkcs8,
        ]
        assert len({key_from_pem(form, mode) for form in forms}) == 1

    def test_fingerprints_tell_keys_and_modes_apart_and_hold_nothing_of_them(self) -> None:
        keys = [key_from_pem(pem, mode) for pem in (PEM, pem_of(PRIVATE, PrivateFormat.PKCS8)) for mode in cipher.MODES]
        assert len({key.fingerprint for key in keys}) == 4
        for key in keys:
            assert len(key.fingerprint) == 16
            assert key.fingerprint not in key.secret.hex() + hashlib.sha256(key.secret).hexdigest()
        assert KEY.fingerprint == key_from_pem(PEM, "aes256").fingerprint

    def test_no_text_of_a_key_shows_its_secret(self) -> None:
        keys = Keys.of("aes256", PEM)
        for shown in (repr(KEY), str(KEY), f"{KEY}", repr(keys), str(keys)):
            assert KEY.fingerprint in shown
            assert not leaks(shown)

    @pytest.mark.parametrize(
        ("pem", "reason"),
        [
            (lambda: pem_of(PRIVATE, PrivateFormat.PKCS8, PASSPHRASE), "protected by a passphrase"),
            (lambda: pem_of(PRIVATE, PrivateFormat.TraditionalOpenSSL, PASSPHRASE), "protected by a passphrase"),
            (lambda: body_of(pem_of(PRIVATE, PrivateFormat.PKCS8, PASSPHRASE)), "protected by a passphrase"),
            (lambda: pem_of(CURVE, PrivateFormat.PKCS8), "a key that is not RSA"),
            (lambda: pem_of(CURVE, PrivateFormat.TraditionalOpenSSL), "a key that is not RSA"),
            (lambda: PUBLIC_PEM, "holds a PUBLIC KEY and no private key"),
            (lambda: PEM[:-40], "not whole: its BEGIN or END line is missing"),
            (lambda: PEM.replace(BODY[80:84], b"????"), "is not base64"),
            (lambda: PEM.replace(BODY[:20], b"", 1), "no private key that can be read"),
            (lambda: BODY[:400], "the text without BEGIN and END lines holds no private key"),
            (lambda: b"", "holds no private key"),
            (lambda: b"correct horse battery staple", "the text without BEGIN and END lines "),
            (lambda: os.urandom(500), "the text without BEGIN and END lines "),
        ],
    )
    def test_what_is_no_rsa_key_is_refused_without_being_repeated(self, pem: Callable[[], bytes], reason: str) -> None:
        text = pem()
        with pytest.raises(KeyUnusable, match=reason) as caught:
            key_from_pem(text, "aes128")
        assert caught.value.__cause__ is None
        body = b"".join(text.split(b"-----")[2].split() if b"-----" in text else text.split())
        for at in range(0, len(body) - 8, 8):
            assert body[at : at + 8] not in str(caught.value).encode()

    def test_an_unknown_mode_is_refused(self) -> None:
        with pytest.raises(KeyUnusable, match="mode 'aes512' is not known; write aes128 or aes256"):
            key_from_pem(PEM, "aes512")  # type: ignore[arg-type]


class TestKeys:
    def test_a_plain_backup_needs_none(self) -> None:
        assert NO_KEYS.find(None) is None
        assert NO_KEYS.encryption is None
        assert Keys.of("aes128", PEM).find(None) is None

    def test_new_ones_take_the_key_in_use_and_older_ones_find_theirs_in_either_mode(self) -> None:
        keys = Keys.of("aes256", PEM, [OTHER_PEM])
        assert keys.encryption == Encryption(mode="aes256", key_fingerprint=KEY.fingerprint)
        for pem in (PEM, OTHER_PEM):
            for mode in cipher.MODES:
                key = key_from_pem(pem, mode)
                assert keys.find(key.encryption) == key

    def test_without_any_key_it_is_missing(self) -> None:
        with pytest.raises(KeyMissing, match=rf"^x is encrypted with aes256 key {KEY.fingerprint} and no key is con"):
            NO_KEYS.find(KEY.encryption, "x")

    def test_another_key_is_wrong_and_both_are_named(self) -> None:
        keys = Keys.of("aes128", OTHER_PEM)
        there = key_from_pem(OTHER_PEM, "aes256").fingerprint
        with pytest.raises(
            WrongKey, match=rf"^wrong key: x is encrypted with {KEY}, and .* are aes256 key {there};"
        ) as caught:
            keys.find(KEY.encryption, "x")
        assert "`storage.encryption.older_keys`" in str(caught.value)
        assert not leaks(str(caught.value))


class TestWriter:
    @pytest.mark.parametrize("size", [0, 1, 15, 16, 17, cipher.BLOCK - 1, cipher.BLOCK, cipher.BLOCK + 1, 20 << 20])
    def test_every_size_comes_back(self, store: Store, size: int) -> None:
        text = os.urandom(size)
        with open_writer(store, "a/object", KEY) as writer:
            for piece in pieces(text, 3 << 20):
                buffer = bytearray(piece)
                writer.write(memoryview(buffer))
                buffer[:] = bytes(len(buffer))  # the caller may reuse it at once
        done = writer.close()
        data = store.get("a/object")
        assert (done.size, done.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert len(data) == 16 + size
        assert size < 16 or text[:16] not in data
        assert b"".join(decrypt(store.read("a/object"), KEY)) == text

    def test_the_same_text_is_never_the_same_object(self, local: LocalStore) -> None:
        assert stored(local, b"text" * 10) != stored(local, b"text" * 10)

    def test_an_exception_leaves_nothing(self, store: Store) -> None:
        def fail() -> None:
            with open_writer(store, "a/object", KEY) as writer:
                writer.write(bytes(9 << 20))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert list(store.list("")) == []
        assert store.abort_uploads("") == 0

    def test_a_writer_that_is_closed_or_aborted_takes_no_more(self, local: LocalStore) -> None:
        closed, aborted = open_writer(local, "a", KEY), open_writer(local, "b", KEY)
        assert closed.close() == closed.close()
        aborted.abort()
        aborted.abort()
        for writer in (closed, aborted):
            with pytest.raises(ValueError, match="write after close or abort"):
                writer.write(b"x")
        assert [item.key for item in local.list("")] == ["a"]

    def test_without_a_key_it_is_the_stores_own(self, local: LocalStore) -> None:
        with open_writer(local, "a", None) as writer:
            writer.write(b"text")
        assert local.get("a") == b"text"


class TestReading:
    @pytest.mark.parametrize("size", [0, 1, 15])
    def test_what_is_shorter_than_its_header_is_named(self, size: int) -> None:
        with pytest.raises(NotEncrypted, match=rf"^x\.asb: has {size} bytes, .* it was cut off, or is not encrypted"):
            list(decrypt(pieces(bytes(size), 4), KEY, "x.asb"))

    def test_the_counter_wraps(self) -> None:
        """N is all ones or just below, so that N + 1 is 0 or gets there after some blocks."""
        text = os.urandom(200)
        for below in (0, 1, 5):
            start = ((1 << 128) - 1 - below).to_bytes(16, "big")
            head = Cipher(algorithms.AES(KEY.secret), modes.ECB()).encryptor().update(start)  # noqa: S305
            block = Cipher(algorithms.AES(KEY.secret), modes.ECB()).encryptor()  # noqa: S305
            stream = b"".join(block.update(((number - below) % (1 << 128)).to_bytes(16, "big")) for number in range(13))
            data = head + bytes(a ^ b for a, b in zip(text, stream, strict=False))
            assert b"".join(decrypt(iter([data]), KEY)) == text
            for offset in (0, 16, 79, 80, 81, 199):
                assert range_of(data, offset, 50) == text[offset : offset + 50]

    @settings(deadline=None)
    @given(st.integers(0, 300), st.integers(0, 320), st.integers(0, 320) | st.none(), st.integers(1, 40))
    def test_any_range_is_that_of_the_text(self, size: int, start: int, length: int | None, chunk: int) -> None:
        text, data = RANGES[size]
        end = None if length is None else start + length
        assert range_of(data, start, length, chunk) == text[start:end]

    def test_ranges_of_a_real_store_cost_one_request_each_and_one_for_the_header(self, store: Store) -> None:
        text = os.urandom(3_000_000)
        data = stored(store, text)
        assert len(data) == len(text) + 16
        reader = ranges(store, KEY)
        for start, length in ((0, 20), (5, 1), (20 * 1000, 20 * 52428), (2_999_990, 50), (3_000_000, 10), (7, None)):
            end = None if length is None else start + length
            assert b"".join(reader.read("a/object", start, length)) == text[start:end]

    def test_a_plain_object_is_read_from_the_store_itself(self, local: LocalStore) -> None:
        assert ranges(local, None) is local

    def test_a_range_of_a_cut_object_is_refused(self, local: LocalStore) -> None:
        local.put("cut", bytes(15))
        with pytest.raises(NotEncrypted, match=r"/cut: has 15 bytes"):
            list(ranges(local, KEY).read("cut", 0, 20))


class _Memory:
    """A store of one object, in small chunks."""

    url = "memory"

    def __init__(self, data: bytes, chunk: int) -> None:
        self._data, self._chunk = data, chunk

    def read(self, key: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        return pieces(self._data[start : None if length is None else start + length], self._chunk)


def range_of(data: bytes, start: int, length: int | None, chunk: int = 1000) -> bytes:
    return b"".join(ranges(_Memory(data, chunk), KEY).read("x", start, length))  # type: ignore[arg-type]


def _encrypted(text: bytes) -> bytes:
    class Sink:
        data = b""

        def write(self, data: bytes) -> None:
            self.data += bytes(data)

    sink = Sink()
    EncryptingWriter(sink, KEY).write(text)  # type: ignore[arg-type]
    return sink.data


RANGES = {size: (text, _encrypted(text)) for size in range(301) for text in [os.urandom(size)]}
