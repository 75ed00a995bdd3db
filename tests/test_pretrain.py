import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from flexray import pretrain, recipe
from flexray.errors import ConfigError
from flexray.models import tiny

# Ray's own: its data options warn of themselves when they are unpickled.
pytestmark = pytest.mark.filterwarnings("ignore:`use_.*` is deprecated:DeprecationWarning")
SMALL = (
    "data.rows=300", "data.held_out=40", "tokenizer.size=400", "steps=12", "warmup=2", "batch=8", "resources.threads=1",
    "model.fields={hidden_size: 32, num_hidden_layers: 1, num_experts: 4, moe_intermediate_size: 16, shared_expert_intermediate_size: 16}",
)  # fmt: skip


def make(out: Path, *sets: str, lines: list[str] | None = None) -> dict:
    return pretrain.run(None, (*SMALL, *sets), out, [].append if lines is None else lines.append)


@pytest.fixture(scope="module")
def base(ray_here, tmp_path_factory):
    folder, lines = tmp_path_factory.mktemp("base") / "made", []
    return folder, make(folder, lines=lines), lines


def test_the_base_is_loaded_by_plain_transformers(base):
    folder, _, _ = base
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert model.config.vocab_size == len(tokenizer) == 400
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert sorted(f.name for f in folder.iterdir()) == [
        "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json", "training.json",
    ]  # fmt: skip


def test_training_has_moved_the_weights_and_lowered_the_loss(base):
    folder, record, lines = base
    model = AutoModelForCausalLM.from_pretrained(folder)
    fresh = tiny.build(0, model.config)
    assert not torch.allclose(model.lm_head.weight.float(), fresh.lm_head.weight, atol=1e-3)
    losses = [float(line.split("loss ")[1].split(",")[0]) for line in lines if line.startswith("step")]
    assert len(losses) == 12
    assert losses[-1] < losses[0]
    assert record["overall"]["loss"] < 6.0
    assert set(record["exact_match"]) == set(record["loss"]) == set(record["rows"])


def test_the_record_holds_the_recipe(base):
    folder, record, _ = base
    written = json.loads((folder / "training.json").read_text())
    assert written == record
    assert recipe.Recipe(**written["recipe"]).steps == 12


@pytest.mark.slow
def test_the_same_recipe_gives_the_same_bytes(base, tmp_path):
    folder, _, _ = base
    make(tmp_path / "again")
    for file in folder.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.slow
def test_two_workers_do_what_one_does(base, tmp_path):
    """To rounding: without the balance loss, which each worker has its own of."""
    one, two = ("dtype=float32", "balance=0", "steps=3"), ("dtype=float32", "balance=0", "steps=3", "resources.workers=2")
    make(tmp_path / "one", *one)
    make(tmp_path / "two", *two)
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_any_corpus_with_any_tokenizer(base, tmp_path):
    rows = [{"q": f"Say {i}", "a": str(i), "k": "odd" if i % 2 else "even"} for i in range(60)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sets = (
        f"data.path={tmp_path / 'rows.jsonl'}", "data.columns={instruction: q, output: a, label: k}", "data.held_out=20",
        f"tokenizer.path={base[0]}", "steps=2", "warmup=0", "batch=8", "resources.threads=1",
        "model.fields={hidden_size: 32, num_hidden_layers: 1, num_experts: 4}",
    )  # fmt: skip
    record = pretrain.run(None, sets, tmp_path / "out", [].append)
    assert set(record["rows"]) == {"odd", "even"}
    assert sum(record["rows"].values()) == 20
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (base[0] / "tokenizer.json").read_bytes()


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (("stepps=3",), r"stepps: expected a known key, got an unknown one; did you mean 'steps'\?"),
        (("data.rowz=3",), r"data.rowz: expected a known key, got an unknown one; did you mean 'data.rows'\?"),
        (("steps=0",), r"steps: expected a whole number of at least 1, got 0"),
        (("lr=fast",), r"lr: expected a number above 0, got 'fast'"),
        (("dtype=int8",), r"dtype: expected float32 or bfloat16, got 'int8'"),
        (("warmup=12",), r"warmup: expected less than steps \(12\), got 12; lower it"),
        (("batch=2", "resources.workers=3"), r"batch: expected at least resources.workers \(3\), got 2"),
        (("data.keep={domain: [units]}",), r"data.keep: expected none with the built-in corpus"),
        (("data.path=rows.jsonl",), r"data.rows: expected none with 'rows.jsonl', got 300; it is for the built-in corpus"),
        (("tokenizer.path=somewhere",), r"tokenizer.size: expected none with tokenizer.path, got 400; drop one"),
    ],
)
def test_wrong_recipes_are_refused(tmp_path, sets, message):
    with pytest.raises(ConfigError, match=message):
        make(tmp_path / "out", *sets)
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_is_not_there_is_refused(tmp_path):
    sets = [s for s in SMALL if not s.startswith("tokenizer")]
    with pytest.raises(ConfigError, match=r"tokenizer.path: expected a model with a tokenizer, got './nowhere'"):
        pretrain.run(None, (*sets, "tokenizer.path=./nowhere"), tmp_path / "out", [].append)


def test_what_is_no_base_is_not_written_over(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(ConfigError, match=r"--out: expected a new folder or that of an earlier base, got .*; choose another"):
        make(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_more_workers_than_the_cluster_has_are_refused(ray_here, tmp_path):
    with pytest.raises(
        ConfigError, match=r"resources.workers: expected at most what the cluster has \(4 CPU\), got a need of 100"
    ):
        make(tmp_path / "out", "resources.threads=100")
    with pytest.raises(
        ConfigError, match=r"resources.workers: expected at most what the cluster has \(0 GPU\), got a need of 1"
    ):
        make(tmp_path / "out", "resources.gpu=true")


def test_the_packaged_bases_recipe_is_read():
    made = recipe.load(Path(__file__).parents[1] / "configs" / "tiny.yaml")
    written = json.loads((tiny.folder() / "training.json").read_text())["recipe"]
    assert recipe.Recipe(**written) == made


def test_an_empty_recipe_is_no_recipe(tmp_path):
    """It would train for minutes what nobody asked for."""
    (tmp_path / "empty.yaml").write_text("# later\n")
    with pytest.raises(ConfigError, match=r"config: expected a recipe, got nothing in '.*empty\.yaml'; write `steps: 3000`"):
        recipe.load(tmp_path / "empty.yaml")
