"""What a base model's own card says of its licence."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import yaml

from flexray.models import checkpoint
from flexray.models.options import Model

FIELDS = ("license", "license_name", "license_link")
UNKNOWN = {"license": "unknown"}
"""One of the hub's own words."""


def licence(model: Model) -> Mapping[str, str]:
    """The fields of the card's head, by the names that the hub gives them; `unknown` where there is no card, or it does not say."""
    if model.path == "tiny":
        return {"license": "apache-2.0"}
    _, _, text = _card(model).partition("---\n")
    try:
        found = yaml.safe_load(text.partition("\n---")[0])
    except yaml.YAMLError:
        found = None
    said = {name: str(found[name]) for name in FIELDS if found.get(name)} if isinstance(found, dict) else {}
    return said if "license" in said else UNKNOWN


def is_hub_id(path: str) -> bool:
    """Whether a path of the config names a model, or data, of the hub."""
    return not Path(path).exists() and checkpoint.HUB_ID.fullmatch(path) is not None


def _card(model: Model) -> str:
    """README.md from its head on; empty where there is none, or the hub cannot be asked."""
    file = checkpoint.locate(model, weights=False) / "README.md"
    if is_hub_id(model.path):
        from huggingface_hub import hf_hub_download

        with suppress(Exception), checkpoint.quiet():
            file = Path(hf_hub_download(model.path, file.name, revision=model.revision))
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    return text if text.startswith("---\n") else ""
