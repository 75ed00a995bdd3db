"""Where adapters go: the linear layers that play the attention's roles q, k, v and o."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

from flexray.errors import expected
from flexray.models.discovery import OWN_FAMILY, layer_of

LATENT = ("kv_a_proj_with_mqa", "kv_b_proj")
"""Keys and values through one latent: either role asks for both."""
ROLES: Mapping[str, tuple[str, ...]] = {
    "q": ("q_proj", "q_b_proj"),
    "k": ("k_proj", *LATENT),
    "v": ("v_proj", *LATENT),
    "o": ("o_proj",),
}


def find_sites(
    model: nn.Module, targets: tuple[str, ...], roles: Mapping[str, tuple[str, ...]] | None = None
) -> dict[str, nn.Linear]:
    """The linear layers of these roles by path, in the model's order; a role that no layer plays is refused."""
    roles = {**ROLES, **(roles or {})}
    for role in targets:
        if not any(True for _ in _playing(model, roles[role])):
            names = " or ".join(roles[role])
            raise expected(
                "model.path", f"attention with the role {role!r} ({names})", f"none in {type(model).__name__}",
                f"leave {role!r} out of algorithm.lora.targets, or {OWN_FAMILY}",
            )  # fmt: skip
    wanted = {name for role in targets for name in roles[role]}
    return dict(_playing(model, tuple(wanted)))


def attention_notes(model: nn.Module, targets: tuple[str, ...], sites: Mapping[str, nn.Linear]) -> tuple[str, ...]:
    """A line when some layers get no adapters."""
    layers = {index for name, _ in model.named_modules() if (index := layer_of(name)) is not None}
    have = {layer_of(path) for path in sites}
    if not targets or have >= layers:
        return ()
    return (f"adapters in {len(have)} of {len(layers)} layers (the others have no {', '.join(targets)} projections)",)


def _playing(model: nn.Module, names: tuple[str, ...]) -> Iterator[tuple[str, nn.Linear]]:
    for path, module in model.named_modules():
        last = path.split(".")[-1]
        if last in names and isinstance(module, nn.Linear) and layer_of(path) is not None:
            yield path, module
