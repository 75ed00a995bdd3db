"""A comparison: what each method scored and cost, and which differences are more than chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from flexray import statistics
from flexray.comparison.numbers import Number, numbers
from flexray.comparison.samples import Finished, Samples, align
from flexray.comparison.spec import Compare, Spec
from flexray.metric import Number as Reading

BASELINES = ("local", "fedavg")
"""Methods that a gain over is always shown, where they are there."""
FEW_CLIENTS = 10


@dataclass(frozen=True)
class Versus:
    """What a method is better by than another (above 0: better), over the seeds that both have; p_holm: adjusted for all methods."""

    over: str
    gain: float
    low: float
    high: float
    p: float
    p_holm: float
    seeds: int


@dataclass(frozen=True)
class Score:
    """One number of one method: mean and sd over seeds of the mean over clients.

    gains: over the baselines. best: of all methods; level: not significantly worse than the best.
    """

    mean: float
    sd: float | None
    by_seed: dict[int, float]
    gains: dict[str, float]
    versus: Versus | None
    behind: Versus | None
    best: bool
    level: bool


@dataclass(frozen=True)
class Method:
    """A method's scores by number and its costs: bytes per client and round, trained parameters per client, seconds per run."""

    label: str
    algorithm: str
    seeds: tuple[int, ...]
    scores: dict[str, Score]
    bytes_up: float
    bytes_down: float
    shared: int
    private: int
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """All of it. numbers: how each reads, in the order to show; clients: how many, by seed; rows: of all clients
    together (questions, of the probe), by number and seed."""

    methods: tuple[Method, ...]
    numbers: dict[str, Reading]
    reference: str
    baselines: tuple[str, ...]
    view: str
    split: str
    scored: str
    seeds: tuple[int, ...]
    clients: tuple[int, ...]
    rows: dict[str, tuple[int, ...]]
    rounds: int
    alpha: float
    resamples: int
    over: tuple[str, ...]
    runs: int
    finished: int
    failures: dict[str, str]

    def __getitem__(self, label: str) -> Method:
        return {m.label: m for m in self.methods}[label]

    def facts(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


@dataclass(frozen=True)
class _Tests:
    """One number's scores [S, M] and their resamples [B, S, M], and how they are tested."""

    number: Number
    samples: Samples
    point_SM: np.ndarray
    draws_BSM: np.ndarray
    compare: Compare

    @property
    def labels(self) -> tuple[str, ...]:
        return self.samples.labels

    @property
    def _sign(self) -> int:
        return -1 if self.number.reading.less else 1

    def against(self, label: str | None) -> dict[str, Versus]:
        """Every other method against one; none where they have no seed in common."""
        if label not in self.labels:
            return {}
        b, found = self.labels.index(label), {}
        for a, name in enumerate(self.labels):
            both = np.isfinite(self.point_SM[:, a] - self.point_SM[:, b])
            if a != b and both.any():
                found[name] = (self._difference(a, b), int(both.sum()))
        adjusted = statistics.holm([d.p for d, _ in found.values()])
        return {
            name: Versus(label, d.value, d.low, d.high, d.p, p, seeds)
            for (name, (d, seeds)), p in zip(found.items(), adjusted, strict=True)
        }

    def best(self) -> str | None:
        """Over the seeds that all have; of equals the first."""
        common = np.isfinite(self.point_SM).all(1)
        if not common.any():
            return None
        return self.labels[int(np.argmax(self._sign * self.point_SM[common].mean(0)))]

    def _difference(self, a: int, b: int) -> statistics.Difference:
        point, draws, rng = self._sign * self.point_SM, self._sign * self.draws_BSM, np.random.default_rng(0)
        return statistics.difference(
            point[:, a], point[:, b], draws[..., a], draws[..., b], self.compare.alpha, self.compare.over, rng
        )


def assemble(spec: Spec, runs: Sequence[Finished], failures: Mapping[str, str]) -> Comparison:
    """From the runs that are finished, at least one."""
    compare, x = spec.compare, runs[0].cell.experiment
    runs = sorted(runs, key=lambda r: (compare.labels.index(r.cell.label), compare.seeds.index(r.cell.seed)))
    labels = tuple(dict.fromkeys(r.cell.label for r in runs))
    baselines = tuple(filter(None, (_baseline(name, runs, labels) for name in BASELINES)))
    known = numbers(x)
    names = compare.metrics or tuple(name for name, number in known.items() if number.reading.shown)
    tests = {name: _tests(known[name], runs, compare) for name in names}
    scores = {name: _scores(test, compare.against, baselines) for name, test in tests.items()}
    first = tests[names[0]].samples
    return Comparison(
        methods=tuple(_method(label, runs, {name: of[label] for name, of in scores.items()}) for label in labels),
        numbers={name: known[name].reading for name in names},
        reference=compare.against,
        baselines=baselines,
        view=compare.view,
        split=x.evaluation.split,
        scored=x.evaluation.when,
        seeds=first.seeds,
        clients=tuple(len(clients) for clients in first.scored),
        rows={name: t.samples.rows for name, t in tests.items()},
        rounds=x.rounds,
        alpha=compare.alpha,
        resamples=compare.resamples,
        over=compare.over,
        runs=len(spec.cells),
        finished=len(runs),
        failures=dict(failures),
    )


def _tests(number: Number, runs: Sequence[Finished], compare: Compare) -> _Tests:
    samples = align(runs, number.keys, number.metric.needs_probe)
    draws = statistics.bootstrap(
        samples.scored, {number.name: number.value}, compare.resamples, compare.over, np.random.default_rng(0)
    )
    point_SM = statistics.scores(samples.scored, number.value)
    return _Tests(number, samples, point_SM, draws[number.name], compare)


def _scores(tests: _Tests, reference: str, baselines: Sequence[str]) -> dict[str, Score]:
    best = tests.best()
    versus, behind = tests.against(reference), tests.against(best)
    gains = {label: tests.against(label) for label in baselines}
    found = {}
    for label, point_S in zip(tests.labels, tests.point_SM.T, strict=True):
        values = point_S[np.isfinite(point_S)]
        found[label] = Score(
            mean=float(values.mean()),
            sd=float(values.std(ddof=1)) if len(values) > 1 else None,
            by_seed={seed: float(v) for seed, v in zip(tests.samples.seeds, point_S, strict=True) if np.isfinite(v)},
            gains={over: gains[over][label].gain for over in baselines if label in gains[over]},
            versus=versus.get(label),
            behind=behind.get(label),
            best=label == best,
            level=label in behind and behind[label].p_holm >= tests.compare.alpha,
        )
    return found


def _method(label: str, runs: Sequence[Finished], scores: dict[str, Score]) -> Method:
    own = sorted((r for r in runs if r.cell.label == label), key=lambda r: r.cell.seed)
    turns = sum(row["clients"] for r in own for row in r.rounds)
    return Method(
        label=label,
        algorithm=own[0].cell.experiment.algorithm.name,
        seeds=tuple(r.cell.seed for r in own),
        scores=scores,
        bytes_up=sum(r.summary["bytes"]["up"] for r in own) / turns,
        bytes_down=sum(r.summary["bytes"]["down"] for r in own) / turns,
        shared=own[0].summary["parameters"]["shared"],
        private=own[0].summary["parameters"]["private_per_client"],
        seconds=sum(sum(r.summary["seconds"][part] for part in ("rounds", "evaluation")) for r in own) / len(own),
    )


def _baseline(name: str, runs: Sequence[Finished], labels: Sequence[str]) -> str | None:
    """The label of a baseline: its own name, or that of the one method that uses it."""
    using = {r.cell.label for r in runs if r.cell.experiment.algorithm.name == name}
    return name if name in labels else using.pop() if len(using) == 1 else None
