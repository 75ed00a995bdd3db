"""A base model from a corpus, through Ray Train: `flexray pretrain RECIPE --out FOLDER`.

On one machine the same recipe gives the same bytes: data, weights, batches and the number of threads all come from it.
With more workers a batch is shared out among them; the loss is that of the whole batch, the balance loss each worker's own.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from flexray.data.rows import Row
from flexray.errors import ConfigError, RunError
from flexray.recipe import Recipe, Workers, corpus, load, pack, tokenizer

Log = Callable[[str], None]


def run(path: Path | None, sets: tuple[str, ...], out: Path, log: Log = print) -> dict[str, Any]:
    """The recipe's base into the folder `out`; gives the scores that are written there as training.json."""
    return pretrain(load(path, sets), out, log)


def pretrain(recipe: Recipe, out: Path, log: Log = print) -> dict[str, Any]:
    """Train a base by the recipe and put it into the folder `out`, loadable by plain transformers."""
    _check_out(out)
    started = time.perf_counter()
    train, held_out = corpus(recipe)
    log(f"corpus: {len(train):,} rows to train on, {len(held_out):,} held out")
    with tempfile.TemporaryDirectory(prefix="flexray-") as scratch:
        tokenizer_folder = tokenizer(recipe, train, Path(scratch) / "tokenizer")
        made = Path(scratch) / "made"
        record = _train(recipe, tokenizer_folder, train, held_out, made, log)
        (made / "training.json").write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        _put(made, out)
    for label, exact in record["exact_match"].items():
        log(f"{label}: exact match {exact:.1%}, loss {record['loss'][label]:.3f}")
    log(f"base in {out}: {record['parameters']:,} parameters, {time.perf_counter() - started:.0f} s")
    return record


def _check_out(out: Path) -> None:
    """Only an empty folder or an earlier base is written over."""
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or (out / "config.json").exists())):
        raise ConfigError(f"--out: expected a new folder or that of an earlier base, got {str(out)!r}; choose another")


def _train(
    recipe: Recipe, tokenizer_folder: Path, train: list[Row], held_out: list[Row], made: Path, log: Log
) -> dict[str, Any]:
    """Run Ray Train; the trained model lies in the folder `made` afterwards."""
    from flexray import cluster
    from flexray.models import tiny
    from flexray.models.tokenizer import Tokenizer

    encoder = Tokenizer(tokenizer_folder)
    architecture = tiny.any_config(recipe.model.base, encoder.vocabulary, encoder.eos, recipe.model.fields)
    packed = [pack(recipe, rows, encoder) for rows in (train, held_out)]
    job = {"recipe": recipe.model_dump(mode="json"), "config": architecture, "train": packed[0], "held_out": packed[1]}
    r = recipe.resources
    needed = r.workers * r.threads
    with cluster.start(r.address, num_cpus=needed) as there:
        _check_resources(r, there)
        record = _fit(job, r, made, log)
    shutil.copytree(tokenizer_folder, made, dirs_exist_ok=True)
    return record


def _check_resources(r: Workers, there: dict[str, float]) -> None:
    """Ray Train would wait for ever for what a cluster does not have."""
    for kind, needed in (("CPU", r.workers * r.threads), ("GPU", r.workers * r.gpu)):
        if needed > there.get(kind, 0):
            raise ConfigError(
                f"resources.workers: expected at most what the cluster has ({there.get(kind, 0):g} {kind}), got a need of "
                f"{needed}; lower workers or threads"
            )


def _fit(job: dict[str, Any], r: Workers, made: Path, log: Log) -> dict[str, Any]:
    import ray
    from ray import train
    from ray.train.torch import TorchTrainer

    with tempfile.TemporaryDirectory(prefix="flexray-train-") as storage, _progress(log) as queue:
        big = {name: ray.put(job[name]) for name in ("train", "held_out")}
        trainer = TorchTrainer(
            _worker,
            train_loop_config={**job, **big, "progress": queue},
            scaling_config=train.ScalingConfig(
                num_workers=r.workers, use_gpu=r.gpu, resources_per_worker={"CPU": r.threads, **({"GPU": 1} if r.gpu else {})}
            ),
            run_config=train.RunConfig(name="pretrain", storage_path=str((r.storage or Path(storage)).absolute())),
        )
        try:
            result = trainer.fit()
        except train.TrainingFailedError as e:
            reason = str(e).strip().splitlines()[-1]
            raise RunError(f"pretraining failed: {reason}; mend the cause and start again") from e
        assert result.checkpoint is not None and result.metrics is not None
        with result.checkpoint.as_directory() as folder:
            shutil.copytree(folder, made)
        return json.loads(result.metrics["record"])


@contextmanager
def _progress(log: Log) -> Iterator[Any]:
    """A queue whose texts are logged while the block runs: the workers' own output is silenced."""
    from ray.exceptions import RayError
    from ray.util.queue import Empty, Queue

    queue = Queue(actor_options={"num_cpus": 0})
    done = threading.Event()

    def listen() -> None:
        with suppress(RayError):  # a queue that has died ends the log, not the training
            while not (done.is_set() and queue.empty()):
                with suppress(Empty):
                    log(queue.get(timeout=1.0))

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield queue
    finally:
        done.set()
        listener.join()
        queue.shutdown()


def _worker(job: dict[str, Any]) -> None:
    """One worker of Ray Train: the whole training; the first one also scores, saves and reports."""
    import ray
    import torch
    from ray import train
    from ray.train import torch as ray_torch

    from flexray.models import pretraining, tiny

    recipe = Recipe(**job["recipe"])
    torch.set_num_threads(recipe.resources.threads)
    torch.use_deterministic_algorithms(True)
    rank, device = train.get_context().get_world_rank(), ray_torch.get_device()
    packed = ray.get(job["train"])
    bare = tiny.build(recipe.seed, job["config"])
    _steps(recipe, ray_torch.prepare_model(bare), packed, rank, device, job["progress"] if rank == 0 else None)
    if rank > 0:
        train.report({})
        return
    with tempfile.TemporaryDirectory() as folder:
        tiny.save(bare, Path(folder), recipe.dtype)
        scores = pretraining.score(bare.float().eval(), ray.get(job["held_out"]), job["config"].num_experts_per_tok, device)
        record = _record(recipe, bare, scores)
        train.report({"record": json.dumps(record)}, checkpoint=train.Checkpoint.from_directory(folder))


def _steps(recipe: Recipe, model: Any, packed: Any, rank: int, device: Any, progress: Any) -> None:
    import torch

    from flexray.models import pretraining as p

    top_k = getattr(model, "module", model).config.num_experts_per_tok
    optimizer = p.optimizer(model, recipe.lr, recipe.weight_decay)
    numbers = p.batch_numbers(packed.lengths, recipe.batch, recipe.seed)
    started, seen = time.perf_counter(), 0
    model.train()
    for step in range(recipe.steps):
        whole = p.make_batch(packed, next(numbers), recipe.prompt_weight)
        batch = whole.part(rank, recipe.resources.workers).to(device)
        out = model(input_ids=batch.ids_BT, attention_mask=batch.mask_BT, output_router_logits=True)
        # The workers' gradients are averaged, so each divides by its share of the whole batch's weight.
        share = whole.weight_BT[:, 1:].sum() / recipe.resources.workers
        loss = (p.token_loss(out.logits, batch) * batch.weight_BT[:, 1:]).sum() / share
        balance = p.balance_loss(out.router_logits, batch.mask_BT, top_k)
        for group in optimizer.param_groups:
            group["lr"] = p.learning_rate(step, recipe.steps, recipe.lr, recipe.warmup)
        optimizer.zero_grad()
        (loss + recipe.balance * balance).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        seen += int(whole.mask_BT.sum())
        if progress is not None and ((step + 1) % max(1, recipe.steps // 20) == 0):
            speed = seen / (time.perf_counter() - started)
            progress.put(
                f"step {step + 1:,} of {recipe.steps:,}: loss {loss.item():.3f}, balance {balance.item():.3f}, {speed:,.0f} tokens/s"
            )


def _record(recipe: Recipe, model: Any, scores: Any) -> dict[str, Any]:
    """What training.json holds: the recipe, what it was made with, how it scores. Nothing that changes from run to run."""
    versions = {package: version(package) for package in ("torch", "transformers", "tokenizers", "numpy")}
    plain = {k: v for k, v in asdict(scores).items() if k != "expert_share"}
    shares = {label: np.round(layers, 3).tolist() for label, layers in scores.expert_share.items()}
    return {
        "recipe": recipe.model_dump(mode="json", exclude={"resources": {"address", "storage"}}),
        "parameters": sum(p.numel() for p in model.parameters()),
        "versions": versions,
        "overall": scores.overall(),
        "expert_share": shares,
        **plain,
    }


def _put(made: Path, out: Path) -> None:
    """Only a whole base ever stands at `out`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent)) / out.name
    shutil.copytree(made, fresh)
    if out.exists():
        shutil.rmtree(out)
    fresh.rename(out)
    fresh.parent.rmdir()
