"""Figures as files, and as SVG within a page: colours that follow light and dark, names for those who cannot see it, no foreign ids."""

from __future__ import annotations

import re
from html import escape
from io import StringIO
from pathlib import Path

from flexray.report.drawing import CARD, GRID, INK, SERIES, SOFT
from flexray.report.plot import Panel

COLOURS = {
    **{colour: f"var(--series-{i})" for i, colour in enumerate(SERIES)},
    INK: "var(--ink)",
    SOFT: "var(--soft)",
    GRID: "var(--grid)",
    CARD: "var(--card)",
}
"""Of the figures, by what the page calls them; style.css says what they are in light and dark."""
ROUNDED = re.compile(r"-?\d+\.\d{3,}")
TAG = re.compile(r"<[^>]*>")


def save(panel: Panel, folder: Path, name: str) -> str:
    """Writes NAME.svg and NAME.png, on white; gives the SVG's text."""
    text = StringIO()
    panel.figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Title": panel.title})
    (folder / f"{name}.svg").write_text(text.getvalue(), encoding="utf-8")
    panel.figure.savefig(folder / f"{name}.png", dpi=200, facecolor="white", metadata={"Software": None})
    return text.getvalue()


def inline(text: str, panel: Panel, name: str) -> str:
    """The SVG as a part of an HTML page; `name` is unlike that of any other figure there."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<title>.*?</title>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = _own_ids(text, name)
    text = TAG.sub(lambda tag: _plain(tag[0]), text)
    view = re.search(r'viewBox="[^"]*"', text)
    assert view
    told = f'<title id="{name}-title">{escape(panel.title)}</title><desc id="{name}-desc">{escape(panel.says)}</desc>'
    head = f'<svg {view[0]} role="img" aria-labelledby="{name}-title {name}-desc">{told}'
    return head + text[text.index(">") + 1 :].strip()


def _plain(tag: str) -> str:
    """A tag with the page's colours and type, and shorter numbers; what stands between tags is the figure's own words."""
    for colour, variable in COLOURS.items():
        tag = tag.replace(colour, variable)
    tag = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font: \1 var(--type)", tag)
    return ROUNDED.sub(lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), tag)


def _own_ids(text: str, name: str) -> str:
    """Ids that are used get the figure's name; all others go."""
    used = {a or b for tag in TAG.findall(text) for a, b in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', tag)}

    def mended(tag: re.Match[str]) -> str:
        own = re.sub(r' id="([^"]*)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", tag[0])
        return re.sub(r'(xlink:)?href="#|url\(#', lambda at: f"{at[0].removeprefix('xlink:')}{name}-", own).replace(
            "xlink:href", "href"
        )

    return TAG.sub(mended, text)
