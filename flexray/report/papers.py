"""A comparison as files: Markdown, CSV (a line for each method and number), LaTeX (booktabs) and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from flexray.comparison.table import Comparison, Method
from flexray.report.comparison import BEST, LEVEL, Sheet, mean, notes, sheets, shortfalls
from flexray.report.messages import as_json
from flexray.report.units import size
from flexray.sim.run_folder import RunFolder

ESCAPED = {c: f"\\{c}" for c in "#$%&_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "≈": r"$\approx$",
    "★": r"$\star$", "−": "$-$", "–": "--", "<": "$<$", "\n": " ",
}  # fmt: skip


def write(c: Comparison, path: Path) -> None:
    """table.md, table.csv, table.tex and comparison.json in a folder."""
    folder = RunFolder(path)
    folder.write_text("table.md", markdown(c))
    folder.write_text("table.csv", lines(c))
    folder.write_text("table.tex", latex(c))
    folder.write_text("comparison.json", as_json(c.facts()) + "\n")


def markdown(c: Comparison) -> str:
    """A heading and a table for each number, the costs, and how it was all made."""
    parts = [*shortfalls(c), *(_markdown(sheet) for sheet in sheets(c)), "\n".join(f"- {note}" for note in notes(c))]
    return "\n\n".join(parts) + "\n"


def lines(c: Comparison) -> str:
    """CSV, in which every line says how it was made."""
    text = io.StringIO()
    rows = [_line(c, m, name) for m in c.methods for name in c.numbers]
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def latex(c: Comparison) -> str:
    """One table of all methods and numbers, and one for each number's differences; needs the package booktabs."""
    notes_ = " ".join(_tex(note) for note in (*shortfalls(c), *notes(c)))
    tabulars = [_overview(c), *(_tabular(sheet) for sheet in sheets(c)[:-1])]
    body = "\n\\par\\bigskip\n".join(tabulars)
    return f"% needs \\usepackage{{booktabs}}\n\\begin{{table}}\n\\centering\n\\caption{{{notes_}}}\n{body}\n\\end{{table}}\n"


def _markdown(sheet: Sheet) -> str:
    header = [head.replace("\n", " ") for head in sheet.header]
    rows = [_marked(row, mark, "**{}** " + BEST, "{} " + LEVEL) for row, mark in sheet.with_marks()]
    table = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(
        [f"### {sheet.title}", "", *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table)]
    )


def _marked(row: Sequence[str], mark: str, best: str, level: str) -> list[str]:
    """The second cell as the best one, or one that is level with it."""
    label, score, *rest = row
    return [label, best.format(score) if mark == BEST else level.format(score) if mark == LEVEL else score, *rest]


def _overview(c: Comparison) -> str:
    """Mean ± sd of every number, and bytes."""
    found = sheets(c)[:-1]
    marks = [[mark for _, mark in sheet.with_marks()] for sheet in found]
    rows = []
    for i, m in enumerate(c.methods):
        scores = (_marked(("", _tex(mean(m.scores[n], c.numbers[n]))), marks[s][i], r"\textbf{{{}}}", r"\underline{{{}}}")[1]
                  for s, n in enumerate(c.numbers))  # fmt: skip
        rows.append([_tex(m.label), *scores, _tex(size(m.bytes_up)), _tex(size(m.bytes_down))])
    return _booktabs(["method", *(_tex(sheet.title) for sheet in found), "up", "down"], rows)


def _tabular(sheet: Sheet) -> str:
    rows = [
        _marked([_tex(cell) for cell in row], mark, r"\textbf{{{}}}", r"\underline{{{}}}") for row, mark in sheet.with_marks()
    ]
    return f"{_tex(sheet.title)}\\\\[2pt]\n{_booktabs([_tex(head) for head in sheet.header], rows)}"


def _booktabs(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head, *body = (" & ".join(row) + r" \\" for row in (header, *rows))
    columns = "l" + "r" * (len(header) - 1)
    return "\n".join(
        [f"\\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
    )


def _tex(text: str) -> str:
    return "".join(ESCAPED.get(char, char) for char in text)


def _line(c: Comparison, m: Method, name: str) -> dict[str, Any]:
    score = m.scores[name]
    versus = {"reference": c.reference, **{key: "" for key in ("gain", "low", "high", "p", "p_holm")}}
    if score.versus:
        versus |= {key: getattr(score.versus, key) for key in ("gain", "low", "high", "p", "p_holm")}
    return {
        "method": m.label,
        "algorithm": m.algorithm,
        "number": name,
        "better": "less" if c.numbers[name].less else "more",
        "mean": score.mean,
        "sd": "" if score.sd is None else score.sd,
        **{f"gain_on_{label}": score.gains.get(label, "") for label in c.baselines},
        **versus,
        "best": int(score.best),
        "level_with_best": int(score.level),
        "bytes_up_per_client_and_round": m.bytes_up,
        "bytes_down_per_client_and_round": m.bytes_down,
        "parameters_shared": m.shared,
        "parameters_private": m.private,
        "seconds": m.seconds,
        **_made(c, m, name),
    }


def _made(c: Comparison, m: Method, name: str) -> dict[str, Any]:
    """How a line's numbers were made."""
    of_method = [i for i, seed in enumerate(c.seeds) if seed in m.seeds]
    return {
        "seeds": " ".join(map(str, m.seeds)),
        "clients": " ".join(str(c.clients[i]) for i in of_method),
        "rows": " ".join(str(c.rows[name][i]) for i in of_method),
        "rounds": c.rounds,
        "view": c.view,
        "scored": c.scored,
        "split": c.split,
        "alpha": c.alpha,
        "resamples": c.resamples,
        "resampled": " ".join(c.over),
    }
