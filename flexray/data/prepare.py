"""From the config's data to a corpus file and clients that each have train, valid and test rows."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from flexray.data.clients import Client, Prepared
from flexray.data.corpus import Corpus
from flexray.data.held_out import Own, Splits, at_most, cut_missing, lend, set_aside
from flexray.data.laws import deal_splits
from flexray.data.options import Data, problems
from flexray.data.partition import Partition, Rows
from flexray.data.prompts import Cut, Encoder
from flexray.data.seeds import Purpose, generator
from flexray.data.sources import SPLITS, Source, find
from flexray.data.tokenise import build
from flexray.errors import ConfigError, did_you_mean


def prepare(data: Data, clients: int | None, seed: int, encoder: Encoder, cache: Path) -> Prepared:
    """The corpus, tokenised unless the cache has it, and every client's rows.

    A split that the source has is dealt in the same shares as the train rows; one that it lacks is cut from each
    client's train rows. Where the partition draws with replacement it is cut before the draw, and what is to overlap is
    lent after the cut, so that no row is trained on by one client and held out by another.
    """
    if found := tuple(problems(data)):
        raise ConfigError(*found)
    source = find(data, seed, clients)
    corpus = Corpus(build(data, source, encoder, cache))
    names, labels, lengths = corpus.splits, corpus.labels, corpus.lengths
    columns = _needed(corpus, data.partition)
    whole = {split: rows for split in SPLITS if len(rows := np.flatnonzero(names == split))}
    notes = data.partition.inspect(_to_deal(labels, columns, whole, whole, data))
    splits, central = whole, None
    if data.test == "central":
        splits, central = set_aside(whole, labels, lengths > 0, data, generator(seed, Purpose.CENTRAL))
    if not data.partition.disjoint:
        wanted = ("valid",) if central is not None else ("test", "valid")
        splits = cut_missing(splits, data, generator(seed, Purpose.CUT), wanted)
    dealt = deal_splits(data.partition, _to_deal(labels, columns, splits, whole, data), clients, seed)
    given = {name: {split: rows[dealt[split][name]] for split, rows in splits.items()} for name in dealt["train"]}
    made = _clients(given, central, labels, lengths, data, seed)
    _check_all_have_rows(made, data)
    unclaimed = {split: len(rows) - sum(map(len, dealt[split].values())) for split, rows in splits.items()}
    notes = (*_source_notes(source, data, whole, central), *notes, *_deal_notes(data, unclaimed), *_row_notes(corpus, made))
    return Prepared(corpus.path, tuple(made), notes)


def _needed(corpus: Corpus, partition: Partition) -> dict[str, np.ndarray]:
    """The columns that the partition asks for."""
    needed = {}
    for field, column in partition.needs().items():
        if column not in corpus.columns:
            have, mend = ", ".join(corpus.columns) or "none", did_you_mean(column, corpus.columns)
            mend = mend if mend.startswith("did you") else "choose one of those"
            raise ConfigError(f"data.partition.{field}: expected a column of the data ({have}), got {column!r}; {mend}")
        needed[column] = corpus.column(column)
    return needed


def _to_deal(labels: np.ndarray, columns: dict[str, np.ndarray], splits: Splits, whole: Splits, data: Data) -> dict[str, Rows]:
    """What a partition may see of each split; `whole`: the splits as the source has them, by which rows are numbered."""
    vocabulary = tuple(sorted({*labels[splits["train"]].tolist()})) if data.columns.label else ()
    numbers = np.zeros(len(labels), int)
    for rows in whole.values():
        numbers[rows] = np.arange(len(rows))
    return {
        split: Rows(labels[rows], vocabulary, {name: values[rows] for name, values in columns.items()}, numbers[rows], split)
        for split, rows in splits.items()
    }


def _clients(
    given: dict[str, Own], central: np.ndarray | None, labels: np.ndarray, lengths: np.ndarray, data: Data, seed: int
) -> list[Client]:
    """From what each was dealt to what it works with: usable rows, cut, lent and limited."""
    owned, dropped = [], []
    for number, own in enumerate(given.values()):
        usable = {split: rows[lengths[rows] > 0] for split, rows in own.items()}
        dropped.append(sum(len(rows) - len(usable[split]) for split, rows in own.items()))
        if central is not None:
            usable["test"] = central
        owned.append(cut_missing(usable, data, generator(seed, Purpose.CUT, number)))
    train, valid, test = (
        [own[split] for own in owned] if split == "test" and central is not None else _shared_out(owned, split, data, seed)
        for split in SPLITS
    )
    counted = [Counter(labels[rows].tolist()) if data.columns.label else Counter[str]() for rows in train]
    return [
        Client(*values, labels=dict(sorted(count.items())))
        for *values, count in zip(given, train, valid, test, dropped, counted, strict=True)
    ]


def _shared_out(owned: list[Own], split: str, data: Data, seed: int) -> list[np.ndarray]:
    """One split of every client with what others lend, and no more than the limit."""
    place, limit = SPLITS.index(split), getattr(data, f"max_{split}_rows")
    rows_C = [own[split] for own in owned]
    if data.partition.overlap:
        rows_C = lend(rows_C, data.partition.overlap, [generator(seed, Purpose.OVERLAP, c, place) for c in range(len(rows_C))])
    return [at_most(rows, limit, generator(seed, Purpose.LIMIT, c, place)) for c, rows in enumerate(rows_C)]


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


def _source_notes(source: Source, data: Data, whole: Splits, central: np.ndarray | None) -> Iterator[str]:
    if source.left_aside:
        yield f"left aside, for no split is in the name: {', '.join(source.left_aside)}"
    for split, fraction in (("valid", data.valid_fraction), ("test", data.test_fraction)):
        if split not in whole and (split != "test" or central is None):
            yield f"{split} rows: {fraction:.0%} of the train rows, for the data has no {split} split"
    if central is not None:
        each = f", {data.central_test_rows} of each label" if data.central_test_rows else ""
        where = "the data's test split" if "test" in whole else "the train rows, before they were dealt"
        yield f"test rows: the same {len(central):,} for every client{each}, out of {where}"


def _deal_notes(data: Data, unclaimed: dict[str, int]) -> Iterator[str]:
    for split, count in unclaimed.items():
        if count > 0 and data.partition.disjoint:
            yield f"{split} rows that belong to no client, left out: {count:,}"
    if data.partition.overlap:
        yield f"overlap: every client has {data.partition.overlap:.0%} more rows, which other clients have too"


def _row_notes(corpus: Corpus, clients: list[Client]) -> Iterator[str]:
    if dropped := sum(c.dropped for c in clients):
        who = sum(1 for c in clients if c.dropped)
        yield f"{dropped:,} rows without a response dropped, at {who} of {len(clients)} clients"
    used = np.unique(np.concatenate([rows for c in clients for rows in (c.train, c.valid, c.test)]))
    cuts = corpus.cuts[used]
    for cut, text in ((Cut.PROMPT, "lost their prompt's middle"), (Cut.RESPONSE, "lost their response's end too")):
        if count := int((cuts == cut).sum()):
            yield f"{count:,} of {len(used):,} rows {text}, to fit data.max_length"
