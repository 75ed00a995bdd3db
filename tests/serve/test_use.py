"""Answers side by side, one model of several clients' experts, and newcomers: what they say, leave, and refuse."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from flexray.errors import ConfigError
from flexray.serve import generate as asking
from flexray.serve import joined, merge, scoring
from flexray.serve.export import export
from flexray.serve.exported import modeling_flexray as code
from flexray.serve.finished import open_run
from flexray.serve.fold import fold
from flexray.serve.join import join
from flexray.state import part_of
from tests.serve.conftest import assert_close, call, files, loaded, logits


@pytest.mark.parametrize("name", ["flex", "fed_dpa"])
def test_answers_are_those_of_the_exported_models(finished, tmp_path, name):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from flexray.models import checkpoint

    run = finished(name)
    asked = asking.models(run, ["client-0", "client-1"], shared=True, base=True)
    answers = asking.generate(run, ["What is it?"], asked, asking.Asking(max_new_tokens=5))
    assert [a.model for a in answers] == [asking.BASE, asking.SHARED, "client-0", "client-1"]
    export(run, tmp_path / "model", "client-1")
    with checkpoint.quiet():
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", trust_remote_code=True)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model", trust_remote_code=True)
    prompt = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    ids = tokenizer(f"{prompt}### Instruction:\nWhat is it?\n\n### Response:", return_tensors="pt").input_ids
    said = model.generate(ids, max_new_tokens=5, do_sample=False, attention_mask=torch.ones_like(ids))[0, ids.shape[1] :]
    assert answers[-1].text == tokenizer.decode(said, skip_special_tokens=True)


def test_chance_is_the_seeds(finished):
    run = finished("fedavg")

    def text(seed: int) -> str:
        how = asking.Asking(max_new_tokens=8, temperature=1.0, seed=seed)
        return asking.generate(run, ["Who?"], asking.models(run, shared=True), how)[0].text

    assert text(1) == text(1) != text(2)


@pytest.mark.parametrize("mode", ["add", "mix", "route"])
def test_merging_is_what_its_docstring_says(finished, tmp_path, mode):
    """Twice the same client is that client in add and mix: equal gates weigh half each. In route both are in the softmax, so only the
    folder and the scores are compared."""
    graft = {"calibration_rows": 4, "start": "copy"}
    run = finished("flex", graft=graft, gate={"mode": mode})
    own = run.personal("client-0")
    twice = {n: torch.cat([t, t]) if part_of(n) in ("expert", "gate") else t for n, t in own.items()}
    folded = fold(run.backbone, run.job.algorithm.parts, twice, 2)
    if mode != "route":
        assert_close(_attached(run, folded, own), logits(run, own))
    made = merge.merge(run, ["client-0", "client-1"], tmp_path / "model")
    both = run.shared() | merge.together(run, ["client-0", "client-1"])
    folded = fold(run.backbone, run.job.algorithm.parts, both, 2)
    assert_close(loaded(tmp_path / "model"), _attached(run, folded, run.shared()))
    assert set(run.names) <= set(made.scores)
    for k, name in enumerate(run.names):
        assert list(made.scores[name]) == ["base", "shared", "personal", "merged"]
        again = scoring.score(run, k, run.views(k))
        assert again["personal"] == made.scores[name]["personal"], "nothing is left on the backbone"


def _attached(run, folded, state):
    """Logits with the experts beside the run's backbone, and the shared parts of a state in force."""
    shared = {n: t for n, t in state.items() if part_of(n) == "lora"}
    handles = code.attach(run.backbone.model, {"private": folded.told["private"]})
    run.backbone.model.load_state_dict(folded.beside, strict=False, assign=True)
    try:
        return logits(run, shared)
    finally:
        for handle in handles:
            handle.remove()
        for own in folded.told["private"]:
            delattr(run.backbone.model.get_submodule(own["block"]), own["name"])


def test_weights_of_several_clients_by_hand():
    """Scores 0 and ln 3: gates 1/2 and 3/4, shares of the clients 1/4 and 3/4, so 1/8 and 9/16. In route with two logits of 0 the
    softmax runs over ln 2, 0 and ln 3: 2/6, 1/6 and 3/6; a scale of 2 doubles the experts'."""
    for mode, kept, own in (
        ("add", None, (1 / 8, 9 / 16)),
        ("mix", 1 - 11 / 16, (1 / 8, 9 / 16)),
        ("route", 1 / 3, (1 / 3, 1.0)),
    ):
        told = {
            "mode": mode,
            "clients": 2,
            "scale": 2.0,
            "tensors": {"down": [2, 1, 1], "gate_weight": [2, 1], "gate_bias": [2]},
        }
        private = code.PrivateExperts(told).requires_grad_(False)
        private.gate_weight.zero_()
        private.gate_bias.copy_(torch.tensor([1.0, 3.0]).log())
        left, weights = private.weights(torch.ones(1, 1), torch.zeros(1, 2))
        torch.testing.assert_close(weights, torch.tensor([own]))
        assert (left is None) == (kept is None)
        if left is not None:
            torch.testing.assert_close(left, torch.tensor([[kept]]))


@pytest.mark.parametrize(
    ("name", "settings", "why"),
    [
        ("fedavg", {}, "no private expert"),
        ("local", {}, "the private part 'lora'"),
        ("flex", {"gate": {"mode": "in_place"}, "graft": {"start": "copy"}}, "no trained gate"),
    ],
)
def test_methods_without_experts_to_share_are_refused(finished, tmp_path, name, settings, why):
    with pytest.raises(
        ConfigError, match=f"run: expected a method with private experts and gates alone, got {name} with {why}"
    ):
        merge.merge(finished(name, **settings), ["client-0", "client-1"], tmp_path / "out")
    with pytest.raises(ConfigError, match="--clients: expected two or more names"):
        merge.merge(finished("flex"), ["client-0"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_newcomer_joins_and_nothing_else_changes(finished, file, tmp_path):
    run = finished("flex")
    before = files(run.path)
    made = join(run.path, file, steps=6)
    after = files(run.path)
    assert {n: after[n] for n in before} == before
    assert {n.parts[0] for n in after.keys() - before.keys()} == {"joined"}
    assert oct(made.path.stat().st_mode)[-3:] == "700"
    assert made.scores["personal"]["loss"] < made.scores["shared"]["loss"] < 20
    state = run.personal("newcomer")
    shared = {n: t for n, t in run.shared().items() if part_of(n) == "lora"}
    assert all(torch.equal(state[n], t) for n, t in shared.items()), "what is shared stood still"
    export(run, tmp_path / "model", "newcomer")
    assert_close(loaded(tmp_path / "model"), logits(run, state))
    assert asking.generate(run, ["What?"], asking.models(run, every=True))[-1].model == "newcomer"
    with pytest.raises(ConfigError, match="--name: expected a name under which nobody joined, got 'newcomer'"):
        join(run.path, file)
    again = join(run.path, file, steps=6, again=True)
    assert again.scores == made.scores and list(joined.names(run.path)) == ["newcomer"]
    merged = merge.merge(run, ["client-0", "newcomer"], tmp_path / "both")
    assert merged.scores["newcomer"]["personal"] == made.scores["personal"], "scored on its own rows, which the run keeps"
    assert merged.scores["newcomer"]["merged"]["loss"] < made.scores["shared"]["loss"]


@pytest.mark.parametrize(
    "name", ["fedalt", "fed_dpa", "ditto", "comigs", "local", "flex_validated", "fedrep", "cluster_routing", "hetlora"]
)
def test_one_can_join_other_methods(finished, file, name):
    run = finished(name)
    made = join(run.path, file, name=f"to {name}", steps=2)
    private = bool(run.job.algorithm.private)
    assert (made.scores["personal"]["loss"] != made.scores["shared"]["loss"]) == private
    assert made.scores["base"]["loss"] != made.scores["personal"]["loss"]


def test_whoever_missed_what_was_folded_in_cannot_join(finished, file):
    with pytest.raises(ConfigError, match="run: expected a method that a client can join late, got flora"):
        join(finished("flora").path, file)


def test_the_commands_answer(finished, file, tmp_path):
    run = finished("flex").path
    made = json.loads(call("export", run, "--client", "client-0", "--out", tmp_path / "a", "--json").stdout)
    assert made["kind"] == "custom" and "trust_remote_code=True" in made["load"]
    assert "merged" in call("merge", run, "--clients", "client-0,client-1", "--out", tmp_path / "b").stdout
    answers = json.loads(call("generate", run, "Hi", "--all", "--max-new-tokens", "2", "--json").stdout)
    assert {a["model"] for a in answers} >= {"client-0", "client-1"}
    told = call("join", run, "--data", file, "--name", "late", "--steps", "1").stdout
    assert "rows    12 train · 2 valid · 2 test" in told and "late" in told


def test_a_client_that_never_trained_serves_as_a_newcomer_and_a_lost_state_is_an_error(finished, tmp_path):
    run = finished("ditto", {"cohort": 1, "evaluation": {"last": "cohort"}})
    (never,) = [k for k in range(2) if not run.took_part(k)]
    export(run, tmp_path / "never", run.names[never])
    assert_close(loaded(tmp_path / "never"), logits(run, {}))
    shutil.copytree(run.path, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "private")
    with pytest.raises(
        ConfigError,
        match=f"storage.private: expected the private state of client client-{1 - never} after round 0, got 'none in",
    ):
        open_run(tmp_path / "run").personal(f"client-{1 - never}")


def test_a_model_in_bfloat16_stays_one(finished, tmp_path):
    """To its rounding: what is merged is rounded once more."""
    run = finished("flex", {"model": {"dtype": "bfloat16"}})
    assert export(run, tmp_path / "model", "client-0").bytes < 1e6
    ours, theirs = logits(run, run.personal("client-0")), loaded(tmp_path / "model")
    assert theirs.dtype == ours.dtype == torch.bfloat16
    torch.testing.assert_close(theirs, ours, rtol=0.02, atol=0.01)


def test_names_with_commas_can_be_merged(finished):
    run = finished("flex")
    assert merge.listed(run, ["client-0, client-1", "x"]) == ["client-0", "client-1", "x"]
    named = replace(run.job, clients=(replace(run.job.clients[0], name="York, UK"), run.job.clients[1]))
    assert merge.listed(replace(run, job=named), ["York, UK", "client-1"]) == ["York, UK", "client-1"]
