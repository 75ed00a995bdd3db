"""What to compare: an experiment's config with a section `compare`, and the runs that it asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from flexray import raw
from flexray.comparison.numbers import numbers
from flexray.comparison.overlay import leaves, overlaid, sections
from flexray.config import Experiment, Section, section
from flexray.errors import ConfigError, did_you_mean, expected
from flexray.findings import show
from flexray.local_files import absolute

LABEL = "letters, digits and . _ + - (it names folders)"
COMMON = ("seed", "plugins", "compare", "clients", "evaluation", "resources", "storage", "data.path")
"""Keys that hold for all methods alike: with another value at one of them nothing could be compared."""


class Compare(Section):
    """Methods × seeds, and what to make of them.

    What a method changes is laid over the config, key by key; a section with another `name` replaces the config's.
    """

    methods: dict[str, dict[str, Any]]
    """Labels, each with what differs from the rest of the config, as sections or dotted keys; the name of a method alone, or a
    list of names, will do."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Every method runs with each of them."""
    reference: str | None = None
    """The label that the others are tested against; null: the first."""
    metrics: tuple[str, ...] | None = None
    """The numbers to show; null: all."""
    view: Literal["base", "shared", "personal"] = "personal"
    """Which view of a client is compared."""
    alpha: float = Field(default=0.05, gt=0, lt=1)
    """The level of the tests, and one minus that of the intervals."""
    resamples: int = Field(default=2000, ge=100)
    """Of the bootstrap."""
    over: tuple[Literal["seeds", "clients", "rows"], ...] = ("clients", "rows")
    """What is resampled."""

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.methods)

    @property
    def against(self) -> str:
        """The reference's label."""
        return self.reference or self.labels[0]

    def changes(self, label: str) -> dict[str, Any]:
        """What a method changes of the config, as sections."""
        return sections(self.methods[label], f"compare.methods.{label}")


class _Holder(Section):
    """The section where it stands, so that its keys are named in full."""

    compare: Compare


@dataclass(frozen=True)
class Cell:
    """One run of a comparison."""

    label: str
    seed: int
    experiment: Experiment

    @property
    def name(self) -> str:
        """Its folder below `runs`."""
        return f"{self.label}-s{self.seed}"


@dataclass(frozen=True)
class Spec:
    """A checked comparison. values: the raw config of all methods, without the section `compare`."""

    values: dict[str, Any]
    compare: Compare

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """Seed by seed, so that what is finished first can be compared first. Raises ConfigError for all that is wrong."""
        made, wrong = [], dict[str, list[str]]()
        for label in self.compare.labels:
            try:
                made += [self._cell(label, seed) for seed in self.compare.seeds]
            except ConfigError as e:
                wrong[label] = list(e.problems)
        if wrong:
            raise ConfigError(*dict.fromkeys(self._blamed(wrong)))
        return tuple(sorted(made, key=lambda cell: self.compare.seeds.index(cell.seed)))

    def dump(self) -> dict[str, Any]:
        """Plain values that `read` takes; with the source of the user's files."""
        plugins = {name: text for cell in self.cells for name, text in cell.experiment.plugins.items()}
        values = {**self.values, **({"plugins": plugins} if plugins else {})}
        return {**values, "compare": self.compare.model_dump(mode="json")}

    def _cell(self, label: str, seed: int) -> Cell:
        values = overlaid(self.values, {**self.compare.changes(label), "seed": seed})
        storage = values.get("storage")
        if isinstance(storage, Mapping) and storage.get("private"):
            values["storage"] = {**storage, "private": str(Path(str(storage["private"])) / f"{label}-s{seed}")}
        return Cell(label, seed, Experiment(**values))

    def _blamed(self, wrong: Mapping[str, list[str]]) -> Iterator[str]:
        """Problems by who has set the key: the method, or the config that is everybody's."""
        everywhere = set.intersection(*map(set, wrong.values())) if len(wrong) == len(self.compare.labels) else set[str]()
        for label, problems in wrong.items():
            own = [key.removesuffix(".name") for key in leaves(self.compare.changes(label))]
            for problem in problems:
                if any(f"{problem.partition(': ')[0]}.".startswith(f"{key}.") for key in own):
                    yield f"compare.methods.{label}.{problem}"
                else:
                    yield problem if problem in everywhere else f"{problem} (with compare.methods.{label})"


def load(path: Path | None, sets: tuple[str, ...] = ()) -> Spec:
    """From a YAML file and overrides `dotted.key=value`."""
    return read(raw.read(path, sets))


def asked_for(config: Path | None, sets: tuple[str, ...], resume: Path | None) -> Spec:
    """What a command line asks for: a config, or what the comparison in the folder `resume` was started with, and overrides."""
    if resume is None or config is not None:
        return load(config, sets)
    if not (resume / "compare.yaml").exists():
        raise ConfigError(
            f"--resume: expected the folder of a comparison, got {str(resume)!r} without compare.yaml; name another"
        )
    return load(resume / "compare.yaml", sets)


def read(values: Mapping[str, Any]) -> Spec:
    """From raw values. Raises ConfigError with everything that is wrong, every run's own experiment included."""
    given = values.get("compare")
    if given is None:
        raise ConfigError("compare: expected a section with methods, got none; write `compare: {methods: [fedavg, flex]}`")
    given = {**given, "methods": _methods(given.get("methods"))} if isinstance(given, Mapping) else given
    compare = section(_Holder, {"compare": given}).compare
    if problems := [*_problems(compare), *_methods_problems(compare)]:
        raise ConfigError(*problems)
    if "seed" in values:
        raise expected("seed", "none beside compare.seeds", values["seed"], "drop it")
    spec = Spec(absolute({key: value for key, value in values.items() if key != "compare"}), compare)
    known = numbers(spec.cells[0].experiment)
    if wrong := [name for name in compare.metrics or () if name not in known]:
        raise expected("compare.metrics", "numbers of evaluation.metrics", wrong[0], did_you_mean(wrong[0], known))
    return spec


def _methods(given: Any) -> dict[str, Any]:
    """Labels with what each changes, from names alone too."""
    wanted, mend = "labels with what each changes, or names", "write `methods: [fedavg, flex]`"
    named = (
        {name: name for name in given} if isinstance(given, (list, tuple)) and all(isinstance(n, str) for n in given) else given
    )
    if not isinstance(named, Mapping) or not named:
        raise ConfigError(f"compare.methods: expected {wanted}, got {show(given)}; {mend}")
    if len(named) < len(given):
        raise ConfigError(f"compare.methods: expected every label once, got {show(given)}; drop what is there twice")
    for label, changes in named.items():
        if not isinstance(changes, (str, Mapping)):
            raise ConfigError(
                f"compare.methods.{label}: expected what the method changes, or its name, got {show(changes)}; "
                f"write `{label}: {{algorithm: …}}`"
            )
    return {str(label): {"algorithm": c} if isinstance(c, str) else absolute(c) for label, c in named.items()}


def _problems(c: Compare) -> Iterator[str]:
    for key in ("seeds", "metrics", "over"):
        given = getattr(c, key)
        if given is not None and (len(set(given)) < len(given) or not given):
            yield f"compare.{key}: expected at least one, each once, got {list(given)}; drop what is there twice"
    if c.reference is not None and c.reference not in c.labels:
        yield f"compare.reference: expected one of the methods, got {c.reference!r}; {did_you_mean(c.reference, c.labels)}"
    if len(c.labels) > 1 and 2 * (len(c.labels) - 1) > c.alpha * (c.resamples + 1):
        least = int(2 * (len(c.labels) - 1) / c.alpha)
        yield (
            f"compare.resamples: expected at least {least} for {len(c.labels)} methods at alpha {c.alpha}, got {c.resamples}; "
            "with fewer no difference could be significant"
        )


def _methods_problems(c: Compare) -> Iterator[str]:
    for label in c.labels:
        if not label or not all(ch.isalnum() or ch in "._+-" for ch in label) or label.startswith("."):
            yield f"compare.methods: expected labels of {LABEL}, got {label!r}; write `label: {{algorithm: …}}`"
    for label in c.labels:
        try:
            keys = sorted(leaves(c.changes(label)))
        except ConfigError as e:
            yield from e.problems
            continue
        for key in (k for k in keys if any(f"{k}.".startswith(f"{common}.") for common in COMMON)):
            mend = "list the seeds in compare.seeds" if key == "seed" else f"set {key} for all methods alike"
            yield f"compare.methods.{label}.{key}: expected none in a method, got one; {mend}"
