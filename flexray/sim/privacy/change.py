"""What an update changes: its difference from what the client received, as one flat vector [P], the weights first, then `aux`."""

from __future__ import annotations

import numpy as np

from flexray.sim.wire import Wire


def is_change(up: Wire, down: Wire) -> bool:
    """Whether updates are of the same form as what is sent, so that a difference has a meaning."""
    return up.payload == down.payload


def base(up: Wire, down: Wire, sent: np.ndarray) -> np.ndarray:
    """[P] what updates are a change of: the weights as they were sent; zero for `aux`, which methods send as a change already, and for
    methods whose updates are of another form."""
    found, weights = np.zeros(up.numbers, np.float32), split(up)
    if is_change(up, down):
        found[:weights] = sent[:weights]
    return found


def split(up: Wire) -> int:
    """How many of the numbers are weights."""
    return next((p.start for p in up.places if p.aux), up.numbers)


def generator(*key: int) -> np.random.Generator:
    """Random numbers that depend on these numbers alone: not on who sits beside whom. Philox is counter-based."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
