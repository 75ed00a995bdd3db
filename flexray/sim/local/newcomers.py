"""What a newcomer starts with: adapters from the run's seed, experts and gates grafted by its own data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from flexray.algorithm import Algorithm
from flexray.data.clients import order
from flexray.data.corpus import Corpus
from flexray.models.anchors import represent
from flexray.models.backbone import Backbone
from flexray.models.graft import graft, pairs
from flexray.models.graft import select as choose
from flexray.models.inside import expert_shares
from flexray.models.seats import fresh_part
from flexray.parts import Anchors, Gate, Graft, Part
from flexray.sim.job import Job
from flexray.sim.local.lm import collate
from flexray.state import State, select, widen

BATCH = 8
STREAM = 1 << 20
"""The stream of batches that calibration rows come from: no method trains on it."""
PROFILE_ROWS = 32


class Newcomers:
    """Starting values for the trainees `group`, all with the seat axis K first. Nothing trained may be in force meanwhile."""

    def __init__(self, job: Job, backbone: Backbone, corpus: Corpus, group: Sequence[int]):
        self.job, self.backbone, self.corpus, self.group = job, backbone, corpus, group
        self.seed = job.experiment.seed

    def fresh(self, parts: tuple[Part, ...]) -> State:
        """See `LocalTrainer.fresh`."""
        state = widen(_same_for_all(parts, self.job.algorithm.parts, self.backbone, self.seed), len(self.group))
        for part in parts:
            if isinstance(part.config, Anchors):
                state[f"{part.name}/reps"] = torch.stack([self._anchors(part.config, number) for number in self.group])
        for expert, gate in pairs(self.job.algorithm.parts):
            off = gate is not None and isinstance(gate.config, Gate) and gate.config.mode == "off"  # then nothing is grafted
            if (expert in parts or gate in parts) and not off:
                each = [self._graft(number, expert, gate) for number in self.group]
                state |= {name: torch.stack([one[name] for one in each]) for name in each[0]}
        return select(state, {p.name for p in parts})

    def profile(self) -> State:
        """See `LocalTrainer.profile`."""
        each = [expert_shares(self.backbone, self._calibration(number, PROFILE_ROWS)) for number in self.group]
        return {name: torch.stack([one[name] for one in each]) for name in each[0]}

    def _graft(self, number: int, expert: Part, gate: Part | None) -> State:
        """One client's private expert, or the one that all start with: then nobody's data has a say in which it is."""
        if expert.where == "shared":
            return _graft(expert, gate, self.backbone, (), self.seed, self.seed)
        assert isinstance(expert.config, Graft)
        rows = self._calibration(number, expert.config.calibration_rows)
        return _graft(expert, gate, self.backbone, rows, self.seed, seed_of(self.seed, number, 0x6AF7))

    def _anchors(self, config: Anchors, number: int) -> Tensor:
        """[S, D] what the frozen model makes of some of the client's prompts."""
        rows = self.corpus.rows(self._rows(number, config.prompts))
        batch = collate([rows], str(self.backbone.device))
        return represent(self.backbone, batch.ids, batch.starts, config.pooling)

    def _calibration(self, number: int, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Token ids and masks of so many of the client's rows, a batch at a time."""
        chosen = self._rows(number, min(rows, len(self.job.trainees[number].train)))
        for i in range(0, len(chosen), BATCH):
            batch = collate([self.corpus.rows(chosen[i : i + BATCH])], str(self.backbone.device))
            yield batch.ids, torch.arange(batch.ids.shape[1], device=batch.ids.device) < batch.lengths[:, None]

    def _rows(self, number: int, count: int) -> np.ndarray:
        return order(self.job.trainees[number].train, self.seed, number, 0, count, STREAM)


def start_of(algorithm: Algorithm, backbone: Backbone, seed: int) -> State:
    """The shared weights of round 0, without a seat axis: the same in every process, and for every client."""
    state = _same_for_all(algorithm.shared, algorithm.parts, backbone, seed)
    for expert, gate in pairs(algorithm.parts):
        if expert.where == "shared":
            state |= _graft(expert, gate, backbone, (), seed, seed)
    return select(state, {p.name for p in algorithm.shared})


def _same_for_all(wanted: tuple[Part, ...], parts: tuple[Part, ...], backbone: Backbone, seed: int) -> State:
    """What of the wanted parts, among all of a method's, starts from the run's seed alone."""
    state = State()
    for part in wanted:
        if part.kind not in ("expert", "gate", "anchors"):
            state |= fresh_part(part, parts, backbone, seed)
    return state


def _graft(
    expert: Part, gate: Part | None, backbone: Backbone, rows: Iterable[tuple[Tensor, Tensor]], seed: int, key: int
) -> State:  # fmt: skip
    blend = gate.config if gate else None
    assert isinstance(expert.config, Graft) and (blend is None or isinstance(blend, Gate))
    chosen = choose(backbone, rows, expert.config, key)
    return graft(backbone, chosen, expert.config, blend, seed, (expert.name, gate.name if gate else ""))


def seed_of(*key: int) -> int:
    """A generator's seed, an independent function of the numbers."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
