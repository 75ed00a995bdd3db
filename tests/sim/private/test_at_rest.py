"""Tensors in files: the library reads what we write and we read what it writes, bit for bit; no file is taken for whole that is not."""

import json
import os
import stat

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from flexray.models.weights import ALIGNMENT, DTYPES
from flexray.sim.private import at_rest


def bits(t: torch.Tensor) -> bytes:
    return t.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_same(found, wanted) -> None:
    assert found.keys() == wanted.keys()
    for name, t in wanted.items():
        assert (found[name].dtype, found[name].shape, bits(found[name])) == (t.dtype, t.shape, bits(t)), name


def some(dtype: torch.dtype, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Any bits at all, so also numbers that are none; of bool only its two."""
    size = torch.empty(shape, dtype=dtype).nbytes
    raw = torch.randint(0, 2 if dtype == torch.bool else 256, (size,), generator=torch.Generator().manual_seed(seed))
    return raw.to(torch.uint8).view(dtype).reshape(shape)


NAMES = st.text(min_size=1, max_size=12).filter(lambda name: name != "__metadata__")
STATES = st.dictionaries(
    NAMES,
    st.builds(
        some,
        st.sampled_from(list(DTYPES)),
        st.lists(st.integers(0, 3), max_size=3).map(tuple),
        st.integers(0, 9),
    ),
    max_size=5,
)


@settings(max_examples=80, deadline=None)
@given(state=STATES)
def test_the_library_reads_our_files_and_we_refuse_what_has_no_digest(tmp_path_factory, state):
    """Names of any characters, every type, scalars and tensors without numbers among them."""
    ours, theirs = (tmp_path_factory.getbasetemp() / name for name in ("ours.safetensors", "theirs.safetensors"))
    at_rest.write(ours, state)
    assert_same(load_file(ours), state)
    assert_same(at_rest.read(ours), state)
    save_file(state, theirs)
    with pytest.raises(at_rest.DamagedError, match="digest"):
        at_rest.read(theirs)


def test_what_is_not_contiguous_or_wants_a_gradient_is_written_as_its_numbers(tmp_path):
    x = torch.arange(6.0).view(2, 3)
    at_rest.write(tmp_path / "x", {"turned": x.T, "wide": torch.ones(1).expand(3), "trained": x.clone().requires_grad_()})
    found = at_rest.read(tmp_path / "x")
    assert found["turned"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert found["wide"].tolist() == [1, 1, 1]
    assert found["trained"].tolist() == x.tolist() and not found["trained"].requires_grad


def test_words_go_with_the_tensors(tmp_path):
    at_rest.write(tmp_path / "x", {"a": torch.ones(2)}, {"server": '{"round": 3}'})
    with safe_open(tmp_path / "x", "pt") as f:
        found = f.metadata()
    assert len(found.pop("sha256")) == 64 and found == {"format": "pt", "server": '{"round": 3}'}
    state, told = at_rest.read_with(tmp_path / "x")
    assert state.keys() == {"a"} and told == {"server": '{"round": 3}'}


@pytest.mark.parametrize("name", ["a", "ab", "a/b", "ä" * 7, "x" * 100])
def test_the_data_begin_at_a_multiple_of_64_bytes(tmp_path, name):
    at_rest.write(tmp_path / "x", {name: torch.tensor([1, 2], dtype=torch.int8)})
    raw = (tmp_path / "x").read_bytes()
    header = int.from_bytes(raw[:8], "little")
    assert (8 + header) % ALIGNMENT == 0
    assert raw[8 + header :] == b"\x01\x02"
    assert json.loads(raw[8 : 8 + header])[name] == {"dtype": "I8", "shape": [2], "data_offsets": [0, 2]}


def test_every_tensor_is_read_into_memory_of_its_own_aligned_like_a_new_one(tmp_path):
    """In the file the second begins at byte 4 of the data."""
    at_rest.write(tmp_path / "x", {"a": torch.ones(1), "b": torch.ones(1000)})
    for t in at_rest.read(tmp_path / "x").values():
        assert t.data_ptr() % ALIGNMENT == torch.empty(t.shape).data_ptr() % ALIGNMENT == 0
        assert t.untyped_storage().nbytes() == t.nbytes


def test_tensors_come_back_in_the_order_in_which_they_were_written(tmp_path):
    state = {"z": torch.ones(2), "none": torch.ones(0), "a": torch.ones(1), "m": torch.ones(3)}
    at_rest.write(tmp_path / "x", state)
    assert list(at_rest.read(tmp_path / "x")) == list(state)


def test_a_longer_file_that_is_written_over_ends_where_the_new_one_does(tmp_path):
    short, long = {"a": torch.arange(3.0)}, {"a": torch.arange(5000.0), "b": torch.ones(7, dtype=torch.int64)}
    at_rest.write(tmp_path / "fresh", short)
    at_rest.write(tmp_path / "x", long)
    place = os.stat(tmp_path / "x").st_ino
    at_rest.write(tmp_path / "x", short)
    assert os.stat(tmp_path / "x").st_ino == place
    assert (tmp_path / "x").read_bytes() == (tmp_path / "fresh").read_bytes()
    at_rest.write(tmp_path / "x", long)
    assert_same(load_file(tmp_path / "x"), long)


def test_a_file_that_ends_early_is_an_error_wherever_it_ends(tmp_path):
    at_rest.write(tmp_path / "x", {"a": torch.arange(3.0), "b": torch.ones(2, dtype=torch.bool)})
    whole = (tmp_path / "x").read_bytes()
    for end in range(len(whole)):
        (tmp_path / "cut").write_bytes(whole[:end])
        with pytest.raises(at_rest.DamagedError):
            at_rest.read(tmp_path / "cut")
    (tmp_path / "cut").write_bytes(whole + b"\0")
    with pytest.raises(at_rest.DamagedError, match="too late"):
        at_rest.read(tmp_path / "cut")


def test_a_file_with_any_bit_turned_is_none_of_ours(tmp_path):
    at_rest.write(tmp_path / "x", {"a": torch.arange(3.0), "b": torch.ones(2, dtype=torch.bool)}, {"told": "1"})
    whole = (tmp_path / "x").read_bytes()
    for at in range(8 * len(whole)):
        turned = bytearray(whole)
        turned[at // 8] ^= 1 << at % 8
        (tmp_path / "turned").write_bytes(turned)
        with pytest.raises(at_rest.DamagedError):
            at_rest.read(tmp_path / "turned")


def test_a_file_is_of_whom_it_was_written_about(tmp_path):
    at_rest.write(tmp_path / "x", {"a": torch.ones(2)}, about="ann after 3")
    assert at_rest.read(tmp_path / "x", "ann after 3")["a"].tolist() == [1, 1]
    for other in ("", "ann after 2", "bob after 3"):
        with pytest.raises(at_rest.DamagedError, match="digest"):
            at_rest.read(tmp_path / "x", other)


def test_the_same_tensors_are_the_same_bytes(tmp_path):
    for name in ("x", "y"):
        at_rest.write(tmp_path / name, {"a": torch.arange(3.0), "b": torch.ones(2)}, {"told": "1"})
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_new_files_are_for_their_owners_eyes(tmp_path):
    before = os.umask(0)
    try:
        at_rest.write(tmp_path / "x", {"a": torch.ones(1)})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o600
