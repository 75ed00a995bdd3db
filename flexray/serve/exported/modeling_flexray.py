"""A pretrained MoE with what one client of a federated run, or several, have beside it. Written by flexray; needs torch and
transformers alone.

`config.flexray` says what there is and where. `weighed`: low-rank adapters on linear layers, whose shares differ from token to
token (a mixer) or from row to row (anchors). `private`: more experts at MoE blocks, blended in by gates. All else that was
trained is in the ordinary weights. Shape suffixes: B rows, T tokens, N flat tokens, D width, X input and Y output width,
M adapters weighed against each other, R rank, S anchors, G private experts, C clients who own them (G/C each).
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen2MoeConfig as FamilyConfig
from transformers import Qwen2MoeForCausalLM as FamilyForCausalLM


class FlexrayConfig(FamilyConfig):
    model_type = "flexray_family"


class FlexrayForCausalLM(FamilyForCausalLM):
    config_class = FlexrayConfig

    def __init__(self, config):
        super().__init__(config)
        attach(self, config.flexray)

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        """transformers looks for the answer in this file, and would run experts one by one; it is the family's."""
        return FamilyForCausalLM._can_set_experts_implementation()


class Weighed(nn.Module):
    """ΔW·x = Σ_m share_m·B_m·A_m·x beside a linear layer; a mixer's shares are softmax(W·x + b), else anchors give them."""

    def __init__(self, adapters: int, rank: int, inward: int, outward: int, mixer: bool):
        super().__init__()
        self.a = nn.Parameter(torch.empty(adapters, rank, inward))
        self.b = nn.Parameter(torch.empty(adapters, outward, rank))
        self.weight = nn.Parameter(torch.empty(adapters, inward)) if mixer else None
        self.bias = nn.Parameter(torch.empty(adapters)) if mixer else None

    def forward(self, x_BTX: Tensor, share_BM: Tensor | None) -> Tensor:
        if self.weight is not None:
            logits_BTM = F.linear(x_BTX, self.weight, self.bias)
            share_BTM = logits_BTM.softmax(-1, dtype=at_least_float(x_BTX)).to(x_BTX.dtype)
        else:
            assert share_BM is not None
            share_BTM = share_BM.to(x_BTX.dtype)[:, None].expand(-1, x_BTX.shape[1], -1)
        low_BTMR = torch.einsum("btx,mrx->btmr", x_BTX, self.a) * share_BTM[..., None]
        return torch.einsum("btmr,myr->bty", low_BTMR, self.b)


class Anchors(nn.Module):
    """Shares of two adapters, (global, local), per row: by how near its prompt is to some of the client's own.

    Both are what the model without adapters makes of them. A row is all prompt, unless `starts` [B] says where its response
    starts; what is generated later keeps the shares of its prompt.
    """

    def __init__(self, told: dict):
        super().__init__()
        self.told = told
        self.reps = nn.Parameter(torch.empty(told["prompts"], told["width"]))
        self.starts: Tensor | None = None
        self.shares: Tensor | None = None
        self.off = False

    def forward(self, prompts_BD: Tensor) -> Tensor:
        reps_SD = self.reps.to(prompts_BD.dtype)
        cosine_BS = F.cosine_similarity(prompts_BD[:, None], reps_SD[None], dim=-1)
        near_B1 = self.told["sharpness"] * cosine_BS.sum(-1, keepdim=True) / reps_SD.any(-1).sum().clamp(min=1)
        share_B1 = near_B1.sigmoid() if self.told["share"] == "sigmoid" else near_B1.clamp(0, 1)
        both = [1 - share_B1, share_B1] if self.told["toward"] == "local" else [share_B1, 1 - share_B1]
        return torch.cat(both, -1)

    def pooled(self, hidden_BTD: Tensor, mask_BT: Tensor | None) -> Tensor:
        """What stands for each row's prompt, [B, D]: its last token, or the mean of all."""
        hidden_BTD = hidden_BTD.to(at_least_float(hidden_BTD))
        column_T = torch.arange(hidden_BTD.shape[1], device=hidden_BTD.device)
        ends_B = torch.full((len(hidden_BTD),), len(column_T), device=column_T.device) if self.starts is None else self.starts
        counted_BT = column_T < ends_B.to(column_T.device)[:, None]
        if mask_BT is not None and mask_BT.dim() == 2:
            counted_BT = counted_BT & mask_BT.bool()
        if self.told["pooling"] == "last":
            return hidden_BTD[torch.arange(len(hidden_BTD), device=column_T.device), (counted_BT * column_T).argmax(1)]
        total_BD = hidden_BTD.masked_fill(~counted_BT[..., None], 0).sum(1)
        return total_BD / counted_BT.sum(1, keepdim=True).clamp(min=1)


class PrivateExperts(nn.Module):
    """G experts in the layout of the block's own, and their gates, g = σ(w·x + b).

    What they are blended into, y, is the block's output (`add`, `open`) or that of its routed experts (`mix`, `route`). add:
    y + Σ g·E. mix: (1 − mean g)·y + mean g·E. open: y + Σ E. route: p = softmax([logsumexp(logits), scores]), p_0·y + scale·Σ p·E.
    With several clients, add and mix are done for each of them, and each token takes the average of what they give, by the
    softmax over clients of the mean score of their gates; in route all experts are in one softmax.
    """

    down: Tensor
    gate_weight: Tensor
    gate_bias: Tensor

    def __init__(self, told: dict):
        super().__init__()
        self.told = told
        for name, shape in told["tensors"].items():
            setattr(self, name, nn.Parameter(torch.empty(shape)))
        self.logits: Tensor | None = None

    def forward(self, experts: Any, x_ND: Tensor, y_ND: Tensor) -> Tensor:
        logits, self.logits = self.logits, None
        kept_N1, own_NG = self.weights(x_ND, logits)
        out_ND = y_ND if kept_N1 is None else y_ND * kept_N1
        for g in range(len(self.down)):
            out_ND = out_ND + own_NG[:, g : g + 1] * self.expert(g, experts, x_ND)
        return out_ND

    def weights(self, x_ND: Tensor, logits_NE: Tensor | None) -> tuple[Tensor | None, Tensor]:
        """What is kept of y (None: all), and what each expert is weighed with."""
        mode, clients = self.told["mode"], self.told["clients"]
        if mode == "open":
            return None, x_ND.new_ones(len(x_ND), len(self.down))
        scores_NG = F.linear(x_ND, self.gate_weight, self.gate_bias)
        if mode == "route":
            assert logits_NE is not None
            exact = at_least_float(scores_NG)
            rest_N1 = logits_NE.to(exact).logsumexp(-1, keepdim=True)
            share_NG = torch.cat([rest_N1, scores_NG.to(exact)], -1).softmax(-1).to(x_ND.dtype)
            return share_NG[:, :1], self.told["scale"] * share_NG[:, 1:]
        gate_NCG = scores_NG.sigmoid().unflatten(1, (clients, -1))
        if clients > 1:
            gate_NCG = gate_NCG * scores_NG.unflatten(1, (clients, -1)).mean(-1, keepdim=True).softmax(1)
        own_NG = gate_NCG.flatten(1)
        if mode == "add":
            return None, own_NG
        own_NG = own_NG / gate_NCG.shape[-1]
        return 1 - own_NG.sum(-1, keepdim=True), own_NG

    def expert(self, g: int, experts: Any, x_ND: Tensor) -> Tensor:
        """Expert g alone; `experts` are the block's own, whose activation it has."""
        hidden = self.linear("first", g, experts, x_ND)
        hidden = experts._apply_gate(hidden) if experts.has_gate else experts.act_fn(hidden)
        y_ND = self.linear("down", g, experts, hidden)
        return experts.post_expert_norm(y_ND) if getattr(experts, "has_post_expert_norm", False) else y_ND

    def linear(self, name: str, g: int, experts: Any, x: Tensor) -> Tensor:
        matrix, bias = getattr(self, name)[g], getattr(self, f"{name}_bias", None)
        y = x @ (matrix if experts.is_transposed else matrix.mT)
        return y if bias is None else y + bias[g]


def attach(model: Any, told: dict) -> list:
    """Puts modules of their own beside layers and blocks, and hooks that use them; gives the hooks' handles."""
    handles, anchors = [], None
    if told.get("anchors"):
        anchors = model.anchors = Anchors(told["anchors"])
        handles.append(model.base_model.register_forward_pre_hook(partial(_compare, anchors), with_kwargs=True))
    for path, (adapters, rank, mixer) in told.get("weighed", {}).items():
        linear = model.get_submodule(path)
        linear.weighed = Weighed(adapters, rank, linear.in_features, linear.out_features, mixer)
        handles.append(linear.register_forward_hook(partial(_weigh, anchors)))
    for own in told.get("private", []):
        block, experts = model.get_submodule(own["block"]), model.get_submodule(own["experts"])
        private = PrivateExperts(own)
        block.add_module(own["name"], private)
        if own["mode"] in ("add", "open"):
            handles.append(block.register_forward_hook(partial(_blend, private, experts)))
        else:
            handles.append(experts.register_forward_hook(partial(_blend, private, experts)))
        if own["mode"] == "route":
            router = model.get_submodule(own["router"])
            handles.append(router.register_forward_hook(partial(_remember, private, own["softmax"])))
    return handles


def at_least_float(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _weigh(anchors: Anchors | None, linear: Any, args: tuple, out: Tensor) -> Tensor | None:
    if anchors is not None and anchors.off:
        return None
    return out + linear.weighed(args[0], None if anchors is None else anchors.shares)


def _blend(private: PrivateExperts, experts: nn.Module, _module: nn.Module, args: tuple, out):
    y, *rest = out if isinstance(out, tuple) else (out,)
    blended = private(experts, args[0].flatten(0, -2), y.flatten(0, -2)).view(y.shape)
    return (blended, *rest) if isinstance(out, tuple) else blended


def _remember(private: PrivateExperts, softmax: str, _module: nn.Module, _args: tuple, out: tuple) -> None:
    """Keeps the logits over which the router's softmax runs, all or those of the chosen experts, for the blend."""
    logits_NE, _weights, chosen_Nk = out
    private.logits = logits_NE if softmax == "all" else logits_NE.gather(-1, chosen_Nk)


def _compare(anchors: Anchors, model: Any, args: tuple, inputs: dict) -> None:
    """Before rows go through the model, once through the one without adapters: for their shares."""
    past = inputs.get("past_key_values")
    if anchors.off or (past is not None and past.get_seq_length() > 0):
        return
    anchors.off = True
    try:
        ids = (
            {"input_ids": args[0]}
            if args
            else {n: inputs[n] for n in ("input_ids", "inputs_embeds") if inputs.get(n) is not None}
        )
        padding = {n: inputs[n] for n in ("attention_mask", "position_ids") if inputs.get(n) is not None}
        with torch.no_grad():
            hidden = model(**ids, **padding, use_cache=False).last_hidden_state
        anchors.shares = anchors(anchors.pooled(hidden, padding.get("attention_mask")))
    finally:
        anchors.off = False
