"""Whether a model folder is what it says, seen from headers and sizes: before anything as large as it claims is read or made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flexray.errors import expected
from flexray.models.checkpoint import INDEX, blaming, read_json, shards, weight_files
from flexray.models.options import Model

REAL = ("BF16", "F16", "F32", "F64")
PER_BYTE = 8
"""The most parameters that a byte of quantised weights has."""
MOST = 10**14
"""Parameters, where there are no weights to compare with."""
SMALL = 10**8
"""Parameters that no machine is too small for."""
DEEPEST = 1000
"""Layers, each of which is made."""
AGAIN = "download or save the model again"


def check_layers(model: Model, folder: Path) -> None:
    """Refuses a config of more layers than could be made in minutes."""
    for key, value in _numbers(read_json(folder / "config.json", model)):
        if key.endswith("layers") and value > DEEPEST:
            raise expected("model.path", f"at most {DEEPEST:,} layers", f"{key}: {value} in config.json", "check config.json")


def check_size(model: Model, folder: Path, parameters: int) -> None:
    """Refuses a config of far more parameters than there are in its files."""
    files = [f for f in folder.glob("*.safetensors") if f.is_file()]
    most = max(SMALL, PER_BYTE * sum(f.stat().st_size for f in files)) if files else MOST
    if parameters > most:
        wanted = "a config.json that fits the weights beside it"
        raise expected("model.path", wanted, f"{parameters:,} parameters in {model.path}", AGAIN)


def check_weights(model: Model, folder: Path) -> None:
    """Refuses an index that names what its files lack, and weights that are no real numbers. Reads headers only."""
    from safetensors import safe_open

    quantised = bool(read_json(folder / "config.json", model).get("quantization_config"))
    index = shards(folder, model) if (folder / INDEX).is_file() else {}
    for file in weight_files(model, folder):
        with blaming(model, "weights that can be read"), safe_open(file, "pt") as weights:
            there = set(weights.keys())
            odd = [n for n in sorted(there) if _is_odd(weights.get_slice(n))]
        if missing := sorted(index.get(file.name, set()) - there):
            raise expected("model.path", f"{file.name} with all that {INDEX} says", f"it without {missing[0]!r}", AGAIN)
        if odd and not quantised:
            wanted, got = f"weights of real numbers ({', '.join(REAL)})", f"{odd[0]!r} of others in {file.name}"
            raise expected("model.path", wanted, got, "choose the original checkpoint")


def check_tokens(model: Model, tokens: int, highest: int) -> None:
    """Refuses rows with tokens that the model does not have. highest: of the rows'."""
    if highest >= tokens:
        wanted, got = f"a tokenizer of the model's own {tokens:,} tokens", f"token {highest:,} in the data"
        raise expected("model.path", wanted, got, "put the tokenizer that the model was trained with into its folder")


def _is_odd(weight: Any) -> bool:
    return len(weight.get_shape()) > 1 and weight.get_dtype() not in REAL


def _numbers(values: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Whole numbers at any depth, with their keys."""
    inner = [pair for value in values.values() if isinstance(value, dict) for pair in _numbers(value)]
    return inner + [(key, value) for key, value in values.items() if isinstance(value, int)]
