"""What to compare: read, checked run by run, and blamed on whoever has set a key."""

from pathlib import Path

import pytest

from flexray.comparison.overlay import differences, leaves, overlaid, sections
from flexray.comparison.spec import asked_for, load, read
from flexray.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs"


def wrong(compare: object, **values) -> list[str]:
    with pytest.raises(ConfigError) as e:
        read({**values, **({} if compare is None else {"compare": compare})})
    return list(e.value.problems)


def test_names_alone():
    spec = read({"rounds": 3, "compare": {"methods": ["fedavg", "flex"]}})
    assert [cell.name for cell in spec.cells] == [f"{m}-s{s}" for s in (0, 1, 2) for m in ("fedavg", "flex")]
    assert {cell.experiment.rounds for cell in spec.cells} == {3}
    assert [cell.experiment.seed for cell in spec.cells] == [0, 0, 1, 1, 2, 2]
    assert spec.compare.against == "fedavg"


def test_labels_with_what_each_changes_as_sections_or_dotted_keys():
    methods = {
        "avg": "fedavg",
        "slow": {"algorithm": "fedavg", "train.lr": 1e-4, "train": {"final_lr": 1e-5}},
        "wide": {"algorithm.lora.rank": 16},
        "own": {"algorithm": {"name": "flex", "gate": {"mode": "open"}}, "train.private_lr": 0.01},
    }
    base = {
        "algorithm": {"name": "flex", "lora": {"rank": 4}},
        "train": {"lr": 0.01},
        "compare": {"methods": methods, "seeds": [5]},
    }
    avg, slow, wide, own = (cell.experiment for cell in read(base).cells)
    assert (avg.algorithm.name, avg.algorithm.lora.rank) == ("fedavg", 8)  # another name: nothing of flex's section is left
    assert (slow.train.lr, slow.train.final_lr) == (1e-4, 1e-5)
    assert (wide.algorithm.name, wide.algorithm.lora.rank, wide.train.lr) == ("flex", 16, 0.01)
    assert (own.algorithm.lora.rank, own.algorithm.gate.mode, own.train.private_lr) == (4, "open", 0.01)


def test_every_run_has_private_storage_of_its_own():
    spec = read({"storage": {"private": "/shared"}, "compare": {"methods": ["local", "flex"], "seeds": [3]}})
    assert [str(c.experiment.storage.private) for c in spec.cells] == ["/shared/local-s3", "/shared/flex-s3"]


def test_a_spec_goes_round():
    spec = read({"rounds": 3, "compare": {"methods": {"a": "fedavg", "b": {"train.lr": 0.1}}, "seeds": [4], "over": ["rows"]}})
    again = read(spec.dump())
    assert again.compare == spec.compare
    assert again.cells == spec.cells


def test_a_users_file_is_kept_with_the_spec(tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text((Path(__file__).parents[2] / "flexray/algorithms/fedprox.py").read_text())
    spec = read({"compare": {"methods": {"mine": str(mine), "flex": "flex"}}})
    kept = spec.dump()
    mine.unlink()
    assert read(kept).cells[0].experiment.algorithm == spec.cells[0].experiment.algorithm


def test_the_examples_are_right():
    for name in ("compare.yaml", "compare_dolly.yaml"):
        assert len(load(CONFIGS / name).cells) == 21


def test_what_a_command_line_asks_for(tmp_path):
    (tmp_path / "c.yaml").write_text("rounds: 2\ncompare: {methods: [fedavg, local]}\n")
    assert asked_for(tmp_path / "c.yaml", ("compare.seeds=[7]",), None).compare.seeds == (7,)
    (tmp_path / "compare.yaml").write_text("rounds: 4\ncompare: {methods: [fedavg, local]}\n")
    assert asked_for(None, ("compare.alpha=0.1",), tmp_path).cells[0].experiment.rounds == 4
    with pytest.raises(ConfigError, match=r"--resume: expected the folder of a comparison, got '.*' without compare.yaml"):
        asked_for(None, (), tmp_path / "nowhere")


UNKNOWN = "expected a known key, got an unknown one"


@pytest.mark.parametrize(
    ("compare", "problem"),
    [
        (None, "compare: expected a section with methods, got none; write `compare: {methods: [fedavg, flex]}`"),
        (3, "compare: expected a section, got 3; set its keys: compare.methods, compare.seeds, compare.reference, …"),
        ({}, "compare.methods: expected labels with what each changes, or names, got nothing; write `methods: [fedavg, flex]`"),
        ({"methods": "flex"},
         "compare.methods: expected labels with what each changes, or names, got 'flex'; write `methods: [fedavg, flex]`"),
        ({"methods": {"a": None}},
         "compare.methods.a: expected what the method changes, or its name, got nothing; write `a: {algorithm: …}`"),
        ({"methods": ["flex", "flex"]},
         "compare.methods: expected every label once, got ['flex', 'flex']; drop what is there twice"),
        ({"methods": {"a b": "flex"}},
         "compare.methods: expected labels of letters, digits and . _ + - (it names folders), got 'a b'; write `label: {algorithm: …}`"),
        ({"methods": ["flex"], "sedes": [1]}, f"compare.sedes: {UNKNOWN}; did you mean 'compare.seeds'?"),
        ({"methods": ["flex"], "seeds": [1, 1]},
         "compare.seeds: expected at least one, each once, got [1, 1]; drop what is there twice"),
        ({"methods": ["flex", "local"], "reference": "flx"},
         "compare.reference: expected one of the methods, got 'flx'; did you mean 'flex'?"),
        ({"methods": ["flex"], "metrics": ["los"]},
         "compare.metrics: expected numbers of evaluation.metrics, got 'los'; did you mean 'loss'?"),
        ({"methods": ["flex"], "view": "mine"}, "compare.view: expected base, shared or personal, got 'mine'; the default is 'personal'"),
        ({"methods": ["flex"], "over": ["row"]},
         "compare.over.0: expected seeds, clients or rows, got 'row'; did you mean 'rows'?"),
        ({"methods": ["flex", "local", "fedavg"], "alpha": 0.01, "resamples": 100},
         "compare.resamples: expected at least 400 for 3 methods at alpha 0.01, got 100; with fewer no difference could be significant"),
        ({"methods": {"a": {"seed": 3}}}, "compare.methods.a.seed: expected none in a method, got one; list the seeds in compare.seeds"),
        ({"methods": {"a": {"resources": {"threads": 2}}}},
         "compare.methods.a.resources.threads: expected none in a method, got one; set resources.threads for all methods alike"),
        ({"methods": {"a": {"train.lr": 1, "train": {"lr": 2}}}},
         "compare.methods.a.train.lr: expected the key once, got it twice; drop one of them"),
        ({"methods": {"a": {"train.lrr": 1}, "b": "flex"}}, f"compare.methods.a.train.lrr: {UNKNOWN}; did you mean 'train.lr'?"),
        ({"methods": ["flex", "fedprx"]},
         "compare.methods.fedprx.algorithm.name: expected a known name or a path ending in .py, got 'fedprx'; did you mean 'fedprox'?"),
    ],
)  # fmt: skip
def test_wrong_specs(compare, problem):
    assert wrong(compare) == [problem]


def test_what_is_everybodys_is_told_once_and_what_is_a_methods_with_its_name():
    assert wrong({"methods": ["flex", "local"]}, rouds=3) == [f"rouds: {UNKNOWN}; did you mean 'rounds'?"]
    found = wrong({"methods": ["fedavg", "flex"]}, train={"private_lr": 0.1})
    assert found == [
        "train.private_lr: expected none with fedavg, which has no private part, got 0.1; drop it (with compare.methods.fedavg)"
    ]
    assert wrong({"methods": ["flex"]}, seed=3) == ["seed: expected none beside compare.seeds, got 3; drop it"]


# laying over


def test_overlay_and_its_leaves():
    assert sections({"a.b": 1, "a": {"c": 2}}, "") == {"a": {"b": 1, "c": 2}}
    assert overlaid({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}) == {"a": {"b": 3, "c": 2}}
    assert overlaid({"algorithm": "flex"}, {"algorithm": {"lora": 1}}) == {"algorithm": {"name": "flex", "lora": 1}}
    assert overlaid({"algorithm": {"name": "flex", "x": 1}}, {"algorithm": "local"}) == {"algorithm": {"name": "local"}}
    assert list(leaves({"a": {"b": 1}, "algorithm": "flex"})) == ["a.b", "algorithm.name"]
    assert list(differences({"a": {"b": 1}, "c": [1]}, {"a": {"b": 2}, "c": [1]})) == [("a.b", 1, 2)]
