"""Memory that was not measured, reckoned from shapes: bounds, of which a run takes some two thirds.

The factors were read off float32 runs of two shapes of model with eleven methods.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any

from flexray.parts import Graft, Routed
from flexray.sim.job import Job
from flexray.sim.planning.sample import Rows
from flexray.sim.schedule import SLICES
from flexray.sim.system.timeline import latest
from flexray.sim.work import FEW, bound

if TYPE_CHECKING:
    from flexray.models.backbone import Backbone

PER_NUMBER = 32
"""Bytes of a trained number: itself, its gradient, two moments, and copies of it that come and go."""
PER_SENT = 40
"""Bytes of a shared number in the driver: the server's state and moments, the sums that are folded, what crosses."""
PER_LOGIT = 12
"""Bytes of a logit in its loss's forward and backward, beside the one of the model's own dtype."""
FIXED = 4 << 20


def work(job: Job, skeleton: Backbone, rows: Rows) -> int:
    """Of one client's turn."""
    state = PER_NUMBER * (job.numbers("shared") + job.numbers("private"))
    return FIXED + state + int(max(_training(job, skeleton, rows), _scoring(job, skeleton, rows)))


def generation(job: Job, skeleton: Backbone) -> int:
    """Of the keys and values of generated tokens, of one client's rows."""
    if not any(m.needs_generation for m in job.metrics):
        return 0
    c, x = _config(skeleton), job.experiment.evaluation
    heads = getattr(c, "num_key_value_heads", None) or c.num_attention_heads
    channels = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    return 2 * c.num_hidden_layers * heads * channels * skeleton.dtype.itemsize * x.batch * x.max_new_tokens


def server(job: Job) -> int:
    """Of what the driver holds: the server's state, and the sums or single updates that come in."""
    held = len(job.planned) * 3 if job.algorithm.each else 2 * job.layout.actors
    return PER_SENT * job.down.numbers + (held + latest(job)) * job.up.bytes()


def sums(job: Job) -> int:
    """Of an actor's sums that wait to be added to others."""
    leaves = min(SLICES, ceil(len(job.planned) / job.layout.seats))
    own = ceil(leaves / job.layout.actors)
    return 0 if job.algorithm.each else job.up.bytes() * (own if bound(job) else min(own, FEW))


def _training(job: Job, skeleton: Backbone, rows: Rows) -> float:
    """What is kept of the heaviest batch for its backward."""
    c, size = _config(skeleton), skeleton.dtype.itemsize
    layers, width, layer = c.num_hidden_layers, c.hidden_size, _layer(job, skeleton)
    kept = 2 * layer + layers * width if job.experiment.train.recompute else layers * layer
    head = rows.answered * c.vocab_size * (size + PER_LOGIT)
    return rows.heavy_tokens * (kept * size + head)


def _layer(job: Job, skeleton: Backbone) -> float:
    """Numbers that a layer keeps of a token."""
    c, parts = _config(skeleton), [p.config for p in job.algorithm.parts]
    width, k = c.hidden_size, getattr(c, "num_experts_per_tok", None) or 2
    expert = max((b.expert_width for b in skeleton.blocks), default=0)
    shared = getattr(c, "shared_expert_intermediate_size", None) or (getattr(c, "n_shared_experts", None) or 0) * expert
    grafted = sum(p.experts for p in parts if isinstance(p, Graft)) * (2 * width + 5 * expert)
    routed = sum(isinstance(p, Routed) for p in parts) * 3 * k * (width + 2 * expert)
    return 34 * width + k * (2 * width + 4 * expert) + 4 * shared + grafted + routed


def _scoring(job: Job, skeleton: Backbone, rows: Rows) -> float:
    """What comes and goes in the forward of the longest rows."""
    c, x, size = _config(skeleton), job.experiment.evaluation, skeleton.dtype.itemsize
    tokens = rows.lengths[rows.longest(x.split, x.batch)].sum()
    head = rows.answered * c.vocab_size * (size + PER_LOGIT)
    return float(tokens) * (32 * c.hidden_size * size + head)


def _config(skeleton: Backbone) -> Any:
    config: Any = skeleton.model.config
    return config.get_text_config()
