"""Sealed files: what went in comes out, and whatever is not as it was written is refused."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexray.errors import ConfigError
from flexray.sim.private.sealed import CHUNK, MAGIC, Seal, TamperedError, seal_of

KEY = bytes(range(32))
HEAD = len(MAGIC) + 8 + 7


def sealed(contents: bytes, about: str = "a", key: bytes = KEY, pieces: int = 3) -> bytes:
    file = io.BytesIO()
    into = Seal(key).writer(file, about)
    step = max(1, -(-len(contents) // pieces))
    for i in range(0, len(contents), step):
        into.write(contents[i : i + step])
    into.close()
    return file.getvalue()


def opened(data: bytes, about: str = "a", key: bytes = KEY) -> bytes:
    return Seal(key).reader(io.BytesIO(data), about).read()


@pytest.mark.parametrize("size", [0, 1, 17, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 5])
@pytest.mark.parametrize("pieces", [1, 3])
def test_what_went_in_comes_out(size, pieces):
    contents = bytes(i * 31 % 251 for i in range(997)) * (size // 997 + 1)
    contents = contents[:size]
    data = sealed(contents, pieces=pieces)
    assert opened(data) == contents
    # head, and per chunk of 1 MiB (one at least) a tag of 16 bytes
    assert len(data) == HEAD + size + 16 * max(1, -(-size // CHUNK))
    assert Seal(KEY).plain(len(data)) == size


def test_nothing_of_the_contents_can_be_seen_and_no_two_files_are_alike():
    contents = b"the private expert" * 100
    one, other = sealed(contents), sealed(contents)
    assert b"private" not in one
    assert one[HEAD:] != other[HEAD:]


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, HEAD + 100 + 15), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found(at, bit):
    data = bytearray(sealed(bytes(100)))
    data[at] ^= 1 << bit
    with pytest.raises(TamperedError):
        opened(bytes(data))


@pytest.mark.parametrize("keep", [0, 10, HEAD, HEAD + 5, HEAD + CHUNK + 16, HEAD + CHUNK + 20, -1])
def test_a_file_cut_short_is_found_also_between_chunks(keep):
    data = sealed(bytes(CHUNK + 100))
    with pytest.raises(TamperedError):
        opened(data[:keep])


def test_chunks_that_were_moved_or_come_twice_are_found():
    data = sealed(bytes(3 * CHUNK))
    head, size = data[:HEAD], CHUNK + 16
    one, two, three = (data[HEAD + i * size : HEAD + (i + 1) * size] for i in range(3))
    for order in (two + one + three, one + one + three, one + three, one + two + three + three, one + two):
        with pytest.raises(TamperedError):
            opened(head + order)


def test_a_file_of_another_client_or_with_another_key_is_refused():
    with pytest.raises(TamperedError, match="another client's or round's"):
        opened(sealed(b"x", about="a|1"), about="b|1")
    with pytest.raises(TamperedError, match="another key"):
        opened(sealed(b"x"), key=bytes(32))
    with pytest.raises(TamperedError, match="not encrypted"):
        opened(b"plain safetensors, and long enough for a head")


def test_the_key_file(tmp_path):
    file = tmp_path / "key"
    for contents in (KEY, KEY.hex().encode(), KEY.hex().encode() + b"\n"):
        file.write_bytes(contents)
        file.chmod(0o600)
        made = seal_of(file)
        assert made is not None
        assert made.reader(io.BytesIO(sealed(b"x")), "a").read() == b"x"
    assert seal_of(None) is None
    file.chmod(0o644)
    with pytest.raises(
        ConfigError, match=r"storage\.key: expected a file that only its owner can read, got 'mode 644'; chmod 600"
    ):
        seal_of(file)
    file.chmod(0o600)
    file.write_bytes(b"short")
    with pytest.raises(ConfigError, match="expected 32 bytes, or 64 hexadecimal digits, got '5 bytes'"):
        seal_of(file)
    with pytest.raises(ConfigError, match=r"expected a file with a key, .* No such file or directory; make one"):
        seal_of(tmp_path / "none")
