"""The backbone: converted once, mapped by everybody, equal to what transformers loads."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from flexray import folder
from flexray.models import backbone, checkpoint, experts
from flexray.models.options import Model
from tests.models.saved import TOKENS, plain, save

ALL = list(folder.listing("models/families"))


def prepared(tmp_path: Path, name: str = "qwen2_moe", dtype="float32", **changes) -> tuple[Path, Path]:
    """(checkpoint, folder in the cache)."""
    path = save(tmp_path / "model", name, **changes)
    return path, backbone.prepare(Model(path=str(path), dtype=dtype), tmp_path / "cache")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ALL)
def test_equals_what_transformers_loads_bit_for_bit(tmp_path, name, dtype):
    path, converted = prepared(tmp_path, name, dtype)
    loaded, reference = backbone.load(converted), plain(path, getattr(torch, dtype))
    theirs = {**dict(reference.named_parameters()), **dict(reference.named_buffers())}
    ours = {**dict(loaded.model.named_parameters()), **dict(loaded.model.named_buffers())}
    assert ours.keys() == theirs.keys()
    assert all(ours[n].dtype == t.dtype and torch.equal(ours[n], t) for n, t in theirs.items())
    assert not any(p.requires_grad for p in ours.values())
    assert not any(m.training for m in loaded.model.modules())
    assert torch.equal(loaded.model(input_ids=TOKENS).logits, reference(input_ids=TOKENS).logits)
    assert loaded.dtype == getattr(torch, dtype) and loaded.device.type == "cpu"
    assert {b.experts.config._experts_implementation for b in loaded.blocks} == {experts.NAME}


def test_skeleton_knows_the_same_without_reading_weights(tmp_path):
    path, converted = prepared(tmp_path)
    whole = backbone.load(converted)
    for file in path.glob("*.safetensors"):
        file.unlink()
    bare = backbone.skeleton(Model(path=str(path)))
    assert all(p.is_meta for p in bare.model.parameters())
    assert (bare.parameters, bare.bytes, bare.family.name) == (whole.parameters, whole.bytes, "qwen2_moe")
    assert [(b.name, b.scores, b.n_experts) for b in bare.blocks] == [(b.name, b.scores, b.n_experts) for b in whole.blocks]
    assert whole.parameters == sum(p.numel() for p in whole.model.parameters())


def test_converts_once_and_again_when_something_changes(tmp_path, monkeypatch):
    path, first = prepared(tmp_path)
    cache, reads = tmp_path / "cache", []
    read_model = checkpoint.read_model
    monkeypatch.setattr(checkpoint, "read_model", lambda *given: reads.append(1) or read_model(*given))
    assert backbone.prepare(Model(path=str(path)), cache) == first and not reads
    other_dtype = backbone.prepare(Model(path=str(path), dtype="bfloat16"), cache)
    weights = load_file(path / "model.safetensors")
    weights["lm_head.weight"] += 1
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    other_weights = backbone.prepare(Model(path=str(path)), cache)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    other_config = backbone.prepare(Model(path=str(path)), cache)
    assert len({first, other_dtype, other_weights, other_config}) == 4 and len(reads) == 3
    assert not [p for p in cache.iterdir() if p.name.startswith(".")]


def test_a_failed_conversion_leaves_nothing_behind(tmp_path, monkeypatch):
    path = save(tmp_path / "model")
    monkeypatch.setattr("flexray.models.weights.write", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        backbone.prepare(Model(path=str(path)), tmp_path / "cache")
    assert not [p for p in (tmp_path / "cache").iterdir() if p.is_dir() and p.name != "digests"]


@pytest.mark.slow
def test_processes_that_come_together_convert_once(tmp_path):
    path, cache = save(tmp_path / "model"), tmp_path / "cache"
    code = (
        "import sys; from pathlib import Path; from flexray.models import backbone, checkpoint\n"
        "from flexray.models.options import Model\n"
        "read = checkpoint.read_model\n"
        "checkpoint.read_model = lambda *a: print('read') or read(*a)\n"
        "print(backbone.prepare(Model(path=sys.argv[1]), Path(sys.argv[2])))"
    )
    command = [sys.executable, "-c", code, str(path), str(cache)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [p.communicate(timeout=120)[0].split() for p in running]
    assert sum(words.count("read") for words in said) == 1
    assert len({words[-1] for words in said}) == 1


def mapping(file: Path) -> tuple[list[range], int]:
    """Where this process has mapped the file, and how many kB of that are its own memory."""
    ranges, own, inside = [], 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head = line.split()[0]
        if "-" in head and not head.endswith(":"):
            inside = line.endswith(str(file))
            if inside:
                start, end = (int(x, 16) for x in head.split("-"))
                ranges.append(range(start, end))
        elif inside and head == "Anonymous:":
            own += int(line.split()[1])
    return ranges, own


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_weights_are_mapped_and_a_stray_write_stays_here(tmp_path):
    _, converted = prepared(tmp_path)
    file = converted / backbone.WEIGHTS
    content = file.read_bytes()
    loaded = backbone.load(converted)
    tensors = [*loaded.model.parameters(), *loaded.model.buffers()]
    ranges, own = mapping(file)
    assert own == 0
    assert all(any(t.data_ptr() in r for r in ranges) for t in tensors)
    loaded.model(input_ids=TOKENS)
    assert mapping(file)[1] == 0
    weight = loaded.model.get_input_embeddings().weight
    before = weight.clone()
    weight.data.add_(1)
    assert mapping(file)[1] > 0
    assert file.read_bytes() == content
    assert torch.equal(backbone.load(converted).model.get_input_embeddings().weight, before)


def test_tensors_are_aligned_as_fresh_ones_are(tmp_path):
    _, converted = prepared(tmp_path, "gpt_oss")
    loaded = backbone.load(converted).model
    even = [t for t in (*loaded.parameters(), *loaded.buffers()) if t.nbytes % 64 == 0]
    assert len(even) > 20 and all(t.data_ptr() % 64 == 0 for t in even)


def test_tied_embeddings_stay_tied_and_are_kept_once(tmp_path):
    path, converted = prepared(tmp_path, tie_word_embeddings=True)
    loaded = backbone.load(converted)
    assert loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight
    with safe_open(converted / backbone.WEIGHTS, framework="pt") as file:
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118 (it is not a dict)
    assert loaded.parameters == backbone.skeleton(Model(path=str(path))).parameters
    assert torch.equal(loaded.model(input_ids=TOKENS).logits, plain(path)(input_ids=TOKENS).logits)


def test_a_family_of_the_users_own_travels_with_the_folder(tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from flexray.models.family import Family\n"
        "class Mine(Family):\n"
        "    def example(self):\n        return {'model_type': 'qwen2_moe'}\n"
    )
    path = save(tmp_path / "model")
    converted = backbone.prepare(Model(path=str(path), family=str(mine)), tmp_path / "cache")
    mine.unlink()
    assert type(backbone.load(converted).family).__name__ == "Mine"


def test_loading_imports_no_more_than_it_needs(tmp_path):
    _, converted = prepared(tmp_path)
    code = (
        "import sys; from pathlib import Path; from flexray.models import backbone\n"
        "assert 'torch' not in sys.modules\n"
        "backbone.load(Path(sys.argv[1]))\n"
        "print({'datasets', 'pyarrow', 'pandas', 'sklearn', 'ray', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(converted)], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ALL)
def test_a_gpu_gives_the_same_to_rounding(tmp_path, name, dtype):
    _, converted = prepared(tmp_path, name, dtype)
    here, there = (backbone.load(converted, device) for device in ("cpu", "cuda"))
    assert {t.device.type for t in (*there.model.parameters(), *there.model.buffers())} == {"cuda"}
    given = there.model(input_ids=TOKENS.cuda()).logits.cpu()
    tolerance = 1e-3 if dtype == "float32" else 0.2
    torch.testing.assert_close(given, here.model(input_ids=TOKENS).logits, atol=tolerance, rtol=tolerance)
