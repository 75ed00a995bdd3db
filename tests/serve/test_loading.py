"""What people do with an exported folder: other shards, other numbers, batches, PEFT, and every family."""

import pytest
import torch

from flexray import folder
from flexray.models import saving
from flexray.serve import merge
from flexray.serve.export import export
from tests.serve.conftest import FIELDS, IDS, assert_close, loaded, logits
from tests.test_families_end_to_end import save


@pytest.mark.parametrize("tied", [False, True])
def test_shards_are_read_and_written(finished, tmp_path, monkeypatch, tied):
    """A base in several files, and folders in several: of the plain model, and of the one with code of its own."""
    base = save(tmp_path / "model", "qwen2_moe", "100KB", eos_token_id=0, tie_word_embeddings=tied, **FIELDS)
    run = finished("flex", {"model": {"path": str(base)}})
    monkeypatch.setattr(saving, "SHARD", "100KB")
    for what, client in (("personal", "client-0"), ("base", None)):
        export(run, tmp_path / what, client, what)
        assert len(list((tmp_path / what).glob("model-*-of-*.safetensors"))) > 2
        assert_close(loaded(tmp_path / what), logits(run, run.personal(client) if client else {}))


def test_experts_are_run_as_in_the_family(finished, tmp_path):
    """A class of its own in a file of its own would have transformers run the experts one by one."""
    from transformers import AutoModelForCausalLM

    run = finished("flex")
    export(run, tmp_path / "model", "client-0")
    for how in ("grouped_mm", "eager"):
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", trust_remote_code=True, experts_implementation=how)
        assert model.config._experts_implementation == how
        assert_close(model.eval()(input_ids=IDS).logits, logits(run, run.personal("client-0")))


def test_a_loaded_model_is_saved_halved_and_asked_in_batches(finished, tmp_path):
    """What people do with a model next: its cache, padding, other numbers, and saving it again change no answer."""
    from transformers import AutoModelForCausalLM

    export(finished("flex"), tmp_path / "model", "client-0")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", trust_remote_code=True).eval()
    row = {"input_ids": IDS[:1], "attention_mask": torch.ones_like(IDS[:1])}
    asked = {"min_new_tokens": 6, "max_new_tokens": 6, "do_sample": False}
    said = model.generate(**row, **asked)[0, IDS.shape[1] :]
    assert torch.equal(said, model.generate(**row, **asked, use_cache=False)[0, IDS.shape[1] :])
    padded = {"input_ids": torch.zeros_like(IDS), "attention_mask": torch.zeros_like(IDS)}
    padded = {name: torch.cat([t, row[name][:, :-9]], 1) for name, t in ((n, t[:1, :9]) for n, t in padded.items())}
    both = {name: torch.cat([row[name], padded[name]]) for name in row}
    alone = model.generate(IDS[:1, :-9], attention_mask=row["attention_mask"][:, :-9], **asked)[0, IDS.shape[1] - 9 :]
    for own, answer in zip((said, alone), model.generate(**both, **asked)[:, IDS.shape[1] :], strict=True):
        assert torch.equal(own, answer)
    model.save_pretrained(tmp_path / "again")
    assert torch.equal(loaded(tmp_path / "again"), model(input_ids=IDS).logits)
    assert model.half()(input_ids=IDS).logits.dtype == torch.float16


@pytest.mark.slow
@pytest.mark.parametrize("family", [name for name in folder.listing("models/families") if name != "general"])
def test_of_every_family_a_run_is_exported_and_merged(finished, tmp_path, family):
    fields = folder.load("models/families", family, "model.family")().example()
    run = finished("flex", {"model": {"path": str(save(tmp_path / "model", **fields))}})
    for what, client in (("personal", "client-1"), ("base", None), ("shared", None)):
        export(run, tmp_path / what, client, what)
        state = {"base": dict, "shared": run.shared}[what]() if client is None else run.personal(client)
        assert_close(loaded(tmp_path / what), logits(run, state))
    export(run, tmp_path / "adapter", what="shared", as_adapter=True)
    scores = merge.merge(run, run.names, tmp_path / "merged").scores
    assert loaded(tmp_path / "merged").isfinite().all() and set(scores) == set(run.names)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # of PEFT to transformers
@pytest.mark.parametrize(("name", "client"), [("fedavg", "client-0"), ("ditto", "client-1"), ("flex", None)])
def test_peft_itself_reads_an_adapter(finished, tmp_path, name, client):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    from transformers import AutoModelForCausalLM

    run = finished(name)
    what = "shared" if client is None else "personal"
    export(run, tmp_path / "base", what="base")
    export(run, tmp_path / "adapter", client, what, as_adapter=True)
    ours = logits(run, run.shared() if client is None else run.personal(client))
    model = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    assert_close(model.eval()(input_ids=IDS).logits, ours)
    assert_close(model.merge_and_unload()(input_ids=IDS).logits, ours)
    found = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
    assert_close(found(input_ids=IDS).logits, ours)
