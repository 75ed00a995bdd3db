"""The rule that chooses kernels: what it must give whatever the loads, and what it gives for a few of them."""

import numpy as np
import pytest
import torch

from flexray.models import grouping

SHAPES = [(128, 256, 128), (512, 512, 256), (1024, 1536, 768), (6, 10, 5)]


@pytest.fixture(autouse=True, params=[False, True], ids=["MKL", "oneDNN"])
def quick(request, monkeypatch):
    monkeypatch.setattr(grouping, "onednn_is_quicker", lambda: request.param)
    return request.param


def loads(generator) -> np.ndarray:
    """Of 1 to 64 experts; some have none, a few have most."""
    experts = int(generator.integers(1, 65))
    load = generator.dirichlet(np.full(experts, generator.choice([0.1, 1.0, 10.0])))
    return generator.multinomial(int(generator.choice([0, 3, 200, 3000, 20_000])), load)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_every_expert_has_its_rows_and_none_without_tokens_has_a_run(dtype):
    generator = np.random.default_rng(0)
    for _ in range(100):
        counts_E, shape = loads(generator), SHAPES[generator.integers(len(SHAPES))]
        found = grouping.layout(counts_E, dtype, *shape, groupable=dtype == torch.float32 and shape[0] % 4 == 0)
        rows_E, stop = np.zeros_like(counts_E), 0
        for groups in found.groups:
            assert groups.start == stop < groups.stop
            stop = groups.stop
            if groups.kernel == "loop":
                assert sum(rows for _, rows, _ in groups.runs) == stop - groups.start
                for e, rows, later in groups.runs:
                    assert counts_E[e] and later == (rows_E[e] > 0)
                    rows_E[e] += rows
            elif groups.kernel == "even":
                assert counts_E[groups.first : groups.last].any()
                assert (groups.last - groups.first) * found.even == stop - groups.start
                rows_E[groups.first : groups.last] += found.even
            else:
                rows_E[groups.first : groups.last] += np.diff([0, *groups.ends_G.tolist()])
        assert (rows_E >= counts_E).all() and found.rows == stop
        if dtype != torch.bfloat16:
            exact = rows_E == counts_E
            assert exact.all() or dtype == torch.float32


def test_the_same_loads_give_the_same_groups():
    counts_E = loads(np.random.default_rng(1))
    one, two = (grouping.layout(counts_E, torch.bfloat16, *SHAPES[1], groupable=False) for _ in range(2))
    assert [(g.kernel, g.start, g.stop, g.runs) for g in one.groups] == [
        (g.kernel, g.start, g.stop, g.runs) for g in two.groups
    ]


def kernels(counts, dtype, shape) -> str:
    found = grouping.layout(np.array(counts), dtype, *shape, groupable=True)
    return "".join(dict.fromkeys(g.kernel[0] for g in found.groups))


def test_small_experts_go_together_and_large_ones_by_themselves(quick):
    tiny, large = SHAPES[0], SHAPES[2]
    assert kernels([12] * 64, torch.float32, tiny) == "g"
    assert kernels([500] * 8, torch.float32, large) == ("l" if quick else "g")
    assert kernels([12] * 64, torch.bfloat16, tiny) == "e"
    assert kernels([500] * 8, torch.bfloat16, large) == "l"
    assert kernels([16] * 62 + [400, 500], torch.bfloat16, tiny) == "el"  # what two have above the others, by itself
    assert kernels([3, 0, 0, 900], torch.bfloat16, tiny) == "l"


def test_heights_are_few(monkeypatch):
    monkeypatch.setattr(grouping, "PIECE", 1024)
    cut = grouping._tiles(1.0)
    # up to 128 by 8, up to 256 by 8, up to 512 by 16, up to 1024 by 32
    assert [cut(n) for n in (1, 8, 9, 130, 257, 600, 1024, 2100)] == [
        [8],
        [8],
        [16],
        [136],
        [272],
        [608],
        [1024],
        [1024, 1024, 56],
    ]
    assert len({h for n in range(1, 1025) for h in cut(n)}) == 16 + 16 + 16 + 16
    assert grouping._tiles(1e6)(33) == [36] and cut(33) == [40]
    assert all(sum(cut(n)) <= 1.07 * n + 8 for n in range(1, 5000))
