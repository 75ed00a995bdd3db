"""A finished run, read again: whose state is where, and what each client, or all together, serve with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from flexray.config import Experiment
from flexray.data.corpus import Corpus
from flexray.errors import ConfigError, did_you_mean, expected
from flexray.models import backbone as backbones
from flexray.models.backbone import Backbone
from flexray.models.seats import Seats
from flexray.sections import Resources
from flexray.serve import joined
from flexray.sim import run_files, server_file
from flexray.sim.job import Job
from flexray.sim.local import examine
from flexray.sim.local.evaluator import Scorer
from flexray.sim.local.trainer import SeatTrainer
from flexray.sim.planning.layout import available
from flexray.sim.planning.plan import prepare
from flexray.sim.planning.settle import Trials
from flexray.sim.privacy.guard import methods_own
from flexray.sim.private.sealed import Seal, seal_of
from flexray.sim.private.store import PrivateStore
from flexray.sim.sent import Sent
from flexray.sim.work import Server
from flexray.state import ClientState, State, Update, seat, widen


@dataclass(frozen=True)
class Finished:
    """A finished run on this machine, one client at a time, without Ray; nothing of it is ever written to."""

    path: Path
    job: Job
    server: Server
    summary: dict[str, Any]
    rests: Mapping[int, int]
    """After which round the private state of clients was last written."""

    @property
    def experiment(self) -> Experiment:
        return self.job.experiment

    @property
    def names(self) -> list[str]:
        """The run's clients, in their order."""
        return [c.name for c in self.job.clients]

    @cached_property
    def backbone(self) -> Backbone:
        return backbones.load(self.job.backbone, self.job.layout.device)

    @cached_property
    def corpus(self) -> Corpus:
        return Corpus(self.job.corpus)

    @cached_property
    def seats(self) -> Seats:
        return Seats(self.backbone, self.job.algorithm.parts, 1)

    @cached_property
    def seal(self) -> Seal | None:
        """With which private state is encrypted."""
        return seal_of(self.experiment.storage.key)

    @cached_property
    def scorer(self) -> Scorer:
        return Scorer(self.job, self.backbone, self.corpus)

    def trainer(self, client: int) -> SeatTrainer:
        """As at the run's last evaluation."""
        rounds = self.experiment.rounds
        return SeatTrainer(self.job, self.backbone, self.seats, self.corpus, (client,), rounds, self.job.rows)

    def sent(self, client: int, cluster: int | None = None) -> Update:
        """What the server's last state sends to a client, [1, …]."""
        state = self.server.states[self.server.cluster(client) if cluster is None else cluster]
        return Sent(self.job.down, self.job.algorithm, self.backbone.device).widened(
            self.job.down.pack_one(state.sent), (client,)
        )

    def owned(self, client: int, trainer: SeatTrainer, down: Update) -> ClientState:
        """What a client owns at the end, [1, …]; one that never trained starts anew."""
        files = PrivateStore.of(self.job)
        last = self.rests.get(client)
        if last is None:
            return self.job.algorithm.start(trainer, down)
        if files.newest(client, self.experiment.rounds) != last:
            who, where = self.job.trainees[client].name, files.folder(client)
            wanted = f"the private state of client {who} after round {last}"
            raise expected("storage.private", wanted, f"none in {where}", "put the folder back")
        found = methods_own(files.read(client, last))
        return ClientState(
            *({n: t[None].to(self.backbone.device) for n, t in s.items()} for s in (found.weights, found.memory))
        )

    def took_part(self, client: int) -> bool:
        """Whether a client trained in any round."""
        return any(client in self.job.taking_part(round) for round in range(self.experiment.rounds))

    def views(self, client: int) -> dict[str, State]:
        """What a client is scored with, [1, …]: `base`, `shared`, `personal`."""
        trainer, down = self.trainer(client), self.sent(client)
        mine = self.owned(client, trainer, down)
        common = self.job.algorithm.common(trainer, down, mine)
        return {
            "base": State(), "shared": trainer.frozen | common, "personal": trainer.frozen | examine.personal(trainer, down, mine),
        }  # fmt: skip

    def personal(self, name: str) -> State:
        """What a client of the run, or one who joined it, serves with; no seat axis."""
        late = joined.names(self.path)
        if name in late:
            return joined.served(self.path, name, self.seal)
        if name not in self.names:
            raise expected("--client", "a client of the run", name, did_you_mean(name, [*self.names, *late]))
        return seat(self.views(self.names.index(name))["personal"], 0)

    def shared(self) -> State:
        """What could be served without anything private; no seat axis. In full, where clients get the first ranks of it only."""
        first, *others = self.server.states
        if others:
            raise expected("--shared", "a run with one shared model", f"{1 + len(others)} clusters", "name a --client")
        trainer = self.trainer(0)
        whole = self.job.down.unpack(self.job.down.pack_one(first.sent))
        down = Update(*(widen({n: t.to(self.backbone.device) for n, t in s.items()}, 1) for s in (whole.weights, whole.aux)))
        return seat(trainer.frozen | self.job.algorithm.common(trainer, down, self.owned(0, trainer, down)), 0)

    def close(self) -> None:
        """Nothing is left on the backbone."""
        if "seats" in self.__dict__:
            self.seats.detach()


def open_run(path: Path | str, key: str = "run") -> Finished:
    """A finished run, checked: its folder, its end, and that its data are the ones it had."""
    path = Path(path)
    experiment = _experiment(path, key)
    files = experiment.storage.private or path / "private"
    job = _prepared(experiment, files.absolute())
    torch.set_num_threads(job.layout.threads)  # as the run had: more of them fight over cores that others use
    _check_rows(path, job)
    found = server_file.read(path / "server.safetensors", job.identity)
    if found.round != experiment.rounds - 1:
        raise expected(
            key, "a finished run", f"one after round {found.round}", f"finish it: `flexray simulate --resume {path}`"
        )
    return Finished(path, job, found.server, run_files.summary(path), found.rests)


def _prepared(x: Experiment, files: Path) -> Job:
    try:
        return prepare(_here(x), _there(), files, Trials("nothing"))[0]
    except ConfigError as e:
        raise ConfigError(*map(_where, e.problems)) from e


def _where(problem: str) -> str:
    """A run names its files by their whole paths; older ones do so from the folder in which they were started."""
    what, _, mend = problem.rpartition("; ")
    aside = (
        "the run needs it: put it back (a relative path is looked for from the folder in which the run was started: go there)"
    )
    return f"{what}; {aside}" if mend == "check the path" else problem


def _experiment(path: Path, key: str) -> Experiment:
    if not path.is_dir():
        raise expected(key, "the folder of a run", str(path), _instead(path, path.parent, "check the path"))
    if not (path / "config.yaml").is_file():
        mend = _instead(path, path, "name the folder that `flexray simulate` printed")
        raise expected(key, "the folder of a run", f"{path} without config.yaml", mend)
    if not (path / "summary.json").is_file():
        raise expected(key, "a finished run", f"{path} without summary.json", f"finish it: `flexray simulate --resume {path}`")
    return run_files.experiment(path)


def _instead(path: Path, folder: Path, mend: str) -> str:
    """The runs in a folder, where there are any."""
    near = [str(file.parent) for file in folder.glob("*/config.yaml")]
    return did_you_mean(str(path), near) if near else mend


def _here(x: Experiment) -> Experiment:
    """The same on this machine alone, one client after another: nothing of the method changes by it."""
    gpu, threads = x.resources.gpu_per_client, x.resources.threads
    resources = Resources(backend="inline", gpu_per_client=gpu if _there()["GPU"] else None, threads=threads)
    return x.model_copy(update={"resources": resources, "placement": "pooled", "seats": 1})


def _there() -> dict[str, float]:
    import torch

    return available(torch.cuda.device_count())


def _check_rows(path: Path, job: Job) -> None:
    had = [(c["client"], c["rows_sha256"]) for c in run_files.clients(path)]
    if had != [(c.name, c.digest()) for c in job.clients]:
        raise ConfigError("data: expected the rows that the run had, got others; put the data and the partition's file back")
