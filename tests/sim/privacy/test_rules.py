"""What only the model and the data can tell."""

import pytest

from flexray.errors import ConfigError
from flexray.sim.planning.plan import prepare, resolved
from flexray.sim.privacy import accountant, rules

CPU4 = {"CPU": 4.0}
DP = {"where": "central"}


@pytest.mark.parametrize(
    ("algorithm", "more", "words"),
    [
        ({"name": "scaffold"}, {"privacy": {"dp": DP}}, "privacy.dp.aux_clip: expected a number with scaffold"),
        ({"name": "fedavg"}, {"privacy": {"dp": DP | {"aux_clip": 1}}}, "privacy.dp.aux_clip: expected none with fedavg"),
        ({"name": "flame"}, {"privacy": {"dp": DP}}, "its clients send products with counts"),
        ({"name": "flame"}, {"compress": {"kind": "topk"}}, "compress.kind: expected fp16, bf16 or int8 with flame"),
        ({"name": "flex", "expert": "shared", "graft": {"select": "random"}}, {"privacy": {"dp": DP}}, "it sends whole numbers (expert/"),
        ({"name": "hetlora", "ranks": (2, 4)}, {"compress": {"kind": "int8"}},
         "compress.kind: expected none with hetlora and clients of lower rank"),
        ({"name": "fedavg"}, {"privacy": {"dp": DP | {"sampling": "fixed", "accountant": "pld"}}, "cohort": 2},
         "privacy.dp.accountant: expected rdp"),
        ({"name": "fedavg"}, {"privacy": {"dp": DP | {"adaptive": {"quantile": 0.5}}}},
         "expected more than noise_multiplier/2 = 0.5, got 0.15"),
        ({"name": "fedavg"}, {"privacy": {"secure_aggregation": {"protocol": "secagg"}}, "cohort": 1},
         "expected at least 2 clients in a round, got 1"),
        ({"name": "fedavg"}, {"privacy": {"secure_aggregation": {"protocol": "secagg", "num_shares": 4}}},
         "expected less than the 2 others of a cohort, got 4"),
        ({"name": "fedavg"}, {"privacy": {"secure_aggregation": {"protocol": "secagg", "dropout": 0.4, "reconstruction_threshold": 0.6}}},
         "expected to leave 2 of the 2 who hold a client's shares, got 0.4 of 3, which leaves 1"),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) and "name" in value else "",
)  # fmt: skip
def test_refused_before_anything_starts(small, tmp_path, algorithm, more, words):
    with pytest.raises(ConfigError) as e:
        prepare(small(algorithm=algorithm, **more), CPU4, tmp_path)
    assert words in str(e.value)


def test_without_the_library_there_is_no_epsilon(small, tmp_path, monkeypatch):
    monkeypatch.setattr(accountant, "NEEDS", "no_such_package")
    with pytest.raises(
        ConfigError, match=r"the package dp-accounting, which counts ε, got None; pip install 'flexray\[privacy\]'"
    ):
        prepare(small(privacy={"dp": DP}), CPU4, tmp_path)
    prepare(small(compress={"kind": "fp16"}), CPU4, tmp_path)


def test_a_plain_experiment_is_not_looked_at(bare_job):
    job = bare_job([1, 2])
    rules.check(job)
    assert not rules.guarded(job.experiment) and not rules.closes(job.experiment)


def test_everybody_flips_a_coin_of_its_own(bare_job):
    """Of 100 clients 20 are expected: over 400 rounds 20 ± 4·√(16/400), and their number varies as a binomial's does."""
    job = bare_job([1] * 100, cohort=20, privacy={"dp": {"where": "central"}})
    many = [len(job.taking_part(r)) for r in range(400)]
    assert sum(many) / 400 == pytest.approx(20, abs=0.8)
    assert sum((m - 20) ** 2 for m in many) / 400 == pytest.approx(16, rel=0.3)
    assert job.taking_part(3) == job.taking_part(3) != job.taking_part(4)
    assert bare_job([1] * 5, privacy={"dp": {"where": "central"}}).taking_part(0) == (0, 1, 2, 3, 4)
    fixed = bare_job([1] * 100, cohort=20, privacy={"dp": {"where": "central", "sampling": "fixed"}})
    assert {len(fixed.taking_part(r)) for r in range(9)} == {20}


def test_an_epsilon_is_written_down_as_the_noise_it_asks_for(small, tmp_path):
    job, plan = prepare(small(privacy={"dp": DP | {"epsilon": 4.0}}), CPU4, tmp_path)
    dp = resolved(job).privacy.dp
    assert dp.epsilon is None and dp.noise_multiplier > 1
    assert any("after 2 rounds ε 4.00 at δ 1e-05" in note for note in plan.notes)
    again, _ = prepare(resolved(job), CPU4, tmp_path)
    assert again.experiment.privacy.dp == dp
