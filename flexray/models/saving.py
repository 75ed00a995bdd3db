"""Models as transformers loads them: in a family's plain architecture, or with code of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flexray.models import checkpoint
from flexray.models.backbone import Backbone
from flexray.state import State

CODE = "modeling_flexray"
SHARD = "5GB"


def save_plain(backbone: Backbone, weights: State, folder: Path) -> None:
    """config.json and safetensors of the backbone with some weights changed, in the layout that the family's checkpoints have."""
    model: Any = backbone.model
    model.config.dtype = backbone.dtype
    with checkpoint.quiet():
        model.save_pretrained(folder, state_dict=_whole(model, weights, {}), max_shard_size=SHARD)


def save_custom(backbone: Backbone, weights: State, told: Mapping[str, Any], beside: State, code: str, folder: Path) -> None:
    """The same with `beside` attached by `code`, to which the config tells what there is.

    The model's type is one that transformers does not know, so that nobody loads it without the code, and without what it attaches.
    """
    from huggingface_hub import save_torch_state_dict

    model: Any = backbone.model
    config, model_class = type(model.config).__name__, type(model).__name__
    kind = f"flexray_{model.config.model_type}"
    code = code.replace("Qwen2MoeConfig", config).replace("Qwen2MoeForCausalLM", model_class).replace("flexray_family", kind)
    (folder / f"{CODE}.py").write_text(code, encoding="utf-8")
    said = {**model.config.to_dict(), "dtype": str(backbone.dtype).removeprefix("torch."), "model_type": kind, "flexray": told}
    said |= {"architectures": ["FlexrayForCausalLM"], "auto_map": _auto_map()}
    said.pop("_name_or_path", None)
    (folder / "config.json").write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    whole = _whole(model, weights, {name: t.to(backbone.dtype) for name, t in beside.items()})
    save_torch_state_dict(whole, folder, filename_pattern="model{suffix}.safetensors", max_shard_size=SHARD)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)


def is_known(backbone: Backbone) -> bool:
    """Whether the model's class is transformers' own: then no code but transformers' is needed to load it."""
    return type(backbone.model).__module__.startswith("transformers.")


def _auto_map() -> dict[str, str]:
    return {"AutoConfig": f"{CODE}.FlexrayConfig", "AutoModelForCausalLM": f"{CODE}.FlexrayForCausalLM"}


def _whole(model: Any, weights: State, beside: State) -> dict[str, Tensor]:
    """The whole state dict, on the CPU."""
    own = model.state_dict()
    assert weights.keys() <= own.keys(), weights.keys() - own.keys()
    changed = {name: torch.nn.Parameter(t, requires_grad=False) for name, t in (weights | beside).items()}
    return {name: t.detach().cpu().contiguous() for name, t in {**own, **changed}.items()}
