"""Small runs of every method on one small random model, played once each, and logits to compare."""

import json

import pytest
import torch
from typer.testing import CliRunner

from flexray import api
from flexray.cli import app
from flexray.serve.finished import Finished, open_run
from flexray.state import State, part_of
from tests.conftest import merged
from tests.test_families_end_to_end import save

FIELDS = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48,
    "moe_intermediate_size": 16, "shared_expert_intermediate_size": 24, "num_experts": 6, "num_experts_per_tok": 2,
    "max_position_embeddings": 1024, "bos_token_id": None,
}  # fmt: skip
FAST = {
    "rounds": 1, "clients": 2, "train": {"steps": 2, "batch": 2, "lr": 0.03},
    "evaluation": {"every": None, "inside_rows": 0, "metrics": ["loss"]},
}  # fmt: skip
IDS = torch.randint(5, 60, (2, 24), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def random_model(tmp_path_factory):
    """A model that no run has trained, with the built-in tokenizer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return save(tmp_path_factory.mktemp("random") / "model", "qwen2_moe", eos_token_id=0, **FIELDS)


@pytest.fixture(scope="session")
def finished(small, random_model, tmp_path_factory):
    """A finished run of a method: finished("flex", gate={"mode": "mix"})."""
    done: dict[str, Finished] = {}

    def play(name: str, more: dict | None = None, **settings) -> Finished:
        key = str((name, more, settings))
        if key not in done:
            fields = merged({**FAST, "model": {"path": str(random_model)}}, more or {})
            x = small(algorithm={"name": name, **settings}, **fields)
            done[key] = open_run(api.simulate(x, tmp_path_factory.mktemp(name) / "run").path)
        return done[key]

    yield play
    for run in done.values():
        run.close()


def logits(run: Finished, state: State) -> torch.Tensor:
    """What flexray's own forward makes of fixed tokens with this state in force; the whole row is prompt."""
    run.seats.put({name: t[None] for name, t in state.items()})
    starts = torch.full((len(IDS),), IDS.shape[1])
    with torch.no_grad(), run.seats.using({part_of(name) for name in state}, starts=starts):
        return run.backbone.model(input_ids=IDS, use_cache=False).logits


def loaded(folder, ids: torch.Tensor = IDS) -> torch.Tensor:
    """What plain transformers makes of the same tokens with the model in a folder."""
    from transformers import AutoModelForCausalLM

    from flexray.models import checkpoint

    with checkpoint.quiet():
        model, info = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    assert not any(info.values()), info
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


def assert_close(x: torch.Tensor, y: torch.Tensor) -> None:
    torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)


ROWS = [{"instruction": f"What is the colour of thing {i}?", "output": f"It is green {i}."} for i in range(20)]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "newcomer.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def call(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def files(path):
    return {f.relative_to(path): f.read_bytes() for f in path.rglob("*") if f.is_file()}
