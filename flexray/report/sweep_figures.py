"""Figures of a sweep: the best settings, what each key does, what pairs do, all settings at once, and the course of the search."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import log10
from typing import Any

from flexray.report import drawing
from flexray.report.plot import Numbers, Panel
from flexray.report.reading import axis
from flexray.report.sweep_table import shown
from flexray.sweeping.effects import Effect, Interaction, Setting, text
from flexray.sweeping.records import Records
from flexray.sweeping.results import Sweep

BEST, LINES, AXES, PAIRS, EFFECTS = 20, 100, 7, 6, 12
"""At most so many settings with their spread, lines and axes of parallel coordinates, pairs of keys, and keys."""


@dataclass(frozen=True)
class Swept:
    """A sweep as its figures read it; values are scaled as they are shown."""

    made: Sweep

    @property
    def label(self) -> str:
        """The number to choose by, with its unit."""
        return axis(self.made.spec.sweep.metric, self.made.spec.number.reading)

    def scaled(self, value: float) -> float:
        return value * self.made.spec.number.reading.scale

    def read(self, value: float) -> str:
        return f"{self.scaled(value):.{self.made.spec.number.reading.decimals}f}"

    @cached_property
    def values(self) -> list[tuple[int, float]]:
        """Of each finished trial, by number."""
        records = Records(self.made.path)
        found = [(r.number, records.value(r, self.made.spec)) for r in self.made.records]
        return [(number, self.scaled(value)) for number, value in found if value is not None]


def best(swept: Swept) -> Iterator[Panel]:
    """The best settings, each with its seeds and their spread."""
    chosen = swept.made.settings[:BEST]
    figure, axes = drawing.canvas(drawing.tall(len(chosen)), grid="x")
    for y, s in enumerate(chosen):
        mean, sd = swept.scaled(s.mean), swept.scaled(s.sd or 0)
        axes.plot([mean - sd, mean + sd], [y, y], color=drawing.SERIES[0], linewidth=2, alpha=0.5)
        axes.plot([swept.scaled(v) for v in s.values], [y] * len(s.values), "o", color=drawing.SOFT, markersize=3, alpha=0.7)
        axes.plot([mean], [y], "o", color=drawing.SERIES[0], markersize=6)
    axes.set_ylim(len(chosen) - 0.4, -0.6)
    axes.set_yticks(range(len(chosen)), [str(y + 1) for y in range(len(chosen))])
    axes.set(xlabel=swept.label, ylabel="rank")
    first = chosen[0]
    says = f"Best: {shown(first.point)} with {swept.read(first.mean)}."
    rows = tuple(
        (i + 1, shown(s.point), swept.scaled(s.mean), swept.scaled(s.sd or 0), len(s.values)) for i, s in enumerate(chosen)
    )
    title = "The best settings, by their rank above"
    yield Panel("settings", title, figure, says, Numbers(("rank", "setting", "mean", "sd", "seeds"), rows))


def effects(swept: Swept) -> Iterator[Panel]:
    """What each key does by itself."""
    for i, effect in enumerate(swept.made.effects[:EFFECTS]):
        yield _effect(swept, effect, f"key-{i}")


def _effect(swept: Swept, effect: Effect, name: str) -> Panel:
    figure, axes = drawing.canvas(2.6, grid="y")
    levels = sorted(effect.levels, key=lambda level: _order(level.label))
    for x, level in enumerate(levels):
        mean, sd = swept.scaled(level.mean), swept.scaled(level.sd or 0)
        axes.plot([x, x], [mean - sd, mean + sd], color=drawing.SERIES[0], linewidth=5, alpha=0.3, solid_capstyle="butt")
    axes.plot(range(len(levels)), [swept.scaled(level.mean) for level in levels], "o-", color=drawing.SERIES[0])
    axes.set_xlim(-0.5, len(levels) - 0.5)
    drawing.thinned(axes, "x", [level.label for level in levels], 16)
    axes.set(xlabel=effect.key, ylabel=swept.label)
    rows = tuple((x.label, swept.scaled(x.mean), swept.scaled(x.sd or 0), x.settings) for x in levels)
    says = "; ".join(f"{x.label}: {swept.read(x.mean)}" for x in levels)
    title = f"{effect.key}: {effect.share:.0%} of the variance"
    return Panel(name, title, figure, says, Numbers((effect.key, "mean", "sd", "settings"), rows))


def interactions(swept: Swept) -> Iterator[Panel]:
    """What pairs of keys do together, those that do most."""
    for i, pair in enumerate(swept.made.interactions[:PAIRS]):
        yield _pair(swept, pair, f"pair-{i}")


def _pair(swept: Swept, pair: Interaction, name: str) -> Panel:
    figure, axes = drawing.canvas(2.9)
    across, lines = (sorted({cell[i] for cell in pair.cells}, key=_order) for i in (0, 1))
    for i, level in enumerate(lines[: len(drawing.SERIES)]):
        values = [swept.scaled(pair.cells[x, level]) for x in across]
        key = pair.keys[1].rpartition(".")[2]
        drawing.line(axes, range(len(across)), values, f"{key} {level}", **drawing.look(i))
    drawing.thinned(axes, "x", across, 16)
    axes.set(xlabel=pair.keys[0], ylabel=swept.label)
    drawing.legend(figure, axes)
    rows = tuple((a, b, swept.scaled(value)) for (a, b), value in pair.cells.items())
    title = f"{' × '.join(key.rpartition('.')[2] for key in pair.keys)}: {pair.share:.0%} beyond their sum"
    says = f"Lines that run side by side would mean that {pair.keys[0]} and {pair.keys[1]} do not depend on each other."
    return Panel(name, title, figure, says, Numbers((*pair.keys, "mean"), rows))


def parallel(swept: Swept) -> Iterator[Panel]:
    """All settings at once: a line each, over one axis per key and one for what came of it."""
    shares = {e.key: e.share for e in swept.made.effects}
    keys = sorted(shares, key=lambda key: -shares[key])[:AXES]
    settings = swept.made.settings[:LINES]
    if not keys or len(settings) < 2:
        return
    from matplotlib.patheffects import withStroke

    figure, axes = drawing.canvas(3.4, grid="none")
    scales = [_scale([s.point[key] for s in settings]) for key in keys]
    worth = _scale([swept.scaled(s.mean) for s in settings])
    for place, s in reversed(list(enumerate(settings))):
        heights = [*(scale.at(s.point[key]) for key, scale in zip(keys, scales, strict=True)), worth.at(swept.scaled(s.mean))]
        good = place < max(1, len(settings) // 10)
        how: dict[str, Any] = (
            {"color": drawing.SERIES[1], "linewidth": 2.2} if good else {"color": drawing.SERIES[0], "alpha": 0.35}
        )
        axes.plot(range(len(heights)), heights, **{"linewidth": 1.2, **how})
    for x, scale in enumerate([*scales, worth]):
        axes.axvline(x, color=drawing.GRID, linewidth=1)
        for height, label in scale.ticks:
            written = axes.text(
                x + 0.04, height, drawing.short(label, 10), fontsize=8.5, color=drawing.INK, va="center", zorder=5
            )
            written.set_path_effects([withStroke(linewidth=3, foreground=drawing.CARD)])  # over the lines
    names = [*(key.rpartition(".")[2] for key in keys), drawing.short(swept.made.spec.number.reading.title, 12)]
    axes.set_xticks(range(len(names)), [drawing.short(name, 12) for name in names])
    if sum(map(len, names)) > 44:
        axes.tick_params(axis="x", labelrotation=30)
    axes.set(xlim=(-0.1, len(names) - 0.6), ylim=(-0.06, 1.06), yticks=[])
    axes.spines[["left", "bottom"]].set_visible(False)
    rows = tuple((*(text(s.point[key]) for key in keys), swept.scaled(s.mean)) for s in settings)
    says = f"The best tenth is drawn strong: {shown(settings[0].point)} is the best."
    yield Panel("parallel", "All settings at once", figure, says, Numbers((*keys, swept.label), rows))


def course(swept: Swept) -> Iterator[Panel]:
    """Each trial's value by its number, and the best so far."""
    if len(swept.values) < 2:
        return
    figure, axes = drawing.canvas(2.8)
    numbers, values = zip(*swept.values, strict=True)
    pick: Callable[..., float] = min if swept.made.spec.less else max
    so_far = [pick(values[: i + 1]) for i in range(len(values))]
    axes.plot(numbers, values, "o", color=drawing.SOFT, label="a trial")
    axes.step(numbers, so_far, where="post", color=drawing.SERIES[0], label="best so far")
    drawing.rounds_axis(axes, "trial")
    axes.set_ylabel(swept.label)
    drawing.legend(figure, axes)
    rows = tuple(zip(numbers, values, so_far, strict=True))
    yield Panel(
        "course",
        "Trial by trial",
        figure,
        f"The best is {so_far[-1]:.4g}.",
        Numbers(("trial", swept.label, "best so far"), rows),
    )


@dataclass(frozen=True)
class _Scale:
    """Heights from 0 to 1 for the values of a key, and where to write what."""

    at: Callable[[Any], float]
    ticks: list[tuple[float, str]]


def _scale(values: Sequence[Any]) -> _Scale:
    """Numbers in proportion, by their logarithm where they span more than two tenfolds; anything else in equal steps."""
    listed = sorted({text(v) for v in values}, key=_order)
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
    if not numbers or len(listed) <= 5:
        places = {label: i / max(1, len(listed) - 1) for i, label in enumerate(listed)}
        step = max(1, -(-len(listed) // 12))
        return _Scale(lambda v: places[text(v)], [(places[label], label) for label in listed[::step]])
    wide = min(values) > 0 and max(values) / min(values) > 100
    grow: Callable[[float], float] = log10 if wide else float
    low, high = grow(min(values)), grow(max(values))

    def at(value: float) -> float:
        return (grow(value) - low) / ((high - low) or 1.0)

    ends = [low + (high - low) * i / 4 for i in range(5)]
    return _Scale(at, [(i / 4, f"{(10**end if wide else end):.3g}") for i, end in enumerate(ends)])


def _order(label: str) -> tuple[int, float, str]:
    """Numbers by size, before words."""
    try:
        return 0, float(label.split(" ")[0]), label
    except ValueError:
        return 1, 0.0, label


def tables(swept: Swept, settings: Sequence[Setting]) -> Numbers:
    """The best settings, a row each."""
    keys = list(settings[0].point) if settings else []
    rows = [
        (i + 1, *(text(s.point[key]) for key in keys), swept.read(s.mean), swept.read(s.sd) if s.sd is not None else "–",
         " ".join(f"{t:03d}" for t in s.trials))
        for i, s in enumerate(settings)
    ]  # fmt: skip
    return Numbers(("rank", *keys, swept.label, "sd over seeds", "trials"), tuple(rows))
