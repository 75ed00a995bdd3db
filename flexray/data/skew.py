"""How unlike clients are: sizes, labels per client, distance from everybody's mix, rows that several have.

Shape suffixes: C clients, V labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flexray.data.clients import Client


@dataclass(frozen=True)
class Skew:
    """Numbers over all clients' train rows; each client counts the same in a mean.

    effective: [C] labels that a client has in effect, the exponential of its labels' entropy; distance: [C] total
    variation ½ Σ|p_kv − p_v| between a client's mix of labels and that of all rows together; both None without labels.
    labels: how many there are. rows, held_by_several: different train rows, and those among them that two clients or
    more have.
    """

    effective: tuple[float, ...] | None
    distance: tuple[float, ...] | None
    labels: int
    rows: int
    held_by_several: int


def measure(clients: Sequence[Client]) -> Skew:
    """The skew of these clients."""
    owners = np.unique(np.concatenate([np.unique(c.train) for c in clients]), return_counts=True)[1]
    names = sorted({label for c in clients for label in c.labels})
    if not names:
        return Skew(None, None, 0, len(owners), int((owners > 1).sum()))
    counts_CV = np.array([[c.labels.get(name, 0) for name in names] for c in clients])
    mix_CV = counts_CV / counts_CV.sum(1, keepdims=True)
    logs_CV = np.log(mix_CV, out=np.zeros_like(mix_CV), where=mix_CV > 0)
    effective_C = np.exp(-(mix_CV * logs_CV).sum(1))
    distance_C = np.abs(mix_CV - counts_CV.sum(0) / counts_CV.sum()).sum(1) / 2
    return Skew(tuple(effective_C.tolist()), tuple(distance_C.tolist()), len(names), len(owners), int((owners > 1).sum()))
