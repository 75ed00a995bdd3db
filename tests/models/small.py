"""Small random backbones of every known family, and experts written out plainly, to test against."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM

from flexray import folder
from flexray.models import experts
from flexray.models.backbone import Backbone
from flexray.models.family import Block
from flexray.parts import Gate, Graft, Lora, Part

FAMILIES = list(folder.listing("models/families"))
SOFTMAX = [name for name in FAMILIES if name != "deepseek_v3"]
VOCABULARY = 64


def backbone(name: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> Backbone:
    """The family's example with weights large enough that every path through it matters."""
    experts.register()
    family = folder.load("models/families", name, "model.family")()
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**family.example()))
    model.config._experts_implementation = experts.NAME
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        spread = torch.randn(p.shape, generator=generator)
        p.data = spread * p.shape[-1] ** -0.5 if p.dim() > 1 else 1 + 0.1 * spread
    for path, buffer in model.named_buffers():
        if path.endswith("e_score_correction_bias"):
            buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
    model = model.eval().requires_grad_(False).to(dtype)
    return Backbone(model, family, family.blocks(model), torch.device("cpu"), dtype, 0, 0)


def flex_parts(graft: Graft, gate: Gate, lora: Lora | None = None) -> tuple[Part, ...]:
    grafts = (Part("expert", "expert", "private", graft), Part("gate", "gate", "private", gate))
    return (*((Part("lora", "lora", "shared", lora),) if lora else ()), *grafts)


def random_state(shapes: dict[str, tuple[int, ...]], seats: int, n_experts: int, seed: int = 1) -> dict[str, Tensor]:
    """Other values in every seat; large enough that all of them matter."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        if name.rpartition("/")[2] == "index":
            picks = [torch.randperm(n_experts, generator=generator)[: shape[0]] for _ in range(seats)]
            state[name] = torch.stack(picks)
        else:
            state[name] = torch.randn(seats, *shape, generator=generator) * shape[-1] ** -0.5
    return state


def plain_weights(e: Any, own: dict[str, Tensor]) -> dict[str, Tensor]:
    """One expert's stored tensors as ordinary matrices [out, in]: gate, up, down, and their biases."""
    first = "gate_up" if e.has_gate else "up"
    into = own[first].T if e.is_transposed else own[first]
    down = own["down"].T if e.is_transposed else own["down"]
    bias = own.get(f"{first}_bias", into.new_zeros(len(into)))
    plain = {"down": down, "down_bias": own.get("down_bias", down.new_zeros(len(down)))}
    if not e.has_gate:
        return plain | {"up": into, "up_bias": bias}
    half = len(into) // 2
    gate, up = (slice(half), slice(half, None)) if e.is_concatenated else (slice(0, None, 2), slice(1, None, 2))
    return plain | {"gate": into[gate], "up": into[up], "gate_bias": bias[gate], "up_bias": bias[up]}


def frozen_weights(e: Any, i: int) -> dict[str, Tensor]:
    first = "gate_up" if e.has_gate else "up"
    own = {name: getattr(e, f"{name}_proj")[i] for name in (first, "down")}
    if e.has_bias:
        own |= {f"{name}_bias": getattr(e, f"{name}_proj_bias")[i] for name in (first, "down")}
    return plain_weights(e, own)


def plain_expert(e: Any, w: dict[str, Tensor], x_D: Tensor) -> Tensor:
    """One token through one expert."""
    up = w["up"] @ x_D + w["up_bias"]
    if not e.has_gate:
        hidden = e.act_fn(up)
    elif hasattr(e, "limit"):  # gpt-oss
        gate, up = (w["gate"] @ x_D + w["gate_bias"]).clamp(max=7.0), up.clamp(-7.0, 7.0)
        hidden = (up + 1) * gate * torch.sigmoid(1.702 * gate)
    else:
        hidden = F.silu(w["gate"] @ x_D + w["gate_bias"]) * up
    out = w["down"] @ hidden + w["down_bias"]
    return e.post_expert_norm(out) if getattr(e, "has_post_expert_norm", False) else out


def plain_grafted(block: Block, own: dict[str, Tensor], graft: Graft, x_D: Tensor) -> list[Tensor]:
    """One token through one client's grafted experts; `own` are [G, …]."""
    e: Any = block.experts
    outs = []
    for g in range(graft.experts):
        mine = {name: t[g] for name, t in own.items() if name != "index"}
        if graft.train == "full":
            outs.append(plain_expert(e, plain_weights(e, mine), x_D))
            continue
        frozen = frozen_weights(e, int(own["index"][g]))
        scale = graft.alpha / graft.rank
        names = ("gate", "up", "down") if e.has_gate else ("up", "down")
        tuned = frozen | {n: frozen[n] + scale * mine[f"{n}_b"] @ mine[f"{n}_a"] for n in names}
        out = plain_expert(e, tuned, x_D)
        outs.append(out - plain_expert(e, frozen, x_D) if graft.start == "identity" else out)
    return outs


class Experts(nn.Module):
    """An experts module of any layout, as transformers' experts interface has them."""

    def __init__(self, gate: bool, bias: bool, transposed: bool, concatenated: bool, norm: bool):
        super().__init__()
        self.has_gate, self.has_bias, self.is_transposed, self.is_concatenated = gate, bias, transposed, concatenated
        self.has_post_expert_norm = norm
        self.act_fn = nn.functional.gelu if not gate else nn.functional.silu
        E, D, I, H = 4, 6, 5, 10 if gate else 5  # noqa: E741
        generator = torch.Generator().manual_seed(3)

        def weight(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(E, *shape, generator=generator, dtype=torch.float64), requires_grad=False)

        first = "gate_up" if gate else "up"
        setattr(self, f"{first}_proj", weight(D, H) if transposed else weight(H, D))
        self.down_proj = weight(I, D) if transposed else weight(D, I)
        if bias:
            setattr(self, f"{first}_proj_bias", weight(H))
            self.down_proj_bias = weight(D)
        if norm:
            self.post_expert_norm = nn.RMSNorm(D, dtype=torch.float64)

    def _apply_gate(self, gate_up_NH: Tensor) -> Tensor:
        assert gate_up_NH.dim() == 2
        gate, up = gate_up_NH.chunk(2, -1) if self.is_concatenated else (gate_up_NH[:, ::2], gate_up_NH[:, 1::2])
        return self.act_fn(gate) * up


def block_of(e: nn.Module) -> Block:
    return Block(0, "layers.0.mlp", nn.Identity(), nn.Identity(), e, "softmax_all", 1.0, n_experts=4, width=6, expert_width=5)
