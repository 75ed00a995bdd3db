"""Recompute: the backward makes each decoder layer's activations again, from the layer's input, instead of keeping them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from flexray.models.discovery import layers

if TYPE_CHECKING:
    from flexray.models.backbone import Backbone

Generators = Callable[[], Sequence[torch.Generator]]


def attach(backbone: Backbone, generators: Generators) -> Callable[[], None]:
    """In every forward that takes gradients, until the returned function is called. `generators`: those that it draws from."""
    found = decoder_layers(backbone.model)
    for layer in found:
        layer.forward = partial(_forward, layer.forward, generators)

    def detach() -> None:
        for layer in found:
            del layer.forward  # the class's own again

    return detach


def decoder_layers(model: nn.Module) -> list[Any]:
    """The modules that follow one another, each with one layer's attention and block."""
    modules, number = dict(model.named_modules()), layers(model)
    return [modules[path] for path in number if path.rpartition(".")[0] not in number]


def _forward(inner: Callable[..., Any], generators: Generators, *args: Any, **options: Any) -> Any:
    if not torch.is_grad_enabled():
        return inner(*args, **options)
    from torch.utils.checkpoint import checkpoint

    # Hooks inside the layer run again as well, and then draw what they drew.
    states = [g.get_state() for g in generators()]
    contexts = partial(_contexts, generators(), states)
    return checkpoint(partial(inner, **options), *args, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


def _contexts(generators: Sequence[torch.Generator], states: Sequence[torch.Tensor]) -> tuple[Any, Any]:
    """Around a layer's forward, and around the same made again."""
    return _set(generators, ()), _set(generators, states)


@contextmanager
def _set(generators: Sequence[torch.Generator], states: Sequence[torch.Tensor]) -> Iterator[None]:
    """Inside, the generators stand at these states, if any are given."""
    now = [g.get_state() for g in generators] if states else []
    for g, state in zip(generators, states, strict=False):
        g.set_state(state)
    try:
        yield
    finally:
        for g, state in zip(generators, now, strict=False):
            g.set_state(state)
