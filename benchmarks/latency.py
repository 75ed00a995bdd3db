"""What K + 1 experts cost against K: measured seconds of a forward, beside the counted FLOPs.

    python -m benchmarks.latency [--model tiny] [--dtype float32] [--rows 4] [--tokens 256] [--repetitions 40] [--device cpu]

One client's forward of random tokens, without gradients, with its parts in force and without, turn by turn in one process
with one thread. Parts have random values; grafts are cut from each block's first experts.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.common import machine, middle, table
from flexray.models.backbone import Backbone, load, prepare
from flexray.models.costs import added_flops, frozen_flops, picked
from flexray.models.latency import latency
from flexray.models.options import Model
from flexray.parts import Gate, Graft, Lora, Part, Routed

LORA = Part("lora", "lora", "shared", Lora(rank=32))


def variants() -> dict[str, tuple[Part, ...]]:
    def grafted(graft: Graft, mode: str) -> tuple[Part, ...]:
        return Part("expert", "expert", "private", graft), Part("gate", "gate", "private", Gate(mode=mode))  # pyright: ignore[reportArgumentType]

    copy, alias = Graft(start="copy"), Graft(start="copy", train="lora", rank=8)
    return {
        "K + 1: a copy, gate add": grafted(copy, "add"),
        "K + 1: a copy, gate mix": grafted(copy, "mix"),
        "K + 1: LoRA over the frozen one, gate add": grafted(alias, "add"),
        "K + 2: two copies, gate add": grafted(Graft(start="copy", experts=2), "add"),
        "K, one in place: a copy": grafted(copy, "in_place"),
        "K, one in place: LoRA": grafted(alias, "in_place"),
        "K, LoRA r = 8 on every expert": (Part("routed", "routed", "shared", Routed(rank=8)),),
        "K, LoRA r = 32 on q, k, v": (LORA,),
        "K + 1: a copy, gate add, and that LoRA": (LORA, *grafted(copy, "add")),
    }


def rows(backbone: Backbone, ids: torch.Tensor, repetitions: int) -> list[tuple[str, ...]]:
    frozen, found = frozen_flops(backbone).total, []
    for name, parts in variants().items():
        measured = latency(backbone, parts, ids, repetitions)
        each = [1000 * b for b in measured.adapted], [1000 * a for a in measured.frozen]
        counted = added_flops(backbone, parts) / frozen
        found.append((name, middle(each[1], ".1f"), middle(each[0], ".1f"), f"{measured.increase:+.1%}", f"{counted:+.1%}"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="what model.path takes")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--repetitions", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    with TemporaryDirectory() as cache:
        backbone = load(prepare(Model(path=options.model, dtype=options.dtype), Path(cache)), options.device)
        k, experts = {picked(b) for b in backbone.blocks}, {b.n_experts for b in backbone.blocks}
        print(f"{options.rows} × {options.tokens} tokens, {options.dtype}; K = {k} of {experts} experts per token")
        print(f"{frozen_flops(backbone).total:,} FLOPs per token in the frozen model")
        vocabulary = backbone.model.get_input_embeddings().weight.shape[0]  # pyright: ignore[reportCallIssue]
        ids = torch.randint(vocabulary, (options.rows, options.tokens), generator=torch.Generator().manual_seed(0))
        head = ("parts in force", "K experts, ms: median (range)", "with the parts, ms", "measured", "counted FLOPs")
        print(table(head, rows(backbone, ids.to(options.device), options.repetitions)))


if __name__ == "__main__":
    main()
