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
from flexray.local_files import absolute
from flexray.models import backbone as backbones
from flexray.models import checkpoint, costs, sound
from flexray.models.backbone import Backbone
from flexray.models.seats import shapes_of
from flexray.models.tokenizer import Tokenizer
from flexray.parts import Lora
from flexray.sim.job import Costs, Job, Layout
from flexray.sim.local import kit as kits
from flexray.sim.planning import sizes
from flexray.sim.planning.forecast import Forecast, forecast
from flexray.sim.planning.gauge import free_memory, free_of_gpu
from flexray.sim.planning.layout import arrange
from flexray.sim.planning.places import making, possible
from flexray.sim.planning.sample import Rows
from flexray.sim.planning.settle import Ground, Trials, settled, weighed
from flexray.sim.planning.sizes import Disk, Memory
from flexray.sim.planning.trial import Measured
from flexray.sim.privacy.costs import one_update
from flexray.sim.privacy.opening import notes as privacy_notes
from flexray.sim.privacy.opening import protected
from flexray.sim.system.fleet import fleet
from flexray.sim.system.timeline import Outlook, outlook, updates
from flexray.sim.wire import BYTES


@dataclass(frozen=True)
class Plan:
    """What a run will be. Parameters are counted per client; bytes are per round and client; memory and disk are expected.

    forecast: None unless it was asked for and could be measured; outlook: None where no clock is simulated.
    """

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
    memory: Memory
    disk: Disk
    forecast: Forecast | None
    notes: tuple[str, ...]
    outlook: Outlook | None = None

    @property
    def bytes_backbone(self) -> int:
        return self.memory.backbone

    @property
    def bytes_per_actor(self) -> int:
        """Of a node's memory."""
        return self.memory.actor

    @property
    def bytes_per_node(self) -> int:
        return self.memory.node


def prepare(x: Experiment, there: Mapping[str, float], private: Path, trials: Trials | None = None) -> tuple[Job, Plan]:
    """The job that every process gets, and the plan that a person reads. Raises ConfigError for whatever cannot work.

    `there`: the resources (`CPU`, `GPU`, `nodes`); `private`: where private state shall rest unless `storage.private` says.
    """
    cache = possible(x.storage.cache.expanduser().absolute(), "storage.cache")
    private = (x.storage.private or private).expanduser().absolute()
    possible(private, "storage.private" if x.storage.private else "--out")
    skeleton = backbones.skeleton(x.model, x.plugins)
    encoder = Tokenizer(checkpoint.locate(x.model), x.model.revision, x.model.trust_remote_code)
    with making(cache, "storage.cache"):
        data = prepare_data(x.data, x.clients, x.seed, encoder, cache)
        backbone, kit = backbones.prepare(x.model, cache, x.plugins), kits.prepare(x, encoder, cache)
    _check_tokens(x, skeleton, encoder, data.corpus)
    cohort = updates(x, len(data.clients))
    job = Job(
        spec=absolute(x.spec()),
        layout=arrange(x, there, cohort),
        backbone=backbone,
        corpus=data.corpus,
        private=private,
        clients=data.clients,
        shapes=shapes_of(skeleton, x.algorithm.parts),
        cohort=cohort,
        costs=_costs(x, skeleton),
        kit=kit,
        fleet=fleet(x.system, [c.name for c in data.clients], x.seed),
    )
    job = protected(job)
    ground = Ground(job, skeleton, Rows(job), there, trials or Trials())
    job, found, chosen = settled(ground)
    found, missing = weighed(ground, job, found)
    memory, disk = ground.memory(job, found), sizes.disk(job, _private_bytes(job, found))
    if ground.trials.far != "nothing":
        _check(job, memory, disk)
    notes = (*chosen, *missing, *privacy_notes(job), *data.notes, *skeleton.family.notes(skeleton.model, _targets(x)))
    return job, _plan(job, skeleton, memory, disk, forecast(job, found), notes)


def resolved(job: Job) -> Experiment:
    """The experiment with what `auto` chose written into it, so that a resumed run chooses the same."""
    x, layout = job.experiment, job.layout
    resources = x.resources.model_copy(update={"threads": layout.threads})
    return x.model_copy(update={"placement": layout.placement, "seats": layout.seats, "resources": resources})


def _check_tokens(x: Experiment, skeleton: Backbone, encoder: Tokenizer, corpus: Path) -> None:
    """Looks at the rows only where the tokenizer could go beyond the model."""
    model: Any = skeleton.model
    tokens = model.get_input_embeddings().num_embeddings
    if encoder.highest >= tokens:
        sound.check_tokens(x.model, tokens, Corpus(corpus).highest)


def _private_bytes(job: Job, found: Measured) -> int:
    return found.place.private if found.turns else BYTES * job.numbers("private")


def _check(job: Job, memory: Memory, disk: Disk) -> None:
    sizes.check_memory(memory, job.layout.seats, free_memory()[0], free_of_gpu() if memory.on_gpu else 0)
    sizes.check_disk(disk, job.private)


def _plan(job: Job, skeleton: Backbone, memory: Memory, disk: Disk, expected: Forecast | None, notes: tuple[str, ...]) -> Plan:
    x, costs_of_update = job.experiment, one_update(job)
    return Plan(
        experiment=x,
        layout=job.layout,
        clients=job.clients,
        cohort=job.cohort,
        family=x.model.family if x.model.family != "auto" else skeleton.family.name,
        blocks=len(skeleton.blocks),
        frozen=skeleton.parameters,
        shared=job.numbers("shared"),
        private=job.numbers("private"),
        bytes_up=costs_of_update["up"],
        bytes_down=costs_of_update["down"],
        costs=job.costs,
        memory=memory,
        disk=disk,
        forecast=expected,
        notes=notes,
        outlook=outlook(job),
    )


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


def _targets(x: Experiment) -> tuple[str, ...]:
    return tuple(t for p in x.algorithm.parts for t in getattr(p.config, "targets", ()))
