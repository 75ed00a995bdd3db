"""One MoE with the private experts of several clients, in the manner of FlexOlmo (Shi et al. 2025, arXiv 2507.07024).

What is merged. At every block stand the pretrained experts with their router, as they are, and behind them the private experts of
all clients who share them, C·G in all, copied unchanged, each with its own gate's row w and b. The shared adapters are those of the
run's last server state; nothing is averaged, nothing trained, no data are looked at. So a client can be taken out again.

How gates are combined. `route`: a gate's score is a logit beside the router's, and all of them go into one softmax, which is what
FlexOlmo does with its router rows: p = softmax([logsumexp(logits), s_1 … s_CG]), p_0·y + scale·Σ p_g·E_g. `add` and `mix`: a client's
gate says how much of its own experts a token wants, as if there were no others; so each client's blend is made as the client itself
makes it (y + Σ_g σ(s_g)·E_g, or (1 − mean g)·y + mean g·E), and a token gets their average, weighed by the softmax over clients of the mean
score of their gates. The weights are positive and add up to 1: what is added does not grow with the number of clients, and merging
one client alone gives that client's model (with shared adapters in full: a method that scales them for each client is merged without
that). Gates that were never trained side by side are only as comparable as their common start makes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from flexray.errors import ConfigError, did_you_mean, expected
from flexray.metric import Number
from flexray.models.graft import pairs
from flexray.parts import Gate, Part
from flexray.serve import card, joined, scoring
from flexray.serve.export import Exported, check_out, save
from flexray.serve.exported import modeling_flexray as code
from flexray.serve.finished import Finished
from flexray.serve.fold import Folded, fold
from flexray.state import State, part_of

MERGED = "merged"


@dataclass(frozen=True)
class Merged:
    """scores: client to view to numbers; numbers: how they read."""

    exported: Exported
    clients: tuple[str, ...]
    scores: Mapping[str, scoring.Numbers]
    numbers: Mapping[str, Number]


def merge(run: Finished, clients: Sequence[str], out: Path) -> Merged:
    """Scores every client of the run, and those who joined it, with the merged model, and writes it.

    Raises ConfigError before anything is written.
    """
    check_out(out)
    check(run, clients)
    shared = run.shared()
    folded = fold(run.backbone, run.job.algorithm.parts, shared | together(run, clients), len(clients))
    scores = {name: scoring.score(run, k, run.views(k)) for k, name in enumerate(run.names)}
    for name in joined.names(run.path):
        views = {"base": State(), "shared": shared, "personal": run.personal(name)}
        scores[name] = scoring.score_joined(run, name, {view: _seated(state) for view, state in views.items()})
    for name, numbers in _with(run, folded, shared).items():
        scores[name] = {**scores[name], MERGED: numbers}
    exported = save(run, out, _card(run, clients, scores), folded)
    return Merged(exported, tuple(clients), scores, scoring.shown(run, scores[run.names[0]][MERGED]))


def listed(run: Finished, said: Sequence[str]) -> list[str]:
    """Names out of `a,b`, `c`; a client's name may have a comma in it."""
    known = {*run.names, *joined.names(run.path)}
    split = [[part] if part in known else part.split(",") for part in said]
    return [name.strip() for names in split for name in names]


def check(run: Finished, clients: Sequence[str]) -> None:
    """Refuses who is not there, and methods whose clients have more, or less, than private experts with gates."""
    known = [*run.names, *joined.names(run.path)]
    for name in clients:
        if name not in known:
            raise expected("--clients", "clients of the run", name, did_you_mean(name, known))
    if len(set(clients)) < max(2, len(clients)):
        raise expected("--clients", "two or more names, each once", ",".join(clients), "name those who share their experts")
    if why := _why_not(run.job.algorithm.private):
        name = run.experiment.algorithm.name
        raise ConfigError(
            f"run: expected a method with private experts and gates alone, got {name} with {why}; merge a run of flex"
        )


def _why_not(private: tuple[Part, ...]) -> str:
    """Why the experts of such parts cannot be put together; empty where they can."""
    if more := [p.name for p in private if p.kind not in ("expert", "gate")]:
        return f"the private part {more[0]!r}, which no gate routes to"
    if not any(p.kind == "expert" for p in private):
        return "no private expert"
    modes = [gate.config.mode if gate and isinstance(gate.config, Gate) else "open" for _, gate in pairs(private)]
    if wrong := [mode for mode in modes if mode not in ("add", "mix", "route")]:
        return f"no trained gate to route by (gate.mode {wrong[0]}; add, mix and route have one)"
    return ""


def together(run: Finished, clients: Sequence[str]) -> State:
    """The clients' experts and gates, one client's behind the other's, as each is served with them."""
    private = {p.name for p in run.job.algorithm.private}
    each = [{n: t for n, t in run.personal(name).items() if part_of(n) in private} for name in clients]
    return {name: torch.cat([own[name] for own in each]) for name in each[0]}


def _with(run: Finished, folded: Folded, shared: State) -> dict[str, dict[str, float]]:
    """Every client's numbers with the experts attached to the run's own backbone."""
    model: Any = run.backbone.model
    told = {"private": folded.told["private"]}
    handles = code.attach(model, told)
    try:
        model.load_state_dict(folded.beside, strict=False, assign=True)
        view = {MERGED: _seated(shared)}
        found = {name: scoring.score(run, k, view)[MERGED] for k, name in enumerate(run.names)}
        return found | {name: scoring.score_joined(run, name, view)[MERGED] for name in joined.names(run.path)}
    finally:
        for handle in handles:
            handle.remove()
        for own in told["private"]:
            delattr(model.get_submodule(own["block"]), own["name"])


def _seated(state: State) -> State:
    return {name: t[None] for name, t in state.items()}


def _card(run: Finished, clients: Sequence[str], scores: Mapping[str, scoring.Numbers]) -> card.Card:
    whose = ", ".join(f"`{name}`" for name in clients)
    told = card.of_run(run, None, "shared")
    facts = {**told.facts, "Merged": f"the private experts of {whose}, each token's share by their gates; untrained since"}
    views = list(next(iter(scores.values())))
    names = list(next(iter(scores.values()))[MERGED])
    mean = {v: {n: sum(s[v][n] for s in scores.values()) / len(scores) for n in names} for v in views}
    title = f"{Path(run.experiment.algorithm.name).stem}: the experts of {len(clients)} clients"
    return replace(told, title=title, facts=facts, scores=mean)
