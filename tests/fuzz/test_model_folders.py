"""Model folders that are broken in any way: refused as `model.path`, and nothing of them is ever run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from flexray import api
from flexray.errors import ConfigError
from flexray.models import backbone, checkpoint, tiny
from flexray.models.options import Model
from flexray.models.tokenizer import Tokenizer
from tests.fuzz.malformed import SHARP
from tests.fuzz.test_configs import PROBLEM
from tests.models.saved import save

ONE, INDEX = "model.safetensors", "model.safetensors.index.json"
Change = Callable[[Path], Any]


class Trap:
    """Unpickled, it leaves a file."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """A model in one file, and the same in three."""
    out = tmp_path_factory.mktemp("models")
    return save(out / "one"), save(out / "three", shard="50KB")


@pytest.fixture
def refused(folders, tmp_path) -> Callable[..., str]:
    def go(change: Change, sharded: bool = False, **options: Any) -> str:
        path = tmp_path / "model"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(folders[sharded], path)
        change(path)
        with pytest.raises(ConfigError) as e:
            backbone.prepare(Model(path=str(path), **options), tmp_path / "cache")
        assert all(PROBLEM.fullmatch(problem) for problem in e.value.problems)
        assert not [p for p in (tmp_path / "cache").glob("*/") if p.name != "digests"]
        return str(e.value)

    return go


def text(name: str, content: str | bytes) -> Change:
    return lambda path: (path / name).write_bytes(content.encode() if isinstance(content, str) else content)


def keys(**changed: Any) -> Change:
    def change(path: Path) -> None:
        found = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(found | changed))

    return change


def index(change_of: Callable[[dict[str, Any]], Any]) -> Change:
    def change(path: Path) -> None:
        found = json.loads((path / INDEX).read_text())
        change_of(found["weight_map"])
        (path / INDEX).write_text(json.dumps(found))

    return change


def weights(change_of: Callable[[dict[str, torch.Tensor]], Any]) -> Change:
    def change(path: Path) -> None:
        found = load_file(path / ONE)
        save_file(change_of(found), path / ONE, metadata={"format": "pt"})

    return change


@pytest.mark.parametrize("content", ["", "{", "[]", "5", "null", '{"a": ', b'{"a": "\xe9"}', "[" * 100_000])
def test_a_config_that_is_none(refused, content):
    assert "expected a readable config.json" in refused(text("config.json", content))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model_type": "nonesuch"}, "a config.json that transformers can read"),
        ({"model_type": ["x"]}, "a config.json that transformers can read"),
        ({"hidden_size": -1}, "a config that describes a model"),
        ({"num_attention_heads": 0}, "a config that describes a model"),
        ({"num_experts": 0}, "a mixture-of-experts model"),
        ({"quantization_config": {"quant_method": ["x"]}}, "weights that are not quantised"),
        ({"_attn_implementation": "somebody/kernel"}, "a config.json that brings no code of the hub"),
        ({"text_config": {"experts_implementation": "some/body:x"}}, "a config.json that brings no code of the hub"),
        ({"model_type": "mine", "auto_map": {"AutoConfig": "code.X"}}, "model.trust_remote_code: expected true for"),
        ({"model_type": "mine", "auto_map": 5}, "model.trust_remote_code: expected true for"),
    ],
)
def test_a_config_that_does_not_do(refused, changed, said):
    assert said in refused(keys(**changed))


def test_code_beside_a_known_model_is_left_alone(folders, tmp_path):
    shutil.copytree(folders[0], tmp_path / "model")
    keys(auto_map={"AutoConfig": "code.X", "AutoModelForCausalLM": "code.Y"})(tmp_path / "model")
    (tmp_path / "model" / "code.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'run')!r})\n")
    loaded = backbone.load(backbone.prepare(Model(path=str(tmp_path / "model")), tmp_path / "cache"))
    assert type(loaded.model).__module__.startswith("transformers.") and not (tmp_path / "run").exists()


def test_pickles_are_not_read(refused, tmp_path):
    trap = pickle.dumps(Trap(tmp_path / "sprung"))

    def alone(path: Path) -> None:
        (path / ONE).rename(path / "gone")
        (path / "pytorch_model.bin").write_bytes(trap)

    assert "pickled weights are not loaded, since they can run code" in refused(alone)
    assert "expected weights that can be read" in refused(text(ONE, trap))
    places = index(lambda p: p.update({min(p): "pytorch_model.bin"}))
    assert "names of safetensors files" in refused(places, sharded=True)
    assert not (tmp_path / "sprung").exists()
    pickle.loads(trap)
    assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize("harm", ["cut", "turned", "empty", "long"])
def test_damaged_weights(refused, harm):
    def change(path: Path) -> None:
        whole = (path / ONE).read_bytes()
        made = {"cut": whole[:-100], "turned": whole[:20] + b"?" + whole[21:], "empty": b"", "long": b"\xff" * 64}
        (path / ONE).write_bytes(made[harm])

    assert "expected weights that can be read" in refused(change)


def test_an_index_that_does_not_fit_its_files(refused):
    first = "model-00001-of-00003.safetensors"
    said = refused(index(lambda p: p.update({"model.layers.9.x": first})), sharded=True)
    assert f"expected {first} with all that {INDEX} says, got \"it without 'model.layers.9.x'\"" in said
    assert "with all that" in refused(index(lambda p: p.update({min(p): max(p.values())})), sharded=True)
    for place in ("../one/model.safetensors", "/etc/passwd", 5, None):
        assert f"names of safetensors files in {INDEX}" in refused(index(lambda p: p.update({min(p): place})), sharded=True)  # noqa: B023
    assert f"names of safetensors files in {INDEX}" in refused(index(dict.clear), sharded=True)
    for content in ("[]", '{"weight_map": [1]}', "{}"):
        assert INDEX in refused(text(INDEX, content), sharded=True)
    assert "got 'no model-00009.safetensors'" in refused(
        index(lambda p: p.update({min(p): "model-00009.safetensors"})), sharded=True
    )
    assert f"got 'no {first}'; complete the folder" in refused(lambda path: (path / first).unlink(), sharded=True)


def test_weights_that_are_no_real_numbers(refused):
    for dtype in (torch.int8, torch.bool, torch.int64, torch.float8_e4m3fn, torch.complex64):
        said = refused(weights(lambda found: {n: t.to(dtype) for n, t in found.items()}))  # noqa: B023
        assert "weights of real numbers" in said and f"in {ONE}" in said
    said = refused(weights(lambda found: found | {"lm_head.weight": found["lm_head.weight"] * float("nan")}))
    assert "weights that are numbers, got \"some in 'lm_head.weight' that are not" in said


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000, "~nobody/x", "", " ", "a/b/c", "\ud800"])
def test_paths_that_are_none(path, tmp_path):
    with pytest.raises(ConfigError, match=r"^model\.path: expected "):
        backbone.prepare(Model(path=path), tmp_path)


def test_tokenizers(tmp_path):
    def said(change: Change) -> str:
        path = tmp_path / "tokenizer"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(tiny.folder(), path)
        change(path)
        with pytest.raises(ConfigError) as e, checkpoint.quiet():
            Tokenizer(path)
        assert PROBLEM.fullmatch(str(e.value))
        return str(e.value)

    assert "check the path or add its tokenizer.json" in said(lambda path: [f.unlink() for f in path.glob("*token*")])
    known = json.loads((tiny.folder() / "tokenizer.json").read_text())
    nothing = json.dumps(
        known | {"model": known["model"] | {"vocab": {}, "merges": []}, "added_tokens": known["added_tokens"][:1]}
    )
    assert "expected a tokenizer that knows some text" in said(text("tokenizer.json", nothing))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        for content in ("{", "[]", "5", b"\xe9"):
            assert "expected a model with a tokenizer" in said(text(name, content))


@pytest.mark.parametrize(
    "changed",
    [
        {"num_experts": 10**12},
        {"hidden_size": 10**7},
        {"vocab_size": 10**12},
        {"moe_intermediate_size": 10**9, "num_experts": 10**6},
    ],
)
def test_sizes_beyond_the_weights(refused, changed, monkeypatch):
    """Told from the config and the files' sizes: nothing as large is asked of the memory."""
    monkeypatch.setattr(torch, "randn", lambda *_, **__: pytest.fail("a forward was tried"))
    assert "expected a config.json that fits the weights beside it, got '" in refused(keys(**changed))


def test_layers_beyond_all_models(refused, monkeypatch):
    monkeypatch.setattr(checkpoint, "read_config", lambda *_: pytest.fail("a list of that length was made"))
    for changed in ({"num_hidden_layers": 10**12}, {"text_config": {"n_layers": 1001}}):
        assert "expected at most 1,000 layers, got '" in refused(keys(**changed))


@pytest.mark.parametrize("name", ["config.json", ONE, "tokenizer_config.json", "beside"])
@pytest.mark.parametrize("what", ["pipe", "device"])
def test_what_never_ends(refused, name, what):
    def change(path: Path) -> None:
        (path / name).unlink(missing_ok=True)
        os.mkfifo(path / name) if what == "pipe" else (path / name).symlink_to("/dev/zero")

    assert f"model/{name}, a pipe or a device'; take it away" in refused(change)


def test_weights_are_looked_at_before_they_are_read(refused, monkeypatch):
    monkeypatch.setattr(backbone, "_digest", lambda *_: pytest.fail("all of it was read"))
    assert "expected weights that can be read" in refused(lambda path: os.truncate(path / ONE, 1 << 40))


def test_a_tokenizer_of_another_model(folders, tmp_path, small, cache):
    """Told before a run begins, not by whoever looks its tokens up."""
    shutil.copytree(folders[0], tmp_path / "model")
    for file in tiny.folder().glob("*token*"):
        shutil.copy(file, tmp_path / "model")
    with pytest.raises(ConfigError, match=r"expected a tokenizer of the model's own 64 tokens, got 'token [\d,]+ in the data'"):
        api.simulate(small(model={"path": str(tmp_path / "model")}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("template", ["{% for", "{{ raise_exception('no') }}", "{{ ''.__class__.__mro__ }}", "{{ 1 / 0 }}"])
def test_chat_templates(tmp_path, template):
    shutil.copytree(tiny.folder(), tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text(template)
    with pytest.raises(ConfigError, match=r"data\.prompt: expected a chat template that can be filled in, .*to alpaca"):
        Tokenizer(tmp_path / "model").chat([{"role": "user", "content": "a"}])


def _spoilt(values: dict[str, Any]) -> Iterator[st.SearchStrategy[dict[str, Any]]]:
    sharp = st.sampled_from([v for v in SHARP if isinstance(v, (str, int, float, list, dict, type(None))) and v != 10**30])
    fine = sharp.filter(lambda v: not isinstance(v, int) or isinstance(v, bool) or v <= 3)  # a layer is made for each
    yield st.builds(lambda key, value: values | {key: value}, st.sampled_from(sorted(values)), fine)
    yield st.sampled_from(sorted(values)).map(lambda key: {k: v for k, v in values.items() if k != key})


def check(folders: tuple[Path, Path], tmp_path: Path, examples: int) -> None:
    good = json.loads((folders[0] / "config.json").read_text())

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(st.one_of(*_spoilt(good)))
    def holds(values: dict[str, Any]) -> None:
        try:
            (tmp_path / "config.json").write_text(json.dumps(values))
        except (TypeError, ValueError):
            return
        try:
            backbone.skeleton(Model(path=str(tmp_path)))
        except ConfigError as e:
            assert all(PROBLEM.fullmatch(problem) for problem in e.problems)

    holds()


def test_configs_with_odd_values(folders, tmp_path):
    check(folders, tmp_path, 60)


@pytest.mark.slow
def test_configs_with_many_odd_values(folders, tmp_path):
    check(folders, tmp_path, 800)
