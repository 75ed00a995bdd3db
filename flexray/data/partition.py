"""The contract of a partition: who gets which rows. Pure and seeded."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from flexray.folder import Entry

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Rows:
    """The rows of one split that are dealt: their labels, and the columns that the partition asked for.

    `labels` are empty strings where the config names no label column. `vocabulary`: the labels that occur among the train
    rows, sorted, the same for every split. `columns`: [N] strings, None where a row has no value.
    """

    labels: "np.ndarray"
    vocabulary: tuple[str, ...]
    columns: "Mapping[str, np.ndarray]"
    split: str = "train"

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Partition(Entry, ABC):
    """One way to deal rows to clients. Subclass it in one file of `data/partitions/`, as a frozen dataclass.

    Laws, checked whenever rows are dealt: every client has rows, the pieces are disjoint, and they cover all train rows
    (of another split, a row whose kind no train row has belongs to nobody). Every split is dealt with the same clients
    in the same shares.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

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

    @property
    def covers(self) -> bool:
        """False when rows are drawn with replacement; then held-out rows are set aside before the draw."""
        return True
