"""A client's state divided: what can be merged into the model's own weights, and what must stand beside them.

Shape suffixes as in `exported/modeling_flexray.py`, and E experts, I expert width, H what goes into an expert's activation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from flexray.errors import ConfigError
from flexray.models.adapters import options, sites
from flexray.models.backbone import Backbone
from flexray.models.family import Block
from flexray.models.graft import pairs
from flexray.models.grafted import entry
from flexray.parts import Anchors, Gate, Graft, Lora, Mixer, Part, Routed, adapters
from flexray.serve import dense
from flexray.state import State, part_of


@dataclass(frozen=True)
class Folded:
    """weights: name to new value of the model's own tensors that change. told: what `exported/modeling_flexray.py` attaches, empty
    where the plain architecture says all; beside: the values of what it attaches, by their names in the model."""

    weights: State = field(default_factory=dict)
    told: dict[str, Any] = field(default_factory=dict)
    beside: State = field(default_factory=dict)


def fold(backbone: Backbone, parts: tuple[Part, ...], state: State, clients: int = 1) -> Folded:
    """`state` is what is in force, without a seat axis; a part that has none of it is not. clients: whose grafted experts they are,
    one client's behind the other's (see `merge`). Raises ConfigError for what neither can be merged nor stand beside."""
    return _Folding(backbone, parts, state, clients).done()


class _Folding:
    def __init__(self, backbone: Backbone, parts: tuple[Part, ...], state: State, clients: int):
        self.backbone, self.parts, self.clients = backbone, parts, clients
        self.state = {name: t.detach().cpu() for name, t in state.items()}
        self.there = {part_of(name) for name in state}
        self.model = backbone.model
        self.weights, self.beside = State(), State()
        self.told: dict[str, Any] = {}

    def done(self) -> Folded:
        weighed = self._weighers()
        for a, b in adapters(self.parts):
            if {a.name, b.name} <= self.there and not {a.name, b.name} & weighed:
                for path in sites(a, self.backbone):
                    self._add(f"{path}.weight", self._product(a, b, path))
        for part in self.parts:
            if part.kind == "delta" and part.name in self.there:
                for path in sites(part, self.backbone):
                    self._add(f"{path}.weight", self.state[f"{part.name}/{path}/w"])
        routed = [p for p in self.parts if p.kind == "routed" and p.name in self.there]
        for part in routed:
            self._add_routed(part)
        for number, (expert, gate) in enumerate(pairs(self.parts)):
            self._graft(number, expert, gate, bool(routed))
        if "anchors" in self.told and (self.weights or "private" in self.told):
            raise _cannot("anchors", "they compare what the frozen model makes of prompts, and other parts would change it")
        return Folded({n: t.to(self.backbone.dtype) for n, t in self.weights.items()}, self.told, self.beside)

    def _weighers(self) -> set[str]:
        """Puts down what mixers and anchors weigh; gives the names of those adapters."""
        taken: set[str] = set()
        for part in self.parts:
            if isinstance(part.config, Mixer | Anchors) and part.name in self.there:
                sides = [s for name in part.config.over for s in adapters(self.parts) if name in {p.name for p in s}]
                inside = [s for s in sides if {p.name for p in s} <= self.there]
                if isinstance(part.config, Anchors) and len(inside) < len(sides):
                    continue  # anchors need both of their adapters
                self._weigh(part, sides)
                taken |= {p.name for s in sides for p in s}
        return taken

    def _weigh(self, part: Part, sides: list[tuple[Part, Part]]) -> None:
        every = [set(sites(a, self.backbone)) for a, _ in sides]
        if any(paths != every[0] for paths in every) or set(self.told.get("weighed", ())) & every[0]:
            raise _cannot(part.name, "the adapters it weighs are on other layers than each other, or weighed by two parts")
        for path in sites(sides[0][0], self.backbone):
            self._stack(path, sides)
            mixer = part.kind == "mixer"
            for name in ("weight", "bias") if mixer else ():
                self.beside[f"{path}.weighed.{name}"] = self.state[f"{part.name}/{path}/{name}"]
            a = self.beside[f"{path}.weighed.a"]
            self.told.setdefault("weighed", {})[path] = [len(a), a.shape[1], mixer]
        if isinstance(config := part.config, Anchors):
            reps = self.beside["anchors.reps"] = self.state[f"{part.name}/reps"]
            said = {name: getattr(config, name) for name in ("toward", "sharpness", "share", "pooling")}
            self.told["anchors"] = {**said, "prompts": len(reps), "width": reps.shape[1]}

    def _stack(self, path: str, sides: list[tuple[Part, Part]]) -> None:
        """A [M, R, X] and B [M, Y, R] with its scale in it; lower ranks are filled up with zeros, and adapters not in force are zero."""
        R = max(options(a).rank for a, _ in sides)
        linear = sites(sides[0][0], self.backbone)[path]
        a_MRX, b_MYR = torch.zeros(len(sides), R, linear.in_features), torch.zeros(len(sides), linear.out_features, R)
        for m, (a, b) in enumerate(sides):
            if {a.name, b.name} <= self.there:
                lora = options(a)
                a_MRX[m, : lora.rank] = self.state[f"{a.name}/{path}/a"]
                b_MYR[m, :, : lora.rank] = self.state[f"{b.name}/{path}/b"] * (lora.alpha / lora.rank)
        self.beside |= {f"{path}.weighed.a": a_MRX, f"{path}.weighed.b": b_MYR}

    def _product(self, a: Part, b: Part, path: str) -> Tensor:
        lora: Lora = options(a)
        return (lora.alpha / lora.rank) * (
            self.state[f"{b.name}/{path}/b"].double() @ self.state[f"{a.name}/{path}/a"].double()
        )

    def _add(self, name: str, change: Tensor) -> None:
        self.weights[name] = self._now(name).double() + change.double()

    def _now(self, name: str) -> Tensor:
        return self.weights[name] if name in self.weights else self.model.get_parameter(name).detach().cpu()

    def _add_routed(self, part: Part) -> None:
        config = part.config
        assert isinstance(config, Routed)
        for block in self.backbone.blocks:
            own = self._below(f"{part.name}/{block.name}")
            for name, change in dense.changes(block.experts, own, config.alpha / config.rank).items():
                self._add(f"{experts_path(block)}.{name}_proj", change)

    def _graft(self, number: int, expert: Part, gate: Part | None, adapted: bool) -> None:
        mode = gate.config.mode if gate and isinstance(gate.config, Gate) else "open"
        config = expert.config
        assert isinstance(config, Graft)
        for block in self.backbone.blocks if mode != "off" else ():
            own, blend = self._below(f"{expert.name}/{block.name}"), self._below(f"{gate.name}/{block.name}") if gate else {}
            needed = expert.name in self.there and (mode in ("open", "in_place") or bool(blend))
            if not own or not needed:
                continue
            if adapted:
                raise _cannot(expert.name, "the pretrained experts that it was cut from have adapters too")
            if mode == "in_place":
                self._stand_in(block, own, config)
            else:
                self._beside(f"private_{number}", block, dense.private(block, own, config), blend, mode)

    def _stand_in(self, block: Block, own: State, config: Graft) -> None:
        """The client's own expert where the pretrained one was."""
        if self.clients > 1:
            raise _cannot("gate.mode: in_place", "experts of several clients cannot stand in one place")
        for name, values in dense.copies(block, own, config).items():
            place = f"{experts_path(block)}.{_proj(name)}"
            self.weights[place] = self._now(place).double().index_copy(0, own["index"], values.double())

    def _beside(self, called: str, block: Block, own: State, blend: State, mode: str) -> None:
        first = entry(block.experts)
        tensors = {name.replace(first, "first"): t for name, t in own.items()}
        tensors |= {f"gate_{name}": t for name, t in blend.items()}
        told = {
            "name": called, "block": block.name, "experts": experts_path(block), "router": child_path(block, block.router),
            "mode": mode, "softmax": "all" if block.scores == "softmax_all" else "chosen", "scale": block.scale,
            "clients": self.clients, "tensors": {name: list(t.shape) for name, t in tensors.items()},
        }  # fmt: skip
        self.told.setdefault("private", []).append(told)
        self.beside |= {f"{block.name}.{called}.{name}": t.to(self.backbone.dtype) for name, t in tensors.items()}

    def _below(self, prefix: str) -> State:
        return {n.removeprefix(f"{prefix}/"): t for n, t in self.state.items() if n.startswith(f"{prefix}/")}


def experts_path(block: Block) -> str:
    return child_path(block, block.experts)


def child_path(block: Block, child: Any) -> str:
    return next(f"{block.name}.{name}" for name, module in block.module.named_modules() if module is child)


def _proj(name: str) -> str:
    """The family's own name of an expert's tensor."""
    return f"{name.removesuffix('_bias')}_proj{'_bias' if name.endswith('_bias') else ''}"


def _cannot(what: str, why: str) -> ConfigError:
    return ConfigError(
        f"algorithm.{what}: expected parts that can be exported, got ones that cannot ({why}); use `flexray generate`"
    )
