"""Where adapters go: the linear layers that play the attention's roles q, k, v and o."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from flexray.errors import expected
from flexray.models.discovery import OWN_FAMILY, layers

LATENT = ("kv_a_proj_with_mqa", "kv_b_proj")
"""Keys and values through one latent: either role asks for both."""
ROLES: Mapping[str, tuple[str, ...]] = {
    "q": ("q_proj", "q_b_proj"),
    "k": ("k_proj", *LATENT),
    "v": ("v_proj", *LATENT),
    "o": ("o_proj",),
}
Roles = Mapping[str, tuple[str, ...]]


def find_sites(model: nn.Module, targets: tuple[str, ...], roles: Roles | None = None) -> dict[str, nn.Linear]:
    """The linear layers of these roles by path, in the model's order; a role that no layer plays is refused."""
    playing = {role: _playing(model, role, roles) for role in targets}
    for role, found in playing.items():
        if not found:
            got = f"no linear layer {' or '.join(_names(role, roles))} in {type(model).__name__}"
            mend = f"leave {role!r} out of algorithm.lora.targets, choose another model, or {OWN_FAMILY}"
            raise expected("model.path", f"attention with the role {role!r}", got, mend)
    wanted = {path: linear for found in playing.values() for path, linear in found.items()}
    return {path: wanted[path] for path, _ in model.named_modules() if path in wanted}


def attention_notes(model: nn.Module, targets: tuple[str, ...], roles: Roles | None = None) -> tuple[str, ...]:
    """A line for the roles that only some layers have."""
    number = layers(model)
    every = set(number.values())
    having: dict[frozenset[int], list[str]] = {}
    for role in targets:
        having.setdefault(frozenset(number[path] for path in _playing(model, role, roles)), []).append(role)
    return tuple(
        f"adapters on {', '.join(same)} in {len(have)} of {len(every)} layers (the others have no such projections)"
        for have, same in having.items()
        if every - have
    )


def _playing(model: nn.Module, role: str, roles: Roles | None) -> dict[str, nn.Linear]:
    names, number = _names(role, roles), layers(model)
    return {
        path: module
        for path, module in model.named_modules()
        if path in number and path.split(".")[-1] in names and isinstance(module, nn.Linear)
    }


def _names(role: str, roles: Roles | None) -> tuple[str, ...]:
    return {**ROLES, **(roles or {})}[role]
