"""Finding and reading what `model.path` names: the built-in model, a folder saved by transformers, or a hub id.

Whatever is wrong with it is said here as a problem of `model.path`, whoever noticed it.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from logging import CRITICAL
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexray.errors import ConfigError, expected
from flexray.models.options import Model

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
DEQUANTIZABLE = {"mxfp4": "Mxfp4Config", "fp8": "FineGrainedFP8Config"}
"""Quantised formats that are unpacked into the compute dtype on conversion, and transformers' options for them."""


def locate(model: Model, *, weights: bool = True) -> Path:
    """The checkpoint's folder; a hub id is downloaded (its config alone without `weights`)."""
    hub = model.path != "tiny" and not os.path.exists(model.path) and HUB_ID.fullmatch(model.path)
    if model.revision and not hub:
        mend = "leave it out: only a hub id has revisions"
        raise expected("model.revision", f"none for model.path {model.path!r}", model.revision, mend)
    if hub:
        return _download(model, weights)
    if model.path == "tiny":
        from flexray.models.tiny import folder

        return folder()
    path = Path(model.path)
    if not os.path.exists(path):
        raise expected("model.path", "tiny, an existing folder, or a hub id (owner/name)", model.path, "check the path")
    if odd := [f for f in path.glob("*") if f.exists() and not f.is_file() and not f.is_dir()]:
        raise expected("model.path", "a folder of files", f"{odd[0]}, a pipe or a device", "take it away")
    if not (path / "config.json").is_file():
        mend = "give the folder that `save_pretrained` wrote"
        raise expected("model.path", "a model folder with a config.json", model.path, mend)
    return path


def read_config(model: Model, folder: Path) -> PreTrainedConfig:
    """The checkpoint's config, of a type that transformers knows or, if trusted, of the checkpoint's own code."""
    from transformers import AutoConfig

    raw = read_json(folder / "config.json", model)
    _check_kernels(raw, model)
    if "auto_map" in raw and not model.trust_remote_code and not _known(raw.get("model_type")):
        mend = "set it to true if you trust the code in that folder, which will then run on your machine"
        raise expected("model.trust_remote_code", f"true for {model.path!r}, which brings its own code", False, mend)
    with quiet(), blaming(model, "a config.json that transformers can read"):
        return AutoConfig.from_pretrained(folder, trust_remote_code=model.trust_remote_code)


def model_class(config: PreTrainedConfig, folder: Path, trusted: bool) -> Any:
    """The causal language model class of a config."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    reference = (getattr(config, "auto_map", None) or {}).get("AutoModelForCausalLM")
    if trusted and reference:
        return get_class_from_dynamic_module(reference, str(folder))
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        mend = "choose a decoder that predicts the next token, such as qwen2_moe"
        raise expected("model.path", "a causal language model", config.model_type, mend)
    return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]


def build(config: PreTrainedConfig, folder: Path, trusted: bool, dtype: str) -> nn.Module:
    """The model of a config, on the meta device."""
    import torch

    kind = model_class(config, folder, trusted)
    if kind.config_class is (config.sub_configs or {}).get("text_config"):
        config = config.get_text_config()  # the language model alone, of one that also sees or hears
    with quiet(), torch.device("meta"):
        return kind._from_config(config, dtype=getattr(torch, dtype)).eval().requires_grad_(False)


def weight_files(model: Model, folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, all of them present."""
    if (folder / INDEX).is_file():
        named = sorted(shards(folder, model))
        if missing := [s for s in named if not (folder / s).is_file()]:
            raise expected(
                "model.path", f"all {len(named)} weight files", f"no {', '.join(missing[:3])}", "complete the folder"
            )
        return [folder / s for s in named]
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    mend = "save it again with `save_pretrained`: pickled weights are not loaded, since they can run code"
    raise expected("model.path", "weights in safetensors files", f"none in {model.path}", mend)


def shards(folder: Path, model: Model) -> dict[str, set[str]]:
    """Files of weights beside the index, with the names of what is in them."""
    places = read_json(folder / INDEX, model).get("weight_map")
    fine = isinstance(places, dict) and all(
        isinstance(f, str) and f == Path(f).name and f.endswith(".safetensors") for f in places.values()
    )
    if not fine or not places:
        raise expected("model.path", f"names of safetensors files in {INDEX}", model.path, "download or save the model again")
    return {file: {name for name, place in places.items() if place == file} for file in set(places.values())}


def _check_kernels(raw: Mapping[str, Any], model: Model) -> None:
    """Refuses a config that names code of the hub for its attention or experts: transformers would fetch and run it."""
    for key, value in raw.items():
        if isinstance(value, dict):
            _check_kernels(value, model)
        elif key.endswith("_implementation") and "/" in str(value):
            raise expected(
                "model.path", "a config.json that brings no code of the hub", f"{key}: {value}", "take that key out of it"
            )


def read_model(model: Model, folder: Path, config: PreTrainedConfig) -> nn.Module:
    """The whole model in memory, in the compute dtype. A weight that the checkpoint lacks is an error."""
    import torch

    kind = model_class(config, folder, model.trust_remote_code)
    options: dict[str, Any] = {"dtype": getattr(torch, model.dtype), "use_safetensors": True, "local_files_only": True}
    quantised = _dequantize(model, config)
    if quantised:
        options["quantization_config"] = quantised
    with quiet(), blaming(model, "weights that can be read"):
        loaded, info = kind.from_pretrained(folder, output_loading_info=True, **options)
    if missing := sorted(info["missing_keys"]):
        shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        mend = "check that config.json and the weights belong together"
        raise expected("model.path", "weights for every parameter", f"{len(missing)} missing: {shown}", mend)
    if odd := next((name for name, p in loaded.named_parameters() if not torch.isfinite(p).all()), None):
        raise expected(
            "model.path", "weights that are numbers", f"some in {odd!r} that are not", "download or save the model again"
        )
    return loaded.eval().requires_grad_(False)


def _dequantize(model: Model, config: PreTrainedConfig) -> Any:
    """Options that unpack a quantised checkpoint; None for one that is not."""
    import transformers

    raw = getattr(config, "quantization_config", None)
    if not raw:
        return None
    method = raw.get("quant_method") if isinstance(raw, dict) else getattr(raw, "quant_method", None)
    if not isinstance(method, str) or method not in DEQUANTIZABLE:
        known = " or ".join(DEQUANTIZABLE)
        raise expected("model.path", f"weights that are not quantised (or {known})", method, "choose the original checkpoint")
    return getattr(transformers, DEQUANTIZABLE[method])(dequantize=True)


def _known(model_type: str | None) -> bool:
    from transformers import CONFIG_MAPPING

    return model_type in CONFIG_MAPPING


def read_json(path: Path, model: Model) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"{type(found).__name__} in place of keys and values")
        return found
    except (OSError, ValueError, RecursionError) as e:
        raise expected("model.path", f"a readable {path.name}", f"{model.path} ({e})", "download or save it again") from None


def _download(model: Model, weights: bool) -> Path:
    from huggingface_hub import snapshot_download

    patterns = ["*.json", *(["*.safetensors"] if weights else []), *(["*.py"] if model.trust_remote_code else [])]
    mend = "check the spelling (a local folder needs to exist), the network, or HF_TOKEN for a gated model"
    with quiet(), blaming(model, "a folder, or a hub id that can be reached", mend):
        return Path(snapshot_download(model.path, revision=model.revision, allow_patterns=patterns))


@contextmanager
def blaming(model: Model, wanted: str, mend: str = "download or save the model again") -> Iterator[None]:
    """Turns whatever a library raises into a problem of `model.path`."""
    try:
        yield
    except ConfigError:
        raise
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as e:
        reason = next((line for line in str(e).splitlines() if line.strip()), "no reason given")
        raise expected("model.path", wanted, f"{model.path} ({type(e).__name__}: {reason[:200]})", mend) from e


@contextmanager
def quiet() -> Iterator[None]:
    """Silences transformers' and the hub's bars, log lines and warnings, and puts them back as they were."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging

    level, bars, hub_bars = logging.get_verbosity(), logging.is_progress_bar_enabled(), are_progress_bars_disabled()
    logging.set_verbosity(CRITICAL)
    logging.disable_progress_bar()
    disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
        if not hub_bars:
            enable_progress_bars()
