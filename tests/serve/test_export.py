"""Exported models: the same logits in plain transformers, for every method, and without flexray."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from flexray import folder
from flexray.errors import ConfigError
from flexray.serve.export import asked_for, export
from tests.serve.conftest import IDS, assert_close, loaded, logits

METHODS = sorted(folder.listing("algorithms"))
SETTINGS = {"pfedme": {"inner": 1, "strength": 0.01}, "flex_validated": {"graft": {"calibration_rows": 4}}}
CUSTOM = {"flex", "flex_validated", "local", "fedper", "fedrep", "fedalt", "comigs", "fed_dpa"}
"""Methods whose clients are no plain model: a grafted expert with a gate, or weighed adapters."""


@pytest.mark.parametrize("name", METHODS)
def test_every_methods_client_answers_with_the_same_logits(finished, tmp_path, name):
    run = finished(name, **SETTINGS.get(name, {}))
    state = run.personal("client-1")
    made = export(run, tmp_path / "model", "client-1")
    assert made.kind == ("custom" if name in CUSTOM else "plain")
    ours = logits(run, state)
    assert_close(loaded(tmp_path / "model"), ours)
    assert (ours - logits(run, {})).abs().max() > 1e-3, "what was trained has an effect"
    assert {f.suffix for f in (tmp_path / "model").iterdir()} <= {".json", ".safetensors", ".md", ".py", ".jinja"}


@pytest.mark.parametrize("name", ["flex", "fedalt", "flora", "flame"])
def test_the_shared_model_is_plain(finished, tmp_path, name):
    run = finished(name)
    assert export(run, tmp_path / "model", what="shared").kind == "plain"
    assert_close(loaded(tmp_path / "model"), logits(run, run.shared()))


def test_without_flexray_a_folder_loads_and_reads_text(finished, tmp_path):
    """In a process in which flexray cannot be imported; nobody loads the custom one by accident without its code."""
    run = finished("flex")
    export(run, tmp_path / "mine", "client-0")
    export(run, tmp_path / "plain", what="base")
    code = f"""
import sys, json, torch
sys.modules["flexray"] = None
from transformers import AutoModelForCausalLM, AutoTokenizer
try:
    AutoModelForCausalLM.from_pretrained({str(tmp_path / "mine")!r}, trust_remote_code=False)
    raise SystemExit("loaded without its code")
except ValueError as e:
    assert "trust_remote_code" in str(e)
told = []
for folder, trust in (({str(tmp_path / "mine")!r}, True), ({str(tmp_path / "plain")!r}, False)):
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=trust)
    ids = torch.tensor({IDS.tolist()})
    said = model.generate(ids, max_new_tokens=3, do_sample=False)
    text = "### Instruction: what is it?"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    told.append(model(ids).logits.tolist())
print(json.dumps(told))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    mine, base = json.loads(done.stdout)
    assert_close(torch.tensor(mine), logits(run, run.personal("client-0")))
    assert_close(torch.tensor(base), logits(run, {}))


@pytest.mark.parametrize(
    ("name", "client"), [("fedavg", "client-0"), ("fedsa_lora", "client-0"), ("ditto", "client-1"), ("flex", None)]
)
def test_an_adapter_in_pefts_format_adds_what_flexray_adds(finished, tmp_path, name, client):
    """Merged as PEFT merges it: W + (lora_alpha / r)·B·A."""
    run = finished(name)
    made = export(run, tmp_path / "adapter", client, "shared" if client is None else "personal", as_adapter=True)
    assert made.kind == "adapter"
    told = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert told["peft_type"] == "LORA" and told["target_modules"]
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    model = run.backbone.model
    saved = {n: p.clone() for n, p in model.named_parameters()}
    try:
        for path in told["target_modules"]:
            a, b = (tensors[f"base_model.model.{path}.lora_{x}.weight"] for x in "AB")
            assert len(a) == told["r"]
            weight = model.get_parameter(f"{path}.weight")
            weight.copy_(weight + told["lora_alpha"] / told["r"] * b @ a)
        merged = logits(run, {})
    finally:
        for n, p in model.named_parameters():
            p.copy_(saved[n])
    assert len(tensors) == 2 * len(told["target_modules"])
    assert_close(merged, logits(run, run.shared() if client is None else run.personal(client)))


@pytest.mark.parametrize(
    ("name", "kind"), [("flex", "expert"), ("fedalt", "mixer"), ("fed_dpa", "anchors"), ("flora", "delta"), ("flame", "routed")]
)
def test_what_peft_cannot_express_is_refused_before_anything_is_written(finished, tmp_path, name, kind):
    with pytest.raises(
        ConfigError, match=rf"--adapter: expected adapters .*\({kind}\), which PEFT cannot express: .*; export without"
    ):
        export(finished(name), tmp_path / "out", "client-0", as_adapter=True)
    assert not (tmp_path / "out").exists()


def test_wrong_names_and_folders_leave_nothing(finished, tmp_path):
    run = finished("flex")
    with pytest.raises(ConfigError, match=r"--client: expected a client of the run, got 'client-9'; did you mean 'client-"):
        export(run, tmp_path / "out", "client-9")
    with pytest.raises(ConfigError, match="--client: expected one of a client's name, --shared and --base"):
        asked_for(tmp_path / "out", None, False, False)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    with pytest.raises(ConfigError, match=r"--client: expected one of .*, got '--client and --base'"):
        asked_for(tmp_path / "out", "client-0", False, True)
    with pytest.raises(ConfigError, match=r"--out: expected a folder that can be written to, got '.*/there/file/out'"):
        export(run, tmp_path / "there" / "file" / "out", "client-0")
    with pytest.raises(ConfigError, match="--out: expected a new or empty folder"):
        export(run, tmp_path / "there", "client-0")
    assert [f.name for f in tmp_path.iterdir()] == ["there"]


def test_clusters_have_no_one_shared_model(finished, tmp_path):
    run = finished("cluster_routing")
    if len(run.server.states) > 1:
        with pytest.raises(ConfigError, match="--shared: expected a run with one shared model"):
            export(run, tmp_path / "out", what="shared")
