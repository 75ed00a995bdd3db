"""A client who joins a finished run: nobody else trains again, and nothing of the run is rewritten.

It starts as a newcomer of the method does, with the run's last shared state, and takes local steps as the method says, but what is
shared stands still: nothing of the newcomer goes up, so its private parts learn beside the shared ones that it will be served with.
Of the server's mean its part is zero. Where clients are in clusters, it joins the one whose shared model has the lowest loss on its valid
rows. A method that keeps nothing private gives a newcomer the shared model (tuned, where the method tunes before serving).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flexray import folder
from flexray.data.clients import Client
from flexray.data.prepare import prepare as prepare_data
from flexray.errors import ConfigError, expected
from flexray.metric import Number
from flexray.models import checkpoint
from flexray.models.tokenizer import Tokenizer
from flexray.serve import joined, scoring
from flexray.serve.finished import Finished, open_run
from flexray.serve.generate import BASE, SHARED
from flexray.sim import run_files
from flexray.sim.job import Job
from flexray.sim.local import examine
from flexray.sim.local.trainer import SeatTrainer
from flexray.state import ClientState, State, Update, part_of, seat

LONGEST = 100
SAID = (BASE, SHARED)
"""What `generate` calls models that are nobody's."""


@dataclass(frozen=True)
class Joined:
    """scores: by view and metric; numbers: how they read; cluster: the one it joined."""

    name: str
    path: Path
    client: Client
    steps: int
    cluster: int
    scores: scoring.Numbers
    numbers: Mapping[str, Number]


def join(path: Path | str, data: Path, name: str | None = None, steps: int | None = None, again: bool = False) -> Joined:
    """A file (or folder) of the form that the run's data have joins under `name` (its own name, if none) and tunes for `steps` (as many
    as a client took in the whole run, if none). Raises ConfigError before anything is written."""
    run = open_run(path)
    name = data.stem if name is None else name
    _check(run, data, name, steps, again)
    job, client = _job(run, data, name, steps)
    run = replace(run, job=job)
    try:
        return _join(run, client, data)
    finally:
        run.close()


def _join(run: Finished, client: Client, data: Path) -> Joined:
    algorithm = run.job.algorithm
    cluster = _cluster(run)
    trainer, down = _trainer(run), _sent(run, cluster)
    owns = algorithm.start(trainer, down)
    if algorithm.private:
        still = frozenset(p.name for p in algorithm.shared)
        owns = algorithm.client(_Held(trainer, still), down, owns)[1]  # pyright: ignore[reportArgumentType]
    common, serves = algorithm.common(trainer, down, owns), examine.personal(trainer, down, owns)
    views = {"base": State(), "shared": trainer.frozen | common, "personal": trainer.frozen | serves}
    scores = scoring.score(run, 0, views)
    steps = int(trainer.steps[0])
    about = {
        "name": client.name,
        "data": data.name,
        "steps": steps,
        "cluster": cluster,
        "scores": scores,
    }
    owned = ClientState(seat(owns.weights, 0), seat(owns.memory, 0))
    place = joined.keep(run.path, about, client, run.job.corpus, seat(views["personal"], 0), owned, run.seal)
    return Joined(client.name, place, client, steps, cluster, scores, scoring.shown(run, scores["personal"]))


class _Held:
    """A trainer whose `fit` leaves some parts as they are."""

    def __init__(self, trainer: SeatTrainer, still: frozenset[str]):
        self._trainer, self._still = trainer, still

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trainer, name)

    def fit(self, weights: State, *, train: frozenset[str] | None = None, **more: Any) -> State:
        """See `LocalTrainer.fit`."""
        there = {part_of(name) for name in weights}
        moving = (there if train is None else train & there) - self._still
        return self._trainer.fit(weights, train=frozenset(moving), **more) if moving else weights


def _check(run: Finished, data: Path, name: str, steps: int | None, again: bool) -> None:
    if not data.exists():
        raise expected("--data", "a file or folder of rows", str(data), "check the path")
    if steps is not None and steps < 1:
        raise expected("--steps", "at least 1", steps, "leave it out for as many as the run's clients took")
    if not name.strip() or name in (*run.names, *SAID):
        raise expected("--name", "a name that no client of the run has", name, "name the newcomer otherwise")
    if not name.isprintable() or len(name) > LONGEST:
        raise expected("--name", f"at most {LONGEST} printable characters", name[:LONGEST], "name the newcomer otherwise")
    if name in joined.names(run.path) and not again:
        raise expected("--name", "a name under which nobody joined", name, "name it otherwise, or use --again to join anew")
    if any(p.kind == "delta" for p in run.job.algorithm.private):
        raise ConfigError(
            f"run: expected a method that a client can join late, got {run.experiment.algorithm.name}; every client folds in what comes "
            "down in each round, and a newcomer missed it: choose another method"
        )


def _job(run: Finished, data: Path, name: str, steps: int | None) -> tuple[Job, Client]:
    """The run's job with the newcomer as its only client."""
    x = run.experiment
    iid = folder.load("data/partitions", "iid", "data.partition.name")()
    source = replace(
        x.data, path=str(data), subset=None, keep={}, partition=iid, test="own", central_test_rows=None,
        columns=replace(x.data.columns, label=None),
    )  # fmt: skip
    model = x.model
    encoder = Tokenizer(checkpoint.locate(model), model.revision, model.trust_remote_code)
    try:
        found = prepare_data(source, 1, x.seed, encoder, x.storage.cache.expanduser())
    except ConfigError as e:
        raise ConfigError(*(_blaming_the_file(p, name) for p in e.problems)) from e
    client = replace(found.clients[0], name=name)
    share = run.job.cohort / len(run.job.clients)
    each = x.train.local_steps(len(client.train), x.train.batch * x.train.accumulate)
    train = x.train.model_dump() | {
        "steps": steps or max(1, round(share * x.rounds)) * each, "epochs": None,
        "schedule": "constant", "final_lr": x.train.lr, "warmup_rounds": 0,
    }  # fmt: skip
    job = replace(run.job, spec=run.job.spec | {"train": train}, corpus=found.corpus, clients=(client,))
    job.experiment  # noqa: B018 (whether the method can do with so many steps)
    return job, client


def _blaming_the_file(problem: str, name: str) -> str:
    """There is one client, whose rows are those of the file; the run's config stays as it is."""
    key, _, rest = problem.partition(": ")
    said = (rest.rpartition(";")[0] or rest).replace(" for every client,", ",").replace("'client-00'", repr(name))
    if key == "data.partition":
        return f"--data: {said}; give it more rows"
    if key.startswith("data.columns"):
        return f"--data: {said}; name its columns as those of the run's data"
    return f"--data: {rest}" if key == "data.path" else problem


def _trainer(run: Finished) -> SeatTrainer:
    trainer = run.trainer(0)
    trainer.share = trainer.share * 0
    return trainer


def _sent(run: Finished, cluster: int) -> Update:
    """As to a client behind all others."""
    behind = len(run_files.clients(run.path))
    return run.sent(behind, cluster)


def _cluster(run: Finished) -> int:
    """Whose shared model suits the newcomer's valid rows best."""
    if len(run.server.states) == 1:
        return 0
    losses = []
    for cluster in range(len(run.server.states)):
        trainer, down = _trainer(run), _sent(run, cluster)
        mine = run.job.algorithm.start(trainer, down)
        losses.append(float(trainer.loss(trainer.frozen | run.job.algorithm.common(trainer, down, mine))[0]))
    return losses.index(min(losses))
