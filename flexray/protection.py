"""What is wrong with the settings of privacy and compression, or with the method beside them.

`x` is an Experiment, which is a floor above. What only the model and the data can tell is checked before a run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flexray.sections_privacy import Adaptive, Compress, Dp, SecureAggregation

USED = {"int8": ("rounding",), "topk": ("keep", "feedback")}
"""Of `compress`, by its kind."""


def problems(x: Any) -> Iterator[str]:
    """Settings that contradict each other, would be ignored, or promise what the method does not keep."""
    yield from _idle(x)
    if x.privacy.dp.where != "none":
        yield from _dp(x)
    if x.privacy.secure_aggregation.protocol != "none":
        yield from _secure(x)


def _idle(x: Any) -> Iterator[str]:
    """What is set, and nothing looks at it."""
    dp, told = x.privacy.dp, x.privacy.secure_aggregation
    if dp.where == "none":
        yield from _unused("privacy.dp", dp, Dp(), (), "set privacy.dp.where to central or local")
    elif dp.adaptive.quantile is None:
        yield from _unused("privacy.dp.adaptive", dp.adaptive, Adaptive(), (), "set privacy.dp.adaptive.quantile, 0.5 is usual")
    if told.protocol == "none":
        mend = "set privacy.secure_aggregation.protocol to secagg"
        yield from _unused("privacy.secure_aggregation", told, SecureAggregation(), (), mend)
    mend = f"with `compress.kind: {x.compress.kind}` drop it"
    yield from _unused("compress", x.compress, Compress(), ("kind", *USED.get(x.compress.kind, ())), mend)


def _unused(key: str, got: Any, default: Any, used: tuple[str, ...], mend: str) -> Iterator[str]:
    for name in type(got).model_fields:
        if name not in used and (value := getattr(got, name)) != getattr(default, name):
            yield f"{key}.{name}: expected none, as nothing uses it, got {_plain(value)}; {mend}"


def _plain(value: Any) -> Any:
    return value.model_dump(exclude_defaults=True) if hasattr(value, "model_dump") else repr(value)


def _dp(x: Any) -> Iterator[str]:
    dp, name = x.privacy.dp, x.algorithm.name
    for why in _uncovered(x, "noise on a sum cannot hide what"):
        yield f"privacy.dp.where: expected none with {name}, got {dp.where!r}; {why}"
    if dp.where == "local" and dp.adaptive.quantile is not None:
        wrong = f"expected none with `privacy.dp.where: local`, got {dp.adaptive.quantile}"
        yield f"privacy.dp.adaptive.quantile: {wrong}; drop it, or use central"
    if dp.epsilon is not None and dp.noise_multiplier != Dp().noise_multiplier:
        yield f"privacy.dp.epsilon: expected none with privacy.dp.noise_multiplier, which says how much noise, got {dp.epsilon}; drop one"
    if isinstance(x.clients, int) and dp.delta >= 1 / x.clients:
        yield f"privacy.dp.delta: expected less than 1/clients = {1 / x.clients:g}, got {dp.delta:g}; 1e-5 is usual"


def _secure(x: Any) -> Iterator[str]:
    told, name = x.privacy.secure_aggregation, x.algorithm.name
    key = "privacy.secure_aggregation"
    for why in _uncovered(x, "masks cancel in a sum, not in what"):
        yield f"{key}.protocol: expected none with {name}, got {told.protocol!r}; {why}"
    if x.compress.kind != "none":
        yield (
            f"compress.kind: expected none with secure aggregation, got {x.compress.kind!r}; masked numbers are uniform and cross in full: "
            "drop one of the two"
        )
    if told.num_shares is not None and told.num_shares % 2:
        yield f"{key}.num_shares: expected an even number, as many on either side, got {told.num_shares}; use {told.num_shares + 1}"
    if 1 - told.dropout < told.reconstruction_threshold:
        yield (
            f"{key}.dropout: expected at most 1 − reconstruction_threshold = {1 - told.reconstruction_threshold:g}, got {told.dropout:g}; "
            "too few would be left to take the masks off: lower one of the two"
        )


def _uncovered(x: Any, beginning: str) -> Iterator[str]:
    """What of a method goes past the sum."""
    if x.algorithm.each:
        yield f"{beginning} its server does: it looks at single updates. Use a method that needs their mean only, as flex or fedavg"
    if x.algorithm.pooled:
        yield f"{beginning} all rows in one place tell: there are no clients to hide. Use fedavg"
    if x.algorithm.surveys:
        yield f"{beginning} every client tells before the first round, and by whom it is averaged. Use fedavg"
