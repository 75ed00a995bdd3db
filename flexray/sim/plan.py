"""Before a run: everything checked, converted and tokenised once, and what is about to happen in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexray.config import Experiment
from flexray.data.clients import Client
from flexray.data.corpus import Corpus
from flexray.data.prepare import prepare as prepare_data
from flexray.errors import expected
from flexray.models import backbone as backbones
from flexray.models import checkpoint, costs
from flexray.models.backbone import Backbone
from flexray.models.seats import shapes_of
from flexray.models.tokenizer import Tokenizer
from flexray.parts import Lora
from flexray.sim import kit as kits
from flexray.sim import schedule
from flexray.sim.job import Costs, Job, Layout
from flexray.sim.layout import arrange
from flexray.sim.wire import BYTES

PROCESS_BYTES = 280 << 20
"""What a client actor takes before it holds anything: Python, torch, Ray (benchmarks/memory.py)."""


@dataclass(frozen=True)
class Plan:
    """What a run will be. Parameters are counted per client; bytes are per round and client; memory is expected, not measured."""

    experiment: Experiment
    layout: Layout
    clients: tuple[Client, ...]
    cohort: int
    family: str
    blocks: int
    frozen: int
    shared: int
    private: int
    bytes_up: int
    bytes_down: int
    costs: Costs
    bytes_backbone: int
    bytes_per_actor: int
    notes: tuple[str, ...]

    @property
    def bytes_per_node(self) -> int:
        """Backbone once, and every actor's own memory (all actors on one node)."""
        return self.bytes_backbone + self.layout.actors * self.bytes_per_actor


def prepare(x: Experiment, there: Mapping[str, float], private: Path) -> tuple[Job, Plan]:
    """The job that every process gets, and the plan that a person reads. Raises ConfigError for whatever cannot work.

    `there`: the resources (`CPU`, `GPU`, `nodes`); `private`: where private state shall rest unless `storage.private` says.
    """
    if there.get("nodes", 1) > 1 and x.storage.private is None:
        raise expected("storage.private", "a folder that all nodes share", None, "clients may be seated on any node: name one")
    cache = x.storage.cache.expanduser()
    skeleton = backbones.skeleton(x.model, x.plugins)
    shapes = shapes_of(skeleton, x.algorithm.parts)
    encoder = Tokenizer(checkpoint.locate(x.model), x.model.revision, x.model.trust_remote_code)
    data = prepare_data(x.data, x.clients, x.seed, encoder, cache)
    cohort = len(schedule.cohort(x.seed, 0, len(data.clients), x.cohort))
    layout = arrange(x, there, cohort)
    job = Job(
        spec=x.spec(),
        layout=layout,
        backbone=backbones.prepare(x.model, cache, x.plugins),
        corpus=data.corpus,
        private=(x.storage.private or private).expanduser().absolute(),
        clients=data.clients,
        shapes=shapes,
        cohort=cohort,
        costs=_costs(x, skeleton),
        kit=kits.prepare(x, encoder, cache),
    )
    shared, owned = job.numbers("shared"), job.numbers("private")
    plan = Plan(
        experiment=x,
        layout=layout,
        clients=data.clients,
        cohort=cohort,
        family=x.model.family if x.model.family != "auto" else skeleton.family.name,
        blocks=len(skeleton.blocks),
        frozen=skeleton.parameters,
        shared=shared,
        private=owned,
        bytes_up=job.up.bytes(),
        bytes_down=job.down.bytes(),
        costs=job.costs,
        bytes_backbone=skeleton.bytes,
        bytes_per_actor=PROCESS_BYTES + layout.seats * (16 * (shared + owned) + _activations(x, skeleton, _longest(job))),
        notes=(*data.notes, *skeleton.family.notes(skeleton.model, _targets(x))),
    )
    return job, plan


def _costs(x: Experiment, skeleton: Backbone) -> Costs:
    parts = x.algorithm.parts
    lora = next((p.config for p in parts if isinstance(p.config, Lora)), Lora())
    sent, size = costs.numbers(skeleton, lora), skeleton.dtype.itemsize  # adapters travel in float32, weights as they are
    instead = {
        "lora_on_experts": BYTES * sent.lora_experts,
        "non_expert_weights": size * sent.non_routed,
        "full_model": size * sent.full,
    }
    return Costs(costs.frozen_flops(skeleton).total, costs.added_flops(skeleton, parts), instead)


def resolved(job: Job) -> Experiment:
    """The experiment with what `auto` chose written into it, so that a resumed run chooses the same."""
    x = job.experiment
    return x.model_copy(update={"placement": job.layout.placement, "seats": job.layout.seats})


def _targets(x: Experiment) -> tuple[str, ...]:
    return tuple(t for p in x.algorithm.parts for t in getattr(p.config, "targets", ()))


def _longest(job: Job) -> int:
    """Tokens of the longest row."""
    return int(Corpus(job.corpus).lengths.max())


def _activations(x: Experiment, skeleton: Backbone, longest: int) -> int:
    """Rough bytes that one client's training step keeps for its backward, its rows as long as the longest, plus the logits."""
    c: Any = skeleton.model.config
    size = skeleton.dtype.itemsize
    tokens = x.train.batch * longest
    width, k = c.hidden_size, getattr(c, "num_experts_per_tok", 2)
    expert = max((b.expert_width for b in skeleton.blocks), default=0)
    return tokens * (c.num_hidden_layers * (24 * width + (k + 1) * (width + 5 * expert)) * size + 12 * c.vocab_size)
