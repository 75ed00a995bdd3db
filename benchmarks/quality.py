"""Which method is best, where, and how surely? Methods × seeds × partitions × rows per client on Dolly-15k.

    python -m benchmarks.quality base --data DATA --out OUT       the base model, once
    python -m benchmarks.quality run --data DATA --out OUT        every cell that is not finished; stop and go on at will
    python -m benchmarks.quality show --data DATA --out OUT       the tables of what is finished

DATA holds dolly/, domains/, natural/, tasks/ and mcq/. Settings were chosen with `--choose`: the test rows are then cut from
Dolly's train file, so that its test file, which the tables are of, had no part in any choice.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.common import machine, table
from flexray import compare, pretrain, recipe
from flexray.comparison import spec
from flexray.comparison.table import Comparison
from flexray.raw import read

CONFIGS = Path(__file__).parent.parent / "configs"
BASE_FILES = ("domains/general", "domains/medical", "natural/sgd", "tasks/tasks")
FEW = ("local", "fedavg", "flex-paper", "flex", "flex-2x", "flex-validated")
"""The methods compared again with fewer rows."""


def dirichlet(alpha: float) -> tuple[str, ...]:
    """Ten clients, each with a mixture of the four categories; batches of half the size, as there are more clients."""
    return ("clients=10", f"data.partition={{name: dirichlet, alpha: {alpha}}}", "data.max_test_rows=30", "train.batch=4")


def rows(n: int) -> tuple[str, ...]:
    """So many train rows per client, and a quarter of it, at least 16, to validate on."""
    return (f"data.max_train_rows={n}", f"data.max_valid_rows={max(16, min(40, n // 4))}")


CELLS: dict[str, tuple[tuple[str, ...], tuple[str, ...] | None]] = {
    "pathological": ((), None),
    "rows-32": (rows(32), FEW),
    "rows-128": (rows(128), FEW),
    "dirichlet-0.5": (dirichlet(0.5), None),
    "rows-500": (rows(500), FEW),
    "dirichlet-1.0": (dirichlet(1.0), None),
    "dirichlet-0.5-rows-32": ((*dirichlet(0.5), *rows(32)), FEW),
}
"""Cell to what it sets, and its methods (None: all)."""


def make_base(data: Path, out: Path) -> None:
    """The base, from the files of other domains than Dolly's."""
    corpus = out / "base-corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for name in BASE_FILES:
        for split in ("train", "test"):
            link = corpus / f"{Path(name).name}_{split}.jsonl"
            link.unlink(missing_ok=True)
            link.symlink_to((data / f"{name}_{split}.jsonl").absolute())
    pretrain.pretrain(recipe.load(CONFIGS / "quality_base.yaml", (f"data.path={corpus}",)), out / "base")


def asked(name: str, data: Path, out: Path, choose: bool, sets: tuple[str, ...], only: list[str] | None) -> spec.Spec:
    """One cell's comparison; `only` these methods, if any are named."""
    settings, methods = CELLS[name]
    paths = (
        f"model.path={out / 'base'}",
        f"data.path={data / 'dolly' / ('dolly_train.jsonl' if choose else '')}",
        f"evaluation.probe={data / 'mcq' / 'mmlu_test.jsonl'}",
        f"storage.cache={out / 'cache'}",
    )
    values = read(CONFIGS / "quality.yaml", (*paths, *settings, *sets))
    every = values["compare"]["methods"]
    values["compare"]["methods"] = {m: every[m] for m in every if m in (only or every) and m in (methods or every)}
    return spec.read(values)


def line(made: Comparison, label: str, number: str) -> str:
    """A score as mean ± sd, `**` at the best, `*` at what is not significantly worse."""
    score, reading = made[label].scores[number], made.numbers[number]
    mark = "**" if score.best else "*" if score.level else ""
    spread = f" ± {score.sd * reading.scale:.{reading.decimals}f}" if score.sd is not None else ""
    return f"{mark}{score.mean * reading.scale:.{reading.decimals}f}{spread}{mark}"


def report(found: dict[str, Comparison], number: str = "loss") -> str:
    """One number over all cells: a row per method, a column per cell."""
    labels = list(dict.fromkeys(m.label for made in found.values() for m in made.methods))
    lines = [
        [label, *(line(made, label, number) if label in {m.label for m in made.methods} else "" for made in found.values())]
        for label in labels
    ]
    return table(["method", *found], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("base", "run", "show"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cell", action="append", choices=CELLS, help="only this one; repeatable")
    parser.add_argument("--method", action="append", help="only this one; repeatable; others may be added later")
    parser.add_argument("--jobs", type=int, help="runs side by side; all cores by default")
    parser.add_argument("--choose", action="store_true", help="score on rows held out of the train file, to choose settings by")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="further settings of every run")
    a = parser.parse_args()
    out = a.out.absolute()
    if a.what == "base":
        return make_base(a.data.absolute(), out)
    found = {}
    for name in a.cell or CELLS:
        folder = out / ("choose" if a.choose else "cells") / name
        cell = asked(name, a.data.absolute(), out, a.choose, tuple(a.set), a.method)
        if a.what == "run":
            found[name] = compare.compare(cell, folder, resume=folder.exists(), jobs=a.jobs)
        elif (folder / "compare.yaml").exists():
            found[name] = compare.so_far(cell, folder)
    print(machine())
    for number in next(iter(found.values())).numbers if found else ():
        print(f"\n{number}\n\n{report(found, number)}")
    return None


if __name__ == "__main__":
    main()
