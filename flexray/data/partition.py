"""The contract of a partition: who gets which rows. Pure and seeded."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from flexray.folder import Entry

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Rows:
    """The rows of one split that are dealt: their labels, and the columns that the partition asked for.

    `labels` are empty strings where the config names no label column. `vocabulary`: the labels that occur among the train
    rows, sorted, the same for every split. `columns`: [N] strings, None where a row has no value. `numbers`: [N] each
    row's place, from 0, among the rows of its split that `data.keep` leaves, in the data's order.
    """

    labels: "np.ndarray"
    vocabulary: tuple[str, ...]
    columns: "Mapping[str, np.ndarray]"
    numbers: "np.ndarray"
    split: str = "train"

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Partition(Entry, ABC):
    """One way to deal rows to clients. Subclass it in one file of `data/partitions/`, as a frozen dataclass.

    Laws, checked whenever rows are dealt: every client has `min_rows` train rows and a row of every other split, the
    pieces are disjoint, and they cover all train rows (of another split, a row whose kind no train row has belongs to
    nobody). Every split is dealt with the same clients in the same shares. min_rows and overlap, which every partition
    has, are seen to once for all.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    min_rows: int = field(default=1, kw_only=True)
    """A client with fewer train rows, before any are cut off for valid and test, is an error; partitions that draw sizes draw
    again first, 200 times at most."""
    overlap: float = field(default=0.0, kw_only=True)
    """After the deal every client also gets so many times its own number of rows, drawn from other clients' rows of the same
    split; what one client holds out no client trains on."""

    @abstractmethod
    def deal(self, rows: Rows, train: Rows, clients: int | None, seed: int) -> "dict[str, np.ndarray]":
        """Client name to the positions of its rows in `rows`, clients in a fixed order.

        `train` are the train rows, whichever split is dealt: what must be the same for all splits (who holds which
        kind, in which share) is worked out from them. `clients` None: as many as come naturally.
        """

    def needs(self) -> Mapping[str, str]:
        """The field that names a column, to that column, for every column that `deal` looks at."""
        return {}

    def check(self) -> tuple[str, ...]:
        """Settings that make no sense, as problems `<key below data.partition>: expected …, got …; <mend>`."""
        return ()

    def inspect(self, splits: Mapping[str, Rows]) -> tuple[str, ...]:
        """A look at all rows of all splits, before any is set aside or dealt: notes for the user, or a ConfigError."""
        return ()

    @property
    def disjoint(self) -> bool:
        """False when a row may be dealt more than once; then held-out rows are set aside before the deal."""
        return True

    @property
    def covers(self) -> bool:
        """False when train rows may be left with nobody."""
        return True
