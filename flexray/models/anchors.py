"""Anchors: each row's shares of a global and a local adapter, by how near its prompt is to some of the client's own.

FedDPA (arXiv 2403.19211, github.com/Lydia-yang/FedDPA). Similarity is the mean cosine between the row's prompt and the
client's S prompts, all seen by the frozen model, and the share is 0.5 times it, as the authors' code has it. That code looks
at the last token and with the local adapter on: `pooling` offers the token, and nothing trained is ever on here, so that a
share depends on the prompt alone. Which adapter a similar prompt speaks for is `toward`. A row's shares take one more
forward of its prompt. Shape suffixes: K seats, B rows (in `represent`: of all seats), S anchors, T tokens, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from flexray.parts import Anchors, Part
from flexray.state import Shapes

if TYPE_CHECKING:
    from flexray.models.backbone import Backbone


def anchor_shapes(part: Part, backbone: Backbone) -> Shapes:
    """Name to shape of one client's anchors: reps [S, D]. They are not trained; one that is all zero does not count."""
    assert isinstance(part.config, Anchors)
    return {f"{part.name}/reps": (part.config.prompts, backbone.blocks[0].width)}


@torch.no_grad()
def represent(
    backbone: Backbone, ids_BT: Tensor, lengths_B: Tensor, pooling: Literal["mean", "last"] = "mean", **padding: Any
) -> Tensor:
    """What the model makes of prompts, [B, D]: the last hidden state, over the tokens before `lengths`, at least float32.

    The rest of a row is never looked at. `padding`: the model's own arguments `attention_mask` and `position_ids` [B, T], for
    rows padded on the left. Nothing trained may be in force meanwhile.
    """
    width = int(lengths_B.clamp(max=ids_BT.shape[1]).max())
    said = {name: t[:, :width] for name, t in padding.items() if t is not None and t.dim() == 2}
    model: Any = backbone.model.base_model
    hidden_BTD = model(input_ids=ids_BT[:, :width], use_cache=False, **said).last_hidden_state
    hidden_BTD = hidden_BTD.to(torch.promote_types(hidden_BTD.dtype, torch.float32))
    column_T = torch.arange(width, device=ids_BT.device)
    counted_BT = (column_T < lengths_B[:, None]) & said.get("attention_mask", column_T[None] >= 0).bool()
    if pooling == "last":
        last_B = (counted_BT * column_T).argmax(1)
        return hidden_BTD[torch.arange(len(last_B), device=last_B.device), last_B]
    total_BD = hidden_BTD.masked_fill(~counted_BT[..., None], 0).sum(1)  # what is padded on the left may be nan
    return total_BD / counted_BT.sum(1, keepdim=True).clamp(min=1)


def row_shares(anchors: Anchors, reps_KSD: Tensor, prompts_KBD: Tensor) -> Tensor:
    """The shares [K, B, 2] of the adapters `over`, (global, local), in rows whose prompts are these."""
    reps_KSD = reps_KSD.to(prompts_KBD.dtype)
    cosine_KBS = F.cosine_similarity(prompts_KBD[:, :, None], reps_KSD[:, None], dim=-1)  # 0 where an anchor is 0
    known_K11 = reps_KSD.any(-1).sum(-1).clamp(min=1)[:, None, None]
    near_KB1 = anchors.sharpness * cosine_KBS.sum(-1, keepdim=True) / known_K11
    share_KB1 = near_KB1.sigmoid() if anchors.share == "sigmoid" else near_KB1.clamp(0, 1)
    both = [1 - share_KB1, share_KB1] if anchors.toward == "local" else [share_KB1, 1 - share_KB1]
    return torch.cat(both, -1)


def goes_on(inputs: dict[str, Any]) -> bool:
    """Whether a forward with these arguments goes on with rows that the model has seen: then their shares stay."""
    past = inputs.get("past_key_values")
    return past is not None and int(past.get_seq_length()) > 0
