"""What is left of a change, and its bytes, by hand."""

import numpy as np
import pytest
import torch

from flexray.algorithm import Payload
from flexray.sections_privacy import Compress
from flexray.sim.privacy.change import generator
from flexray.sim.privacy.compression import Codec
from flexray.sim.wire import Wire

UP = Wire(Payload({"lora/q/a": (2, 3), "lora/q/b": (4,), "expert/m/index": (2,)}, {"c/x": (5,)}))
"""17 numbers: 6 and 4 trained, 2 indices, 5 besides."""


def codec(aux: bool = True, **told) -> Codec:
    return Codec(Compress(**told), UP, aux)


def squeezed(values, **told) -> np.ndarray:
    change = np.zeros(UP.numbers, np.float32)
    change[: len(values)] = values
    codec(**told).squeeze_(change, generator(0))
    return change


@pytest.mark.parametrize(("kind", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_halves_are_those_of_torch(kind, dtype):
    values = np.random.default_rng(0).standard_normal(6).astype(np.float32)
    assert squeezed(values, kind=kind)[:6].tolist() == torch.from_numpy(values).to(dtype).float().tolist()


def test_what_is_too_large_for_fp16_is_its_largest():
    assert squeezed([1e6, -1e6], kind="fp16")[:2].tolist() == [65504.0, -65504.0]


def test_int8_to_the_nearest_has_one_scale_per_tensor():
    # a: scale 1.27/127 = 0.01: 0.014 is 1.4 steps; b: scale 127/127 = 1: 0.6 is one step
    found = squeezed([1.27, 0.014, -0.016, 0, 0, 0, 127, 0.6, -0.4, 0], kind="int8", rounding="nearest")
    assert found[:3] == pytest.approx([1.27, 0.01, -0.02])
    assert found[6:9].tolist() == [127.0, 1.0, 0.0]


def test_stochastic_rounding_has_no_bias():
    up = Wire(Payload({"lora/q/a": (40_000,)}))
    change = np.full(40_000, 0.3, np.float32)
    change[0] = 127.0
    Codec(Compress(kind="int8"), up, True).squeeze_(change, generator(3))
    assert set(change[1:].tolist()) == {0.0, 1.0}
    # 0.3 of them are one: deviation √(0.21/40000) = 0.0023
    assert change[1:].mean() == pytest.approx(0.3, abs=4 * 0.0023)


def test_top_k_keeps_the_largest_of_every_tensor():
    # a third of 6 is 2, of 4 it is 1.33, so 2
    found = squeezed([1, -5, 2, 3, 0, 0, 0.1, -0.3, 0.2, 0], kind="topk", keep=1 / 3)
    assert found[:10].tolist() == pytest.approx([0, -5, 0, 3, 0, 0, 0, -0.3, 0.2, 0])


def test_indices_cross_as_they_are_and_so_does_what_is_of_another_form():
    values = np.arange(17, dtype=np.float32) + 0.123
    for kind in ("fp16", "int8", "topk"):
        assert squeezed(values, kind=kind)[10:12].tolist() == values[10:12].tolist()
        assert squeezed(values, kind=kind, aux=False)[12:].tolist() == values[12:].tolist()


def test_bytes_are_those_that_would_cross():
    # 6 + 4 numbers of lora, 2 indices of four bytes, 5 numbers of c
    assert codec(kind="fp16").cost() == {"lora": 20, "expert": 8, "c": 10}
    # a byte each and a scale of four per tensor: 6+4 + 4+4; 5+4
    assert codec(kind="int8").cost() == {"lora": 18, "expert": 8, "c": 9}
    # ⌈6/3⌉ = 2 and ⌈4/3⌉ = 2 values of four bytes, and a bit for every number (one byte) for their places; c: 2 values and one byte
    assert codec(kind="topk", keep=1 / 3).cost() == {"lora": 8 + 1 + 8 + 1, "expert": 8, "c": 8 + 1}
    assert codec(kind="bf16", aux=False).cost() == {"lora": 20, "expert": 8, "c": 20}


def test_few_of_many_are_told_by_their_places():
    up = Wire(Payload({"lora/q/a": (1000,)}))
    # 10 values and 10 places of four bytes; a bit for each of a thousand would be 125
    assert Codec(Compress(kind="topk", keep=0.01), up, True).cost() == {"lora": 80}
    assert Codec(Compress(kind="topk", keep=0.1), up, True).cost() == {"lora": 400 + 125}
