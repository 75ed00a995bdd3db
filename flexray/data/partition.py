"""The contract of a partition: who gets which rows. Pure and seeded."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Rows:
    """The rows of one split that are dealt: their labels, and every column that a partition may look at.

    `labels` are values of `vocabulary`, which is sorted and the same for every split of a data set.
    """

    labels: "np.ndarray"
    vocabulary: tuple[str, ...]
    columns: Mapping[str, "np.ndarray"]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Partition(ABC):
    """One way to deal rows to clients. Subclass it in one file of `data/partitions/`, as a frozen dataclass.

    Law: the pieces are disjoint and cover all rows. The same seed gives the same shares whatever the rows, so that a
    client's train and test rows, dealt one split at a time, follow the same distribution.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    name: ClassVar[str] = ""
    """The name in the config: the file's name, or its path. Set on loading."""

    @abstractmethod
    def deal(self, rows: Rows, clients: int | None, seed: int) -> "dict[str, np.ndarray]":
        """Client name to the positions of its rows, clients in a fixed order. `clients` None: as many as come naturally."""

    def needs(self) -> Sequence[str]:
        """Columns that the data must have for this partition."""
        return ()
