"""Adapters in PEFT's format (huggingface.co/docs/peft, "PEFT checkpoint format"): adapter_config.json, adapter_model.safetensors.

PEFT's LoRA adds (lora_alpha/r)·B·A to a linear layer; of the layer at <path> the names are
`base_model.model.<path>.lora_A.weight` [r, X] and `base_model.model.<path>.lora_B.weight` [Y, r].
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from flexray.errors import ConfigError
from flexray.models import checkpoint, weights
from flexray.models.adapters import options, sites
from flexray.models.licence import is_hub_id
from flexray.models.options import Model
from flexray.parts import Part, adapters
from flexray.serve.finished import Finished
from flexray.state import State, part_of

WHY = {
    "delta": "a dense ΔW is not of low rank",
    "mixer": "PEFT's LoRA has one share for all tokens",
    "anchors": "PEFT's LoRA has one share for all rows",
    "routed": "PEFT's LoRA on fused experts has another layout in every version",
    "expert": "PEFT knows no grafted expert",
    "gate": "PEFT knows no gate",
}


def of(run: Finished, state: State) -> tuple[State, dict[str, Any]]:
    """The tensors and the settings of one adapter that adds what all adapters of the state do; ConfigError where PEFT cannot say it."""
    parts, there = run.job.algorithm.parts, {part_of(name) for name in state}
    check(parts, there)
    sides = [(a, b) for a, b in adapters(parts) if {a.name, b.name} <= there]
    if not sides:
        raise ConfigError("--adapter: expected a state with adapters, got one without; export without --adapter")
    tensors, ranks = State(), dict[str, int]()
    for path in dict.fromkeys(path for a, _ in sides for path in sites(a, run.backbone)):
        mine = [(a, b) for a, b in sides if path in sites(a, run.backbone)]
        scaled = [options(a).alpha / options(a).rank for a, _ in mine]
        As = [state[f"{a.name}/{path}/a"] for a, _ in mine]
        Bs = [scale * state[f"{b.name}/{path}/b"] for scale, (_, b) in zip(scaled, mine, strict=True)]
        # Side by side several are one of all their ranks; the scale is in B.
        tensors[f"base_model.model.{path}.lora_A.weight"] = torch.cat(As).float().cpu()
        tensors[f"base_model.model.{path}.lora_B.weight"] = torch.cat(Bs, 1).float().cpu()
        ranks[path] = sum(len(a) for a in As)
    return tensors, _settings(run, ranks)


def check(parts: tuple[Part, ...], there: set[str]) -> None:
    """Refuses what PEFT's LoRA does not know."""
    for part in parts:
        if part.name in there and part.kind in WHY:
            mend = "export without --adapter, or with --shared --adapter for the adapters alone that all share"
            raise ConfigError(
                f"--adapter: expected adapters on attention alone, got the part {part.name!r} ({part.kind}), which PEFT cannot express: "
                f"{WHY[part.kind]}; {mend}"
            )


def write(folder: Path, tensors: State, settings: dict[str, Any]) -> None:
    weights.write(dict(tensors), folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _base(model: Model) -> str:
    """Where PEFT finds it by itself: a hub id, or a folder of this machine."""
    return model.path if is_hub_id(model.path) else str(checkpoint.locate(model, weights=False).resolve())


def _settings(run: Finished, ranks: dict[str, int]) -> dict[str, Any]:
    usual = max(ranks.values())
    other = {path: rank for path, rank in ranks.items() if rank != usual}
    return {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": _base(run.experiment.model),
        "revision": run.experiment.model.revision, "inference_mode": True, "r": usual, "lora_alpha": usual,
        "rank_pattern": other, "alpha_pattern": other, "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False,
        "use_rslora": False, "use_dora": False, "init_lora_weights": True, "modules_to_save": None,
        "target_modules": sorted(ranks),
    }  # fmt: skip
