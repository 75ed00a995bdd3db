"""Numbers from run folders made by hand, to a comparison that can be worked out on paper."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flexray.compare import so_far
from flexray.comparison.folder import run_of
from flexray.comparison.numbers import numbers
from flexray.comparison.spec import read
from flexray.config import Experiment
from flexray.errors import RunError

TOY = {
    "fedavg-s0": [[2.0, 4.0], [6.0]],  # clients 3 and 6 → 4.5
    "fedavg-s1": [[1.0, 1.0], [4.0]],  # clients 1 and 4 → 2.5
    "flex-s0": [[1.0, 3.0], [4.0]],    # clients 2 and 4 → 3
    "flex-s1": [[0.0, 0.0], [2.0]],    # clients 0 and 2 → 1
    "local-s0": [[9.0, 9.0], [9.0]],   # 9
    "local-s1": [[8.0, 8.0], [8.0]],   # 8
}  # fmt: skip


@pytest.fixture
def spec():
    def make(**compare):
        data = {"path": "x.jsonl", "partition": "iid"}
        given = {"methods": ["fedavg", "flex", "local"], "seeds": [0, 1], "resamples": 400, **compare}
        return read({"data": data, "rounds": 2, "compare": given})

    return make


def test_means_over_clients_then_over_seeds(ran, spec):
    c = so_far(spec(), ran(spec(), TOY))
    fedavg, flex, local = (c[label].scores["loss"] for label in ("fedavg", "flex", "local"))
    assert (fedavg.mean, flex.mean, local.mean) == (3.5, 2.0, 8.5)
    assert fedavg.sd == pytest.approx(2**0.5)  # of 4.5 and 2.5, with n − 1
    assert fedavg.by_seed == {0: 4.5, 1: 2.5}
    # exact match: rows below 1. flex: client 0 of seed 1 has both → (1 + 0) / 2 = ½ there, 0 with seed 0 → ¼
    assert c["flex"].scores["exact_match"].mean == 0.25


def test_gains_are_what_a_method_is_better_by(ran, spec):
    c = so_far(spec(), ran(spec(), TOY))
    assert c["flex"].scores["loss"].gains == {"local": 6.5, "fedavg": 1.5}  # 8.5 − 2, 3.5 − 2: less loss is better
    assert c["flex"].scores["exact_match"].gains == {"local": 0.25, "fedavg": 0.25}
    assert c["local"].scores["loss"].gains == {"fedavg": -5.0}


def test_against_the_reference(ran, spec):
    """flex is better by 1 or 1 in every row of client 0, and by 2 in those of client 1: any resample gives 1, 1½ or 2."""
    c = so_far(spec(), ran(spec(), TOY))
    v = c["flex"].scores["loss"].versus
    assert v is not None
    assert (v.over, v.gain, v.low, v.high, v.seeds) == ("fedavg", 1.5, 1.0, 2.0, 2)
    assert v.p == 2 / 401
    assert v.p_holm == 4 / 401  # of two tests both at the least p there is
    assert c["fedavg"].scores["loss"].versus is None


def test_best_and_those_level_with_it(ran, spec):
    c = so_far(spec(), ran(spec(), {**TOY, "local-s0": [[1.0, 3.5], [4.0]], "local-s1": [[0.0, 0.0], [1.9]]}))
    flex, local, fedavg = (c[label].scores["loss"] for label in ("flex", "local", "fedavg"))
    # local: (2.25 + 4) / 2 = 3.125 and (0 + 1.9) / 2 = 0.95 → 2.0375, flex 2: no resample tells them apart for sure
    assert (flex.best, flex.level, local.best, local.level, fedavg.level) == (True, False, False, True, False)
    assert local.behind is not None and local.behind.p_holm >= 0.05


def test_costs(ran, spec):
    c = so_far(spec(), ran(spec(), TOY))
    m = c["flex"]
    assert (m.bytes_up, m.bytes_down, m.shared, m.private, m.seconds) == (4000, 8000, 1000, 20, 12.0)


def test_of_what_is_finished(ran, spec):
    """Pairs share the seeds that both have; the best is sought among the seeds that all have."""
    some = {name: TOY[name] for name in ("fedavg-s0", "fedavg-s1", "flex-s1", "local-s0", "local-s1")}
    c = so_far(spec(), ran(spec(), some), {"flex-s0": "out of memory"})
    assert (c.finished, c.runs, c.failures) == (5, 6, {"flex-s0": "out of memory"})
    flex = c["flex"].scores["loss"]
    assert (flex.mean, flex.sd, flex.gains) == (1.0, None, {"local": 7.0, "fedavg": 1.5})  # seed 1 alone: 8 − 1, 2.5 − 1
    assert flex.versus is not None and flex.versus.seeds == 1
    assert flex.best


def test_without_its_reference_there_is_nothing_to_test_against(ran, spec):
    c = so_far(spec(), ran(spec(), {"flex-s0": TOY["flex-s0"], "local-s0": TOY["local-s0"]}))
    assert [m.label for m in c.methods] == ["flex", "local"]
    assert all(m.scores["loss"].versus is None for m in c.methods)
    assert c["flex"].scores["loss"].best


def test_nothing_finished(tmp_path, spec):
    with pytest.raises(RunError, match=r"no run of .* is finished\nflex-s0: boom"):
        so_far(spec(), tmp_path, {"flex-s0": "boom"})


def test_other_rows_cannot_be_compared(ran, spec):
    out = ran(spec(), {"fedavg-s0": [[1.0], [1.0]], "flex-s0": [[1.0, 2.0], [1.0]]})
    with pytest.raises(RunError, match=r"flex-s0 has scored other rows than fedavg-s0"):
        so_far(spec(), out)


def test_numbers_views_and_what_is_drawn_are_chosen(ran, spec):
    first = spec(metrics=["exact_match"], view="base", over=["rows"], reference="local")
    out = ran(first, TOY)
    c = so_far(first, out)
    assert (list(c.numbers), c.view, c.over, c.reference) == (["exact_match"], "base", ("rows",), "local")
    c = so_far(spec(metrics=["perplexity", "loss"], view="base"), out)
    assert list(c.numbers) == ["perplexity", "loss"]
    assert c["flex"].scores["loss"].mean == 7.0  # the hand-made base view is 5 worse


def test_questions_of_a_probe_are_the_same_rows_for_all_clients(ran, spec):
    """Two clients, three questions each: rows −1, −2, −3, besides the test rows, which have none of their counts."""
    s = read({**spec().dump(), "evaluation": {"metrics": ["loss", "choice"], "probe": __file__}})
    out = ran(s, TOY)
    for cell in s.cells:
        file = run_of(out, cell) / "rows.parquet"
        rows = [{**row, "right": 0.0, "right_by_sum": 0.0, "questions": 0.0} for row in pq.read_table(file).to_pylist()]
        none = dict.fromkeys(("nll", "tokens", "exact", "rows", "right_by_sum"), 0.0)
        rows += [
            {"client": c, "name": "x", "view": "personal", "row": -1 - q, **none, "questions": 1.0, "right": float(q == c)}
            for c in (0, 1) for q in range(3)
        ]  # fmt: skip
        pq.write_table(pa.Table.from_pylist(rows), file)
    c = so_far(s, out)
    assert c["flex"].scores["loss"].mean == 2.0
    assert c["flex"].scores["probe_accuracy"].mean == pytest.approx(1 / 3)
    assert c.rows == {"loss": (3, 3), "probe_accuracy": (6, 6)}


def test_rows_of_the_built_in_data_are_others_with_every_seed(ran):
    s = read({"compare": {"methods": ["fedavg", "flex"], "seeds": [0, 1]}})
    from flexray.comparison.samples import align, finished

    out = ran(s, TOY)
    runs = [run for cell in s.cells if (run := finished(cell, run_of(out, cell), "personal"))]
    seeds = align(runs, ("nll", "tokens")).scored
    assert not {*seeds[0][0].rows_N.tolist()} & {*seeds[1][0].rows_N.tolist()}


def test_numbers_are_known_before_any_run_and_computed_for_arrays():
    found = numbers(Experiment(evaluation={"metrics": ["loss", "exact_match", "token_accuracy"]}))
    assert {name: (n.keys, n.reading.less) for name, n in found.items()} == {
        "loss": (("nll", "tokens"), True),
        "perplexity": (("nll", "tokens"), True),
        "exact_match": (("exact", "rows"), False),
        "token_accuracy": (("hits", "tokens"), False),
    }
    sums = np.array([[[4.0, 2.0]], [[9.0, 3.0]], [[np.nan, np.nan]]])
    with np.errstate(all="ignore"):
        for name, n in found.items():
            assert np.array_equal(n.value(sums)[:2, 0], [n.metric.value(dict(zip(n.keys, row, strict=True)))[name]
                                                         for row in sums[:2, 0].tolist()])  # fmt: skip
            assert np.isnan(n.value(sums)[2, 0])
            assert n.value(sums[:1]).shape == (1, 1)
            assert not np.isfinite(n.value(np.array([[0.0, 0.0]]))[0])


def test_the_facts_are_json(ran, spec):
    out = ran(spec(), TOY)
    c = so_far(spec(), out)
    assert json.loads((out / "comparison.json").read_text()) == json.loads(json.dumps(c.facts()))
