"""From the config's data to a corpus file and clients that each have train, valid and test rows."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from flexray.data.clients import Client, Prepared
from flexray.data.corpus import Corpus
from flexray.data.dealing import deal_splits
from flexray.data.options import Data, problems
from flexray.data.partition import Rows
from flexray.data.prompts import Cut, Encoder
from flexray.data.seeds import Purpose, generator
from flexray.data.sources import SPLITS, Source, find
from flexray.data.tokenise import build
from flexray.errors import ConfigError, did_you_mean

Splits = dict[str, np.ndarray]
"""Row numbers in the corpus for each split."""


def prepare(data: Data, clients: int | None, seed: int, encoder: Encoder, cache: Path) -> Prepared:
    """The corpus, tokenised unless the cache has it, and every client's rows.

    A split that the source has is dealt in the same shares as the train rows; one that it lacks is cut from each
    client's train rows. Where the partition draws with replacement it is cut before the draw, so that no row is
    trained on by one client and held out by another.
    """
    if found := tuple(problems(data)):
        raise ConfigError(*found)
    source = find(data, seed, clients)
    corpus = Corpus(build(data, source, encoder, cache))
    names = corpus.splits
    splits = {split: rows for split in SPLITS if len(rows := np.flatnonzero(names == split))}
    given = tuple(splits)
    if not data.partition.covers:
        splits = _cut_missing(splits, data, generator(seed, Purpose.CUT))
    dealt = deal_splits(data.partition, _to_deal(corpus, splits, data), clients, seed)
    lengths, labels = corpus.lengths, corpus.labels if data.columns.label else None
    made = []
    for number, name in enumerate(dealt["train"]):
        own = {split: rows[dealt[split][name]] for split, rows in splits.items()}
        usable = {split: rows[lengths[rows] > 0] for split, rows in own.items()}
        dropped = sum(len(rows) - len(usable[split]) for split, rows in own.items())
        made.append(_client(number, name, usable, dropped, labels, data, seed))
    _check_all_have_rows(made, data)
    unclaimed = {split: len(rows) - sum(map(len, dealt[split].values())) for split, rows in splits.items()}
    notes = (*_source_notes(source, data, given, unclaimed), *_row_notes(corpus, made))
    return Prepared(corpus.path, tuple(made), notes)


def _to_deal(corpus: Corpus, splits: Splits, data: Data) -> dict[str, Rows]:
    """What a partition may see of each split."""
    needed = {}
    for field, column in data.partition.needs().items():
        if column not in corpus.columns:
            have, mend = ", ".join(corpus.columns) or "none", did_you_mean(column, corpus.columns)
            mend = mend if mend.startswith("did you") else "choose one of those"
            raise ConfigError(f"data.partition.{field}: expected a column of the data ({have}), got {column!r}; {mend}")
        needed[column] = corpus.column(column)
    labels = corpus.labels
    vocabulary = tuple(sorted({*labels[splits["train"]].tolist()})) if data.columns.label else ()
    return {
        split: Rows(labels[rows], vocabulary, {column: values[rows] for column, values in needed.items()}, split)
        for split, rows in splits.items()
    }


def _client(number: int, name: str, usable: Splits, dropped: int, labels: np.ndarray | None, data: Data, seed: int) -> Client:
    splits = _cut_missing(usable, data, generator(seed, Purpose.CUT, number))
    limits = (data.max_train_rows, data.max_valid_rows, data.max_test_rows)
    train, valid, test = (
        _at_most(splits[split], limit, generator(seed, Purpose.LIMIT, number, place))
        for place, (split, limit) in enumerate(zip(SPLITS, limits, strict=True))
    )
    counted = Counter(labels[train].tolist()) if labels is not None else {}
    return Client(name, train, valid, test, dropped, dict(sorted(counted.items())))


def _cut_missing(splits: Splits, data: Data, rng: np.random.Generator) -> Splits:
    """Valid and test rows out of the train rows, at least one each, where they are not given."""
    train = splits["train"]
    shuffled = rng.permutation(train)
    found, taken = dict(splits), 0
    for split, fraction in (("test", data.test_fraction), ("valid", data.valid_fraction)):
        if split not in splits:
            count = max(1, round(fraction * len(train)))
            found[split] = np.sort(shuffled[taken : taken + count])
            taken += count
    found["train"] = np.sort(shuffled[taken:])
    return found


def _at_most(rows: np.ndarray, limit: int | None, rng: np.random.Generator) -> np.ndarray:
    return rows if limit is None or len(rows) <= limit else np.sort(rng.permutation(rows)[:limit])


def _check_all_have_rows(clients: list[Client], data: Data) -> None:
    poor = [c for c in clients if min(len(c.train), len(c.valid), len(c.test)) == 0]
    if not poor:
        return
    c = poor[0]
    got = f"train {len(c.train)}, valid {len(c.valid)}, test {len(c.test)} for {c.name!r}"
    got += f" ({c.dropped} more had no response to learn from)" if c.dropped else ""
    got += f", and {len(poor) - 1} more clients lack rows" if len(poor) > 1 else ""
    raise ConfigError(
        f"data.partition: expected at least one train, valid and test row for every client, got {got}; lower clients, give it "
        "more rows (data.keep, data.partition.name), or lower data.valid_fraction and data.test_fraction"
    )


def _source_notes(source: Source, data: Data, given: tuple[str, ...], unclaimed: dict[str, int]) -> Iterator[str]:
    if source.left_aside:
        yield f"left aside, for no split is in the name: {', '.join(source.left_aside)}"
    for split, fraction in (("valid", data.valid_fraction), ("test", data.test_fraction)):
        if split not in given:
            yield f"{split} rows: {fraction:.0%} of the train rows, for the data has no {split} split"
    for split, count in unclaimed.items():
        if count > 0 and data.partition.covers:
            yield f"{count:,} {split} rows are of no client's kind, left out"


def _row_notes(corpus: Corpus, clients: list[Client]) -> Iterator[str]:
    if dropped := sum(c.dropped for c in clients):
        who = sum(1 for c in clients if c.dropped)
        yield f"{dropped:,} rows without a response dropped, at {who} of {len(clients)} clients"
    used = np.unique(np.concatenate([rows for c in clients for rows in (c.train, c.valid, c.test)]))
    cuts = corpus.cuts[used]
    for cut, text in ((Cut.PROMPT, "lost their prompt's middle"), (Cut.RESPONSE, "lost their response's end too")):
        if count := int((cuts == cut).sum()):
            yield f"{count:,} of {len(used):,} rows {text}, to fit data.max_length"
