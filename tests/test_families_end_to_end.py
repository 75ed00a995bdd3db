"""Any transformers MoE: a random tiny model of each family, saved as people save models, through a whole run."""

import pytest

from flexray import api, folder
from flexray.errors import ConfigError
from flexray.models import checkpoint
from flexray.models.options import Model
from flexray.models.tokenizer import Tokenizer

FAMILIES = [name for name in folder.listing("models/families") if name != "general"]


def save(path, model_type: str, shard: str = "1GB", **fields: object):
    """A random model of this type with the built-in tokenizer, in the layout that its family stores."""
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = Tokenizer(checkpoint.locate(Model()))
    config = AutoConfig.for_model(model_type, **(fields | {"vocab_size": tokenizer.vocabulary}))
    AutoModelForCausalLM.from_config(config).save_pretrained(path, max_shard_size=shard)
    tokenizer.save(path)
    return path


@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_folder_of_every_family_runs(small, tmp_path, name):
    family = folder.load("models/families", name, "model.family")()
    path = save(tmp_path / "model", **family.example())
    x = small(model={"path": str(path)}, rounds=1, clients=2)
    plans = []
    run = api.simulate(x, tmp_path / "run", watch=plans.append)
    assert plans[0].family == name
    assert plans[0].shared > 0 and plans[0].private > 0
    moved = {r["view"]: r["value"] for r in run.clients() if r["round"] == 1 and r["metric"] == "loss" and r["client"] == 0}
    start = next(r["value"] for r in run.clients() if r["round"] == 0 and r["metric"] == "loss" and r["client"] == 0)
    assert len({start, *moved.values()}) == 3, "both the shared and the private part have an effect"


def test_bf16_runs(small, tmp_path):
    run = api.simulate(small(model={"path": "tiny", "dtype": "bfloat16"}, rounds=1, clients=2), tmp_path / "run")
    assert run.summary["mean"]["personal"]["loss"] < 20


def test_a_dense_model_is_refused(small, tmp_path):
    fields = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    path = save(tmp_path / "dense", model_type="llama", **fields)
    with pytest.raises(ConfigError, match=r"model\.path: expected .*dense"):
        api.simulate(small(model={"path": str(path)}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
