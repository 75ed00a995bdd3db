"""A model family: where its MoE blocks are, how their routers score, and which linear layers are the attention's q, k, v and o.

Names of modules are looked at in `attention.py`, and in `families/` where they differ, and nowhere else.
Shape suffixes: D width, E experts, I expert width, N flat tokens, k experts per token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from flexray import folder
from flexray.errors import expected
from flexray.folder import Entry

if TYPE_CHECKING:
    from torch import Tensor, nn

RouterScores = Literal["softmax_all", "softmax_topk", "sigmoid", "other"]
"""How a router makes weights [N, k] of logits [N, E] and the chosen indices, up to the block's constant `scale`.

softmax_all: softmax(logits)[indices]. softmax_topk: softmax(logits[indices]), the same as softmax_all renormalised over
the chosen. sigmoid: sigmoid(logits)[indices], normalised over the chosen or not. other: none of these.
"""


@dataclass(frozen=True, eq=False)
class Block:
    """One MoE layer. `router(…)` gives (logits [N, E], weights [N, k], indices [N, k])."""

    layer: int
    name: str
    """Path of the block's module in the model."""
    module: nn.Module
    router: nn.Module
    experts: nn.Module
    scores: RouterScores
    scale: float
    """The constant factor on the weights (a routed scaling factor)."""
    n_experts: int
    width: int
    expert_width: int

    def router_row(self, i: int) -> Tensor:
        """The router's row of expert i, [D] in float32."""
        from flexray.models.discovery import router_weight

        return router_weight(self)[i].detach().float()


class Family(Entry, ABC):
    """How models of some kinds are laid out. Subclass it in one file of `families/`.

    All answers but `example` have defaults that find the layout by looking at the modules, so that a family's file
    only says what differs.
    """

    model_types: ClassVar[tuple[str, ...]] = ()
    """The `model_type` of the configs it serves; empty: any."""
    roles: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Role (q, k, v, o) to the names of the linear layers that play it, all of them; empty: the usual names."""

    @abstractmethod
    def example(self) -> dict[str, Any]:
        """Arguments of `AutoConfig.for_model` for a random model of at most 1 MB, to test with."""

    def blocks(self, model: nn.Module) -> tuple[Block, ...]:
        """The MoE blocks of a model, from its first layer to its last."""
        from flexray.models.discovery import find_blocks

        return find_blocks(model)

    def adapter_sites(self, model: nn.Module, targets: tuple[str, ...]) -> dict[str, nn.Linear]:
        """The linear layers that play these roles (q, k, v, o), by path, in the model's order."""
        from flexray.models.attention import find_sites

        return find_sites(model, targets, self.roles)

    def notes(self, model: nn.Module, targets: tuple[str, ...] = ()) -> tuple[str, ...]:
        """What of the model stays untrained although one might expect otherwise, a line each; empty when nothing does."""
        from flexray.models.attention import attention_notes
        from flexray.models.discovery import block_notes

        return block_notes(model, self.blocks(model)) + attention_notes(model, targets, self.roles)


def choose_family(config: Any, name: str = "auto", plugins: Mapping[str, str] | None = None) -> Family:
    """The family of a transformers config: by its `model_type`, or by name (a name of `families/` or a .py file)."""
    if name == "auto":
        return next((f() for f in _known() if config.model_type in f.model_types), _general())
    found = folder.load("models/families", name, "model.family", plugins)
    if found.model_types and config.model_type not in found.model_types:
        wanted = " or ".join(found.model_types)
        raise expected("model.family", f"a family of {config.model_type!r} models", f"{name} (of {wanted})", "set it to auto")
    return found()


def _known() -> list[type[Family]]:
    names = folder.listing("models/families")
    return [folder.load("models/families", n, "model.family") for n in names if n != "general"]


def _general() -> Family:
    return folder.load("models/families", "general", "model.family")()
