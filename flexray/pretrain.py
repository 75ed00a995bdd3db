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
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from flexray import config, folder
from flexray.data import builtin
from flexray.data.options import Columns, Data
from flexray.data.prompts import tokenise
from flexray.data.rows import Row, load_rows
from flexray.errors import ConfigError, RunError

Log = Callable[[str], None]


class Corpus(config.Section):
    """What to train on. path `builtin`: the public part of the built-in corpus, `rows` of it; else as in a run's `data`.

    Held out are the source's test (or valid) rows; where it has none, `held_out` rows cut off by the seed.
    """

    path: str = "builtin"
    rows: int | None = Field(None, gt=0)
    subset: str | None = None
    columns: Columns = Columns()
    keep: dict[str, list[str]] = {}
    prompt: Literal["alpaca", "chat"] = "alpaca"
    max_length: int = Field(512, ge=8)
    held_out: int = Field(1000, gt=0)


class Architecture(config.Section):
    """base: `tiny`, a folder or a hub id whose config.json to start from; fields: what to change in it."""

    base: str = "tiny"
    fields: dict[str, Any] = {}


class Vocabulary(config.Section):
    """path: a tokenizer's folder or hub id; unset, a byte-level one of `size` tokens is learnt from the train rows."""

    path: str | None = None
    size: int = Field(1280, ge=320)


class Workers(config.Section):
    """Ray Train's workers and torch's threads in each. storage: where checkpoints go; on several nodes a shared folder."""

    workers: int = Field(1, gt=0)
    threads: int = Field(4, gt=0)
    gpu: bool = False
    address: str = "local"
    storage: Path | None = None


class Recipe(config.Section):
    """How a base is made.

    lr: the peak, after `warmup` steps, then a cosine. prompt_weight: of a prompt token's loss, a response token's being 1.
    balance: weight of the load-balancing loss. dtype: of the saved weights; training is in float32.
    """

    seed: int = Field(0, ge=0)
    data: Corpus = Corpus()
    model: Architecture = Architecture()
    tokenizer: Vocabulary = Vocabulary()
    steps: int = Field(1000, gt=0)
    batch: int = Field(64, gt=0)
    lr: float = Field(2e-3, gt=0)
    warmup: int = Field(100, ge=0)
    weight_decay: float = Field(0.05, ge=0)
    clip: float = Field(1.0, gt=0)
    prompt_weight: float = Field(0.1, ge=0, le=1)
    balance: float = Field(0.02, ge=0)
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    resources: Workers = Workers()


def load(path: Path | None, sets: tuple[str, ...] = ()) -> Recipe:
    """A recipe from a YAML file and overrides `dotted.key=value`."""
    values = config.read_yaml(path) if path else {}
    for text in sets:
        config._override(values, text)
    try:
        recipe = Recipe(**values)
    except ValidationError as e:
        raise config.as_config_error(e, Recipe) from None
    if problems := list(_problems(recipe)):
        raise ConfigError(*problems)
    return recipe


def run(path: Path | None, sets: tuple[str, ...], out: Path, log: Log = print) -> dict[str, Any]:
    """The recipe's base into the folder `out`; gives the scores that are written there as training.json."""
    return pretrain(load(path, sets), out, log)


def pretrain(recipe: Recipe, out: Path, log: Log = print) -> dict[str, Any]:
    """Train a base by the recipe and put it into the folder `out`, loadable by plain transformers."""
    _check_out(out)
    started = time.perf_counter()
    train, held_out = _rows(recipe)
    log(f"corpus: {len(train):,} rows to train on, {len(held_out):,} held out")
    with tempfile.TemporaryDirectory(prefix="flexray-") as scratch:
        tokenizer_folder = _tokenizer(recipe, train, Path(scratch) / "tokenizer")
        made = Path(scratch) / "made"
        record = _train(recipe, tokenizer_folder, train, held_out, made, log)
        (made / "training.json").write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        _put(made, out)
    for label, exact in record["exact_match"].items():
        log(f"{label}: exact match {exact:.1%}, loss {record['loss'][label]:.3f}")
    log(f"base in {out}: {record['parameters']:,} parameters, {time.perf_counter() - started:.0f} s")
    return record


def _problems(recipe: Recipe) -> Iterator[str]:
    data, workers = recipe.data, recipe.resources.workers
    if data.path == "builtin":
        given = [k for k in ("subset", "columns", "keep") if k in data.model_fields_set]
        yield from (f"data.{k}: expected none with the built-in corpus, got {getattr(data, k)!r}; drop it" for k in given)
    elif data.rows is not None:
        yield f"data.rows: expected none with {data.path!r}, got {data.rows}; it is for the built-in corpus"
    if recipe.tokenizer.path and "size" in recipe.tokenizer.model_fields_set:
        yield f"tokenizer.size: expected none with tokenizer.path, got {recipe.tokenizer.size}; drop one of the two"
    if recipe.batch < workers:
        yield f"batch: expected at least resources.workers ({workers}), got {recipe.batch}; every worker needs a row"
    if recipe.warmup >= recipe.steps:
        yield f"warmup: expected less than steps ({recipe.steps}), got {recipe.warmup}; lower it"


def _check_out(out: Path) -> None:
    """Only an empty folder or an earlier base is written over."""
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or (out / "config.json").exists())):
        raise ConfigError(f"--out: expected a new folder or that of an earlier base, got {str(out)!r}; choose another")


def _rows(recipe: Recipe) -> tuple[list[Row], list[Row]]:
    """Rows to train on, and rows held out; their label is the domain where the corpus is the built-in one."""
    data = recipe.data
    if data.path == "builtin":
        counts = {"train": data.rows or recipe.steps * recipe.batch, "test": data.held_out}
        made = {split: builtin.public_rows(recipe.seed, count, split) for split, count in counts.items()}
        train, held_out = ([_builtin_row(split, row) for row in made[split]] for split in counts)
        return train, held_out
    partition = folder.load("data/partitions", "iid", "data")()
    source = Data(partition, data.path, data.subset, data.columns, data.keep, data.prompt, data.max_length)
    splits = load_rows(source, recipe.seed)
    if given := splits.get("test") or splits.get("valid"):
        return splits["train"], given[: data.held_out]
    train = splits["train"]
    if len(train) <= data.held_out:
        raise ConfigError(f"data.held_out: expected fewer than the {len(train)} rows there are, got {data.held_out}; lower it")
    order = np.random.default_rng([recipe.seed, 6]).permutation(len(train))
    return [train[i] for i in order[data.held_out :]], [train[i] for i in order[: data.held_out]]


def _builtin_row(split: str, row: dict[str, str]) -> Row:
    return Row(split, row["instruction"], row["input"], row["output"], row["domain"], {})


def _tokenizer(recipe: Recipe, train: list[Row], folder: Path) -> Path:
    """The folder of the tokenizer that the recipe names or has made."""
    from flexray.models import tokenizer

    if recipe.tokenizer.path:
        tokenizer.Tokenizer(recipe.tokenizer.path).save(folder)
    else:
        texts = (text for row in train for text in (row.instruction, row.input, row.output) if text)
        tokenizer.build(texts, recipe.tokenizer.size).save_pretrained(folder)
    return folder


def _train(
    recipe: Recipe, tokenizer_folder: Path, train: list[Row], held_out: list[Row], made: Path, log: Log
) -> dict[str, Any]:
    """Run Ray Train; the trained model lies in the folder `made` afterwards."""
    from flexray import cluster
    from flexray.models import pretraining, tiny
    from flexray.models.tokenizer import Tokenizer

    encoder = Tokenizer(tokenizer_folder)
    architecture = tiny.any_config(recipe.model.base, encoder.vocabulary, encoder.eos, recipe.model.fields)
    packed = [_pack(recipe, rows, encoder, pretraining.pack) for rows in (train, held_out)]
    job = {"recipe": recipe.model_dump(mode="json"), "config": architecture, "train": packed[0], "held_out": packed[1]}
    r = recipe.resources
    needed = r.workers * r.threads
    with cluster.start(r.address, num_cpus=needed, **({} if r.gpu else {"num_gpus": 0})) as there:
        _check_resources(r, there)
        record = _fit(job, r, made, log)
    shutil.copytree(tokenizer_folder, made, dirs_exist_ok=True)
    return record


def _pack(recipe: Recipe, rows: list[Row], encoder: Any, pack: Callable[..., Any]) -> Any:
    kept = [
        (t, row.label) for t, row in zip(tokenise(rows, recipe.data.prompt, recipe.data.max_length, encoder), rows, strict=True)
    ]
    kept = [(t, label) for t, label in kept if t.tokens]
    if not kept:
        raise ConfigError("data.path: expected rows with a response, got none; check data.columns.output")
    return pack([(t.tokens, t.response_start) for t, _ in kept], [label for _, label in kept])


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
    from ray.util.queue import Queue

    queue = Queue(actor_options={"num_cpus": 0})

    def listen() -> None:
        while (text := queue.get()) is not None:
            log(text)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield queue
    finally:
        queue.put(None)
        listener.join(timeout=5)
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
    import torch
    import transformers

    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "numpy": np.__version__}
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
