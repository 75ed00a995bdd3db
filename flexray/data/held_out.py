"""Which rows are held out, lent or left aside: the same for all, cut from each client's train rows, lent to others, limited."""

from collections.abc import Sequence

import numpy as np

from flexray.data.options import Data
from flexray.errors import ConfigError

Splits = dict[str, np.ndarray]
"""Row numbers in the corpus for each split."""
Own = dict[str, np.ndarray]
"""One client's row numbers in the corpus for each split."""


def cut_missing(splits: Splits, data: Data, rng: np.random.Generator, wanted: Sequence[str] = ("test", "valid")) -> Splits:
    """The wanted splits out of the train rows, at least one row each, where they are not given."""
    train = splits["train"]
    shuffled = rng.permutation(train)
    found, taken = dict(splits), 0
    for split in wanted:
        if split not in splits:
            count = max(1, round(getattr(data, f"{split}_fraction") * len(train)))
            found[split] = np.sort(shuffled[taken : taken + count])
            taken += count
    found["train"] = np.sort(shuffled[taken:])
    return found


def set_aside(
    splits: Splits, labels: np.ndarray, usable: np.ndarray, data: Data, rng: np.random.Generator
) -> tuple[Splits, np.ndarray]:
    """The splits without test rows, and the test rows that all clients share; labels, usable: [N] of the whole corpus."""
    given = "test" in splits
    pool = splits["test" if given else "train"]
    pool = rng.permutation(pool[usable[pool]])
    if data.central_test_rows is not None:
        vocabulary = sorted({*labels[splits["train"]].tolist()})
        chosen = np.concatenate([_of_label(label, pool[labels[pool] == label], data, given) for label in vocabulary])
    else:
        chosen = pool if given else pool[: max(1, round(data.test_fraction * len(pool)))]
    chosen = np.sort(chosen[: data.max_test_rows])
    left = {split: rows[~np.isin(rows, chosen)] for split, rows in splits.items() if split != "test"}
    return left, chosen


def _of_label(label: str, rows: np.ndarray, data: Data, given: bool) -> np.ndarray:
    wanted, there = data.central_test_rows or 0, len(rows) if given else max(0, len(rows) - 1)
    if there < wanted:
        kept = "" if given else ", with one left to train on"
        raise ConfigError(
            f"data.central_test_rows: expected at most {there} (so many usable rows has {label!r}{kept}), got {wanted}; lower it, or "
            "choose labels with data.keep"
        )
    return rows[:wanted]


def lend(pieces_C: Sequence[np.ndarray], overlap: float, rngs_C: Sequence[np.random.Generator]) -> list[np.ndarray]:
    """Each client's rows, and so many times as many again of the others'. The pieces are disjoint."""
    everybody = np.concatenate(pieces_C)
    starts_C = np.cumsum([0, *map(len, pieces_C)])
    lent = []
    for own, start, rng in zip(pieces_C, starts_C[:-1], rngs_C, strict=True):
        others = len(everybody) - len(own)
        drawn = rng.choice(others, size=min(others, round(overlap * len(own))), replace=False)
        lent.append(np.sort(np.concatenate([own, everybody[np.where(drawn < start, drawn, drawn + len(own))]])))
    return lent


def at_most(rows: np.ndarray, limit: int | None, rng: np.random.Generator) -> np.ndarray:
    """All of them, or so many by chance."""
    return rows if limit is None or len(rows) <= limit else np.sort(rng.permutation(rows)[:limit])
