"""The card of an exported model: what it is, how it was made, what it scores, how to load it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flexray.folder import listing
from flexray.models import checkpoint
from flexray.models.options import Model
from flexray.serve import joined
from flexray.serve.finished import Finished

VIEWS = {"base": "frozen base", "shared": "shared only", "personal": "personalised"}
LOADING = {
    "plain": "tokenizer = AutoTokenizer.from_pretrained(folder)\nmodel = AutoModelForCausalLM.from_pretrained(folder)",
    "custom": "tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)\n"
    "model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)  # runs modeling_flexray.py of the folder",
    "adapter": "tokenizer = AutoTokenizer.from_pretrained(folder)\n"
    "model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)",
}


@dataclass(frozen=True)
class Card:
    """scores: by view and metric; None where nothing was scored."""

    title: str
    facts: Mapping[str, str]
    scores: Mapping[str, Mapping[str, float]] | None
    licence: str
    base: str

    def text(self, kind: str, folder: str) -> str:
        """Markdown, with the fields that the hub reads at its head."""
        head: dict[str, Any] = {
            "library_name": "peft" if kind == "adapter" else "transformers",
            "pipeline_tag": "text-generation",
        }
        head |= {"license": self.licence, "tags": ["flexray", "federated-learning", "mixture-of-experts"]}
        head |= {"base_model": self.base} if "/" in self.base and not Path(self.base).exists() else {}
        lines = ["---", yaml.safe_dump(head, sort_keys=False).strip(), "---", "", f"# {self.title}", ""]
        lines += [f"- **{name}**: {value}" for name, value in self.facts.items()]
        named = [f'base = "{self.base}"  # or a folder made by `flexray export --base`'] if kind == "adapter" else []
        lines += ["", "## Loading", "", "```python", _imports(kind), *named, f'folder = "{folder}"', LOADING[kind], "```"]
        if self.scores:
            lines += ["", "## Metrics", "", *_table(self.scores)]
        return "\n".join([*lines, ""])


def of_run(run: Finished, client: str | None, what: str) -> Card:
    """Of a client's own model, or of what all have."""
    x = run.experiment
    whose = {"personal": f"the personal model of {client!r}", "shared": "the shared model", "base": "the frozen base"}[what]
    method = Path(x.algorithm.name).stem
    line = listing("algorithms").get(x.algorithm.name, "a method of the user's own")
    facts = {
        "Method": f"`{method}`: {line.rstrip('.')}; {x.rounds} rounds, seed {x.seed}",
        "Settings": f"`{json.dumps(x.spec()['algorithm'])}`",
        "Data": f"{_data(run)}; prompt `{x.data.prompt}`, at most {x.data.max_length} tokens a row",
        "Base model": f"`{x.model.path}` in {x.model.dtype}",
        "Licence": f"{_licence(x.model)} (of the base model; the data may ask for more)",
    }
    return Card(f"{method}: {whose}", facts, _scores(run, client), _licence(x.model), x.model.path)


def _data(run: Finished) -> str:
    data, n = run.experiment.data, len(run.job.clients)
    return f"`{Path(data.path).name}`, {n} client{'s' if n > 1 else ''} by `{data.partition.name}`"


def _licence(model: Model) -> str:
    """What the base's own card says."""
    if model.path == "tiny":
        return "apache-2.0"
    file = checkpoint.locate(model, weights=False) / "README.md"
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    head = text.split("---")[1] if text.startswith("---") and text.count("---") > 1 else ""
    try:
        found = yaml.safe_load(head)
    except yaml.YAMLError:
        found = None
    return str(found["license"]) if isinstance(found, dict) and found.get("license") else "other"


def _scores(run: Finished, client: str | None) -> Mapping[str, Mapping[str, float]] | None:
    if client is None:
        return {view: run.summary["mean"][view] for view in VIEWS}
    if client in run.names:
        return next(({v: c[v] for v in VIEWS} for c in run.summary["clients"] if c["client"] == client), None)
    return joined.told(run.path, client)["scores"]


def _table(scores: Mapping[str, Mapping[str, float]]) -> list[str]:
    names = list(dict.fromkeys(name for numbers in scores.values() for name in numbers))
    rows = [f"| {name} | {' | '.join(f'{scores[v][name]:.4f}' for v in scores)} |" for name in names]
    return [f"| held-out rows | {' | '.join(VIEWS.get(v, v) for v in scores)} |", f"|---|{'---:|' * len(scores)}", *rows]


def _imports(kind: str) -> str:
    peft = "from peft import PeftModel\n" if kind == "adapter" else ""
    return f"{peft}from transformers import AutoModelForCausalLM, AutoTokenizer\n"
