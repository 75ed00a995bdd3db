"""What clients score in their turn, and what is seen inside their models."""

from __future__ import annotations

from collections.abc import Sequence

from flexray.models.inside import grafted_where, look, summarise
from flexray.sim.local.evaluator import Scorer
from flexray.sim.local.trainer import SeatTrainer
from flexray.sim.reports import Examined, Scores, Sight
from flexray.state import ClientState, State, Update, seat


def examine(scorer: Scorer, trainer: SeatTrainer, down: Update, mine: ClientState, views: Sequence[str]) -> Scores:
    """The trainer's group, with what the server sent and what it owns, [K, …], in some of the views `base`, `shared`, `personal`."""
    algorithm, x = trainer.job.algorithm, trainer.experiment.evaluation
    weights = {"base": State()}
    if "shared" in views:
        weights["shared"] = trainer.frozen | algorithm.common(trainer, down, mine)
    weights["personal"] = trainer.frozen | personal(trainer, down, mine)
    group = trainer.numbers
    marks = scorer.score(trainer.seats, group, {view: weights[view] for view in views})
    sights = _look(trainer, weights["personal"]) if x.inside_rows else [None] * len(group)
    return {c: Examined(own, sight) for c, own, sight in zip(group, marks, sights, strict=True)}


def _look(trainer: SeatTrainer, weights: State) -> list[Sight]:
    """What happens inside the blocks when the clients' own models read some of their valid rows, the same ones always."""
    batch = trainer.fixed_rows(trainer.experiment.evaluation.inside_rows)
    sums = look(trainer.seats, weights, (batch.ids, batch.lengths), batch.starts)
    blocks = summarise(trainer.backbone, sums)
    return [Sight(tuple(own), grafted_where(seat(weights, k))) for k, own in enumerate(blocks)]


def personal(trainer: SeatTrainer, down: Update, mine: ClientState) -> State:
    """What the clients serve with: before local steps, or after them, whose result is not kept."""
    algorithm = trainer.job.algorithm
    served = algorithm.personal(trainer, down, mine)
    if trainer.experiment.evaluation.when == "before_steps":
        return served
    own = algorithm.client(trainer, down, mine)[1].weights
    now = trainer.trained | own
    return {name: now.get(name, t) for name, t in served.items()}
