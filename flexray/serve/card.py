"""The card of an exported model: what it is, how it was made, what it scores, how to load it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flexray.data.prompts import ALPACA
from flexray.folder import listing
from flexray.models.licence import UNKNOWN, is_hub_id, licence
from flexray.serve import joined
from flexray.serve.finished import Finished

QUESTION = "What is to be answered?"
VIEWS = {"base": "frozen base", "shared": "shared only", "personal": "personalised"}
LOADING = {
    "plain": "tokenizer = AutoTokenizer.from_pretrained(folder)\nmodel = AutoModelForCausalLM.from_pretrained(folder)",
    "custom": "tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)\n"
    "model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)  # runs modeling_flexray.py of the folder",
    "adapter": "tokenizer = AutoTokenizer.from_pretrained(folder)\n"
    "model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)",
}


ASKING = (
    'inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)\n'
    "answer = model.generate(**inputs, max_new_tokens=64, do_sample=False)[0, inputs.input_ids.shape[1] :]\n"
    "print(tokenizer.decode(answer, skip_special_tokens=True))"
)


@dataclass(frozen=True)
class Card:
    """scores: by view and metric; None where nothing was scored. licence: the fields that say it. base: its hub id, or empty.
    prompt: the Python line that asks. dataset: its hub id."""

    title: str
    facts: Mapping[str, str]
    scores: Mapping[str, Mapping[str, float]] | None
    licence: Mapping[str, str]
    base: str
    prompt: str
    split: str = "test"
    dataset: str | None = None

    def text(self, kind: str, folder: str) -> str:
        """Markdown, with the fields that the hub reads at its head."""
        lines = ["---", yaml.safe_dump(self._head(kind), sort_keys=False).strip(), "---", "", f"# {self.title}", ""]
        lines += [f"- **{name}**: {value}" for name, value in self.facts.items()]
        base = f'base = "{self.base}"' if self.base else 'base = "…"  # the folder that `flexray export --base` makes'
        named = [base] if kind == "adapter" else []
        code = [_imports(kind), *named, f"folder = {json.dumps(folder)}", LOADING[kind]]
        lines += ["", "## Loading", "", "```python", *code, "```"]
        lines += ["", "## Asking", "", "In the form that it was trained with, no special tokens in front:", ""]
        lines += ["```python", self.prompt, ASKING, "```"]
        if self.scores:
            lines += ["", "## Metrics", "", f"On held-out rows ({self.split}).", "", *_table(self.scores)]
        return "\n".join([*lines, ""])

    def _head(self, kind: str) -> dict[str, Any]:
        """The fields of huggingface.co/docs/hub/model-cards."""
        head: dict[str, Any] = {
            "library_name": "peft" if kind == "adapter" else "transformers",
            "pipeline_tag": "text-generation",
        }
        head |= {**self.licence, "tags": ["flexray", "federated-learning", "mixture-of-experts"]}
        head |= {"datasets": [self.dataset]} if self.dataset else {}
        head |= {"metrics": list(dict.fromkeys(n for view in self.scores.values() for n in view))} if self.scores else {}
        if self.base:
            head |= {"base_model": self.base, "base_model_relation": "adapter" if kind == "adapter" else "finetune"}
        return head


def of_run(run: Finished, client: str | None, what: str) -> Card:
    """Of a client's own model, or of what all have."""
    x = run.experiment
    whose = {"personal": f"the personal model of {client!r}", "shared": "the shared model", "base": "the frozen base"}[what]
    method = Path(x.algorithm.name).stem
    line = listing("algorithms").get(x.algorithm.name, "a method of the user's own")
    terms = licence(x.model)
    facts = {
        "Method": f"`{method}`: {line.rstrip('.')}; {x.rounds} rounds, seed {x.seed}",
        "Settings": f"`{json.dumps(x.spec()['algorithm'])}`",
        "Data": f"{_data(run)}; prompt `{x.data.prompt}`, at most {x.data.max_length} tokens a row",
        "Base model": f"`{x.model.path if is_hub_id(x.model.path) else Path(x.model.path).name}` in {x.model.dtype}",
        "Licence": _of_licence(terms),
    }
    return Card(
        f"{method}: {whose}", facts, _scores(run, client), terms, x.model.path if is_hub_id(x.model.path) else "",
        _prompt(x.data.prompt), x.evaluation.split, x.data.path if is_hub_id(x.data.path) else None,
    )  # fmt: skip


def _prompt(kind: str) -> str:
    """The line that makes a prompt as the run's data are asked."""
    if kind == "alpaca":
        return f"prompt = {json.dumps(ALPACA.format(instruction=QUESTION))}"
    return (
        f'asked = [{{"role": "user", "content": {json.dumps(QUESTION)}}}]\n'
        "prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)"
    )


def _of_licence(said: Mapping[str, str]) -> str:
    if said == UNKNOWN:
        return "unknown: the base model's folder does not say; find out before you pass this on"
    return f"{said.get('license_name', said['license'])} (of the base model; the data may ask for more)"


def _data(run: Finished) -> str:
    data, n = run.experiment.data, len(run.job.clients)
    name = data.path if is_hub_id(data.path) else Path(data.path).name
    return f"`{name}`, {n} client{'s' if n > 1 else ''} by `{data.partition.name}`"


def _scores(run: Finished, client: str | None) -> Mapping[str, Mapping[str, float]] | None:
    if client is None:
        return {view: run.summary["mean"][view] for view in VIEWS}
    if client in run.names:
        return next(({v: c[v] for v in VIEWS} for c in run.summary["clients"] if c["client"] == client), None)
    return joined.told(run.path, client)["scores"]


def _table(scores: Mapping[str, Mapping[str, float]]) -> list[str]:
    names = list(dict.fromkeys(name for numbers in scores.values() for name in numbers))
    rows = [f"| {name} | {' | '.join(f'{scores[v][name]:.4f}' for v in scores)} |" for name in names]
    return [f"| | {' | '.join(VIEWS.get(v, v) for v in scores)} |", f"|---|{'---:|' * len(scores)}", *rows]


def _imports(kind: str) -> str:
    peft = "from peft import PeftModel\n" if kind == "adapter" else ""
    return f"{peft}from transformers import AutoModelForCausalLM, AutoTokenizer\n"
