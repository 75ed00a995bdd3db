"""What all figures share: their size, colours and type, lines with a band, heat maps, and names cut to what there is room for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, GRID, CARD = "#1f2430", "#5c6675", "#d9dee6", "#fefefe"
"""Letters, lesser ones, lines, and what is behind them all."""
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", INK)
"""Okabe and Ito's colours, which colour-blind people tell apart; their yellow is too pale for a line on white, their black is the ink."""
VIEWS = {"base": ("frozen base", SOFT), "shared": ("shared only", "#e69f00"), "personal": ("personalised", "#0072b2")}
DASHES, MARKERS = ("-", "--", ":", "-."), "os^Dv<>"
WIDTH = 4.8
"""Inches of every figure: a phone's width, so that its type is the same size everywhere; wide screens have several side by side."""
STYLE: dict[Any, Any] = {
    "font.size": 10.0, "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "text.parse_math": False, "text.color": INK,
    "axes.labelcolor": SOFT, "axes.edgecolor": GRID, "axes.linewidth": 0.8, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": GRID, "grid.linewidth": 0.6, "axes.formatter.use_mathtext": False,
    "axes.unicode_minus": True, "xtick.color": GRID, "ytick.color": GRID, "xtick.labelcolor": SOFT, "ytick.labelcolor": SOFT,
    "legend.frameon": False, "legend.fontsize": 10.0, "legend.handlelength": 1.6, "legend.columnspacing": 1.2, "lines.linewidth": 1.8,
    "lines.markersize": 4.5, "figure.facecolor": "none", "axes.facecolor": "none", "svg.fonttype": "none", "svg.hashsalt": "flexray",
    "figure.dpi": 100,
}  # fmt: skip


@contextmanager
def style() -> Iterator[None]:
    """Within it figures are made and saved."""
    import warnings

    from matplotlib import rc_context

    with rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # letters that DejaVu lacks are drawn by the browser
        yield


def canvas(height: float = 3.1, grid: str = "both") -> tuple[Figure, Axes]:
    """A figure with one set of axes. grid: across which axis there are lines, or `none`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    axes.grid(False)
    if grid != "none":
        axes.grid(True, axis=grid)  # type: ignore[arg-type]
    axes.tick_params(length=0, pad=5)
    return figure, axes


def look(place: int) -> dict[str, Any]:
    """How the run of this number is drawn, the same in every figure."""
    again = place // len(SERIES)
    return {
        "color": SERIES[place % len(SERIES)],
        "linestyle": DASHES[again % len(DASHES)],
        "marker": MARKERS[place % len(MARKERS)],
    }


def line(axes: Axes, x: Sequence[float], y: Sequence[float], label: str, **how: Any) -> None:
    """A line with marks where there are few points."""
    few = len(x) <= 40
    axes.plot(x, y, label=short(label), **{**how, "marker": how.get("marker", "o") if few else ""})


def band(axes: Axes, x: Sequence[float], values: Sequence[Sequence[float]], color: str) -> None:
    """The spread over clients about a line; a bar where there is one point only."""
    low, high = zip(*(spread(v) for v in values), strict=True)
    if len(x) == 1:
        axes.vlines(list(x), low, high, color=color, alpha=0.35, linewidth=5)
    else:
        axes.fill_between(list(x), low, high, color=color, alpha=0.15, linewidth=0)


def spread(values: Sequence[float]) -> tuple[float, float]:
    """The 10th and 90th percentile (between neighbours in proportion)."""
    low, high = np.percentile(np.asarray(values, float), (10, 90))
    return float(low), float(high)


def rounds_axis(axes: Axes, label: str = "rounds played") -> None:
    """Whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))
    axes.set_xlabel(label)


def legend(figure: Figure, axes: Axes) -> None:
    """Above the axes, in as many columns as there is room for; none for one line that the title tells of."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        room = max(1, int(54 // (max(len(text) for text in labels) + 5)))
        columns = len(labels) if sum(len(text) + 5 for text in labels) <= 54 else min(room, len(labels))
        figure.set_figheight(figure.get_figheight() + 0.2 * (-(-len(labels) // columns) - 1))
        figure.legend(handles, labels, loc="outside upper left", ncols=columns, borderpad=0.1)


def heat(
    axes: Axes, cells: Any, across: Sequence[str], down: Sequence[str], what: str, top: float, middle: float | None = None
) -> None:
    """A heat map; cells [down, across]. From clear at 0 to full at `top`; with a middle, clear there and of another colour below.

    Clear instead of white, so that it looks alike on light and dark. Names are thinned to what there is room for.
    """
    from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm, to_rgba
    from matplotlib.ticker import MaxNLocator

    ends = (
        [to_rgba(SERIES[0], a) for a in (0.0, 1.0)]
        if middle is None
        else [(SERIES[0]), to_rgba(SERIES[0], 0), to_rgba(SERIES[1], 0), SERIES[1]]
    )
    places = [0.0, 1.0] if middle is None else [0.0, 0.5, 0.5, 1.0]
    colours = LinearSegmentedColormap.from_list("clear", list(zip(places, ends, strict=True)))
    norm = None if middle is None else TwoSlopeNorm(middle, 0, max(top, 2 * middle))
    limits: dict[str, Any] = {"vmin": 0, "vmax": top} if middle is None else {"norm": norm}
    drawn = axes.imshow(np.asarray(cells, float), aspect="auto", cmap=colours, interpolation="none", **limits)
    bar = axes.figure.colorbar(drawn, ax=axes, location="top", aspect=40, pad=0.02, label=what)
    if middle is None:
        bar.locator = MaxNLocator(nbins=6, integer=True)
        bar.update_ticks()
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.tick_params(length=0, labelsize=8)
    thinned(axes, "x", across, 16)
    thinned(axes, "y", down, int((axes.figure.get_figheight() - 1) * 4.8))  # type: ignore[union-attr]


def alike(figure: Figure, which: str, low: float, high: float) -> None:
    """One scale for a figure and others beside it."""
    room = 0.05 * (high - low or 1.0)
    limits = (low - room if low else 0, high + room)
    figure.axes[0].set_xlim(*limits) if which == "x" else figure.axes[0].set_ylim(*limits)


def thinned(axes: Axes, which: str, names: Sequence[str], most: int) -> None:
    """Names along an axis, every so many of them; upright where they are longer than a number."""
    step = max(1, -(-len(names) // most))
    places, texts = range(0, len(names), step), [short(names[i], 16) for i in range(0, len(names), step)]
    if which == "y":
        axes.set_yticks(places, texts)
    elif sum(map(len, texts)) > 48 or max(map(len, texts), default=0) * len(texts) > 60:
        axes.set_xticks(places, texts, rotation=45, ha="right", rotation_mode="anchor")
    else:
        axes.set_xticks(places, texts)


def tall(rows: int, each: float = 0.21, most: float = 4.6) -> float:
    """Inches for so many rows, at most so many."""
    return min(most, max(1.1, each * rows)) + 1.0


def short(name: str, most: int = 24) -> str:
    """A name cut to so many letters. matplotlib hides what starts with `_`."""
    name = name if len(name) <= most else name[: most - 1] + "…"
    return f"\u200b{name}" if name.startswith("_") else name
