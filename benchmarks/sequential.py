"""Federated FLEx as a sequential loop of the OpenFedLLM shape (arXiv 2402.06954): one model, one client after another.

Per client: load its adapters and private expert into the model, make a fresh transformers Trainer for a few steps, copy
the result out; then average.
"""

from __future__ import annotations

from collections.abc import Sequence
from tempfile import TemporaryDirectory
from typing import Any

from transformers import PrinterCallback, Trainer, TrainingArguments

from benchmarks.plain import Model, Row, State, Work, collate, mean


def federate(model: Model, works: Sequence[Work], rounds: int) -> tuple[State, list[State]]:
    """The shared state and every client's own after so many rounds."""
    shared = {name: t for name, t in works[0].start.items() if name.startswith("lora/")}
    own = [{name: t for name, t in work.start.items() if name not in shared} for work in works]
    with TemporaryDirectory() as folder:
        for round in range(rounds):
            updates: list[State] = []
            for k, work in enumerate(works):
                model.load(shared | own[k])
                trainer(model, work, round, folder).train()
                trained = model.dump()
                updates.append({name: t for name, t in trained.items() if name in shared})
                own[k] = {name: t for name, t in trained.items() if name not in shared}
            shared = {name: mean([(u[name], work.weight) for u, work in zip(updates, works, strict=True)]) for name in shared}
    return shared, own


def trainer(model: Model, work: Work, round: int, folder: str) -> Trainer:
    """A fresh Trainer for one client's steps of one round."""
    steps = work.rows[round]
    options = TrainingArguments(
        output_dir=folder, max_steps=len(steps), per_device_train_batch_size=len(steps[0]), learning_rate=work.rates[round],
        lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=work.clip, train_sampling_strategy="sequential",
        report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False,
    )  # fmt: skip
    rows: Any = [row for step in steps for row in step]
    made = Trainer(model.net, options, train_dataset=rows, data_collator=_batch)
    made.remove_callback(PrinterCallback)
    return made


def _batch(rows: list[Row]) -> dict[str, Any]:
    ids, labels = collate(rows)
    return {"input_ids": ids, "labels": labels}
