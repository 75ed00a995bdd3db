"""The laws of the house with privacy and compression on, and what a driver and an object store really get, on runs from start to end."""

import os
import pickle
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from flexray import api
from flexray.sim.planning.plan import prepare
from flexray.sim.pool import InlinePool
from flexray.sim.privacy.guard import RESIDUAL
from flexray.sim.reports import Sum
from flexray.sim.run import run

CPU4 = {"CPU": 4.0}
ADAPTIVE = {"where": "central", "noise_multiplier": 0.1, "adaptive": {"quantile": 0.5}}
ALL = {
    "central, adaptive, top-k": {"privacy": {"dp": ADAPTIVE}, "compress": {"kind": "topk", "keep": 0.1}},
    "local, masked": {
        "privacy": {"dp": {"where": "local", "noise_multiplier": 0.01}, "secure_aggregation": {"protocol": "secagg", "dropout": 0.26}},
    },
    "int8": {"compress": {"kind": "int8"}},
}  # fmt: skip
MINE = '''"""Ditto with values that one can look for."""

from dataclasses import dataclass

from flexray.algorithm import Algorithm, ClientState, Lora, Part, Update


@dataclass(frozen=True)
class Marked(Algorithm):
    @property
    def parts(self):
        return (Part("lora", "lora", "shared", Lora()), Part("own", "lora", "private", Lora()))

    def client(self, trainer, sent, mine):
        theta = trainer.fit(sent.weights)
        return Update({n: t * 0 + SHARED for n, t in theta.items()}), ClientState({n: t * 0 + PRIVATE for n, t in mine.weights.items()})
'''
SHARED, PRIVATE = 0.012345679, 0.009876543


def everything(path: Path) -> dict[str, torch.Tensor]:
    """The server's tensors, and every client's newest private ones."""
    found = {f"server/{n}": t for n, t in load_file(path / "server.safetensors").items()}
    for client in sorted((path / "private").glob("*")):
        found |= {f"{client.name}/{n}": t for n, t in load_file(sorted(client.glob("*.safetensors"))[-1]).items()}
    return found


def assert_same(x: dict, y: dict) -> None:
    assert x.keys() == y.keys()
    for name, t in x.items():
        assert torch.equal(t, y[name]), name


def pattern(value: float) -> bytes:
    return np.full(16, value, np.float32).tobytes()


@pytest.fixture(scope="module")
def straight(small, tmp_path_factory):
    """Runs of three rounds, four clients of whom two or so take part, by what is on."""
    made = {}

    def make(name: str):
        if name not in made:
            x = small(rounds=3, clients=4, **ALL[name], **cohort(name))
            made[name] = (x, api.simulate(x, tmp_path_factory.mktemp("privacy") / "run"))
        return made[name]

    return make


def cohort(name: str) -> dict:
    return {"cohort": 2} if "central" in name else {}


@pytest.mark.parametrize("name", ALL)
def test_resumed_is_uninterrupted(straight, tmp_path, name):
    """What was held back, the clip and ε too. Stopped in round 1, when private states are written and the server's is not."""
    x, whole = straight(name)
    out = tmp_path / "run"

    class Dies(InlinePool):
        def play(self, work):
            yield from super().play(work)
            if work.round == 1:
                raise KeyboardInterrupt

    job, plan = prepare(x, CPU4, out.absolute() / "private")
    api._open_folder(out, job, plan)
    with pytest.raises(KeyboardInterrupt):
        list(run(job, Dies, out))
    resumed = api.resume(out)
    assert_same(everything(whole.path), everything(out))
    for column in ("loss", "epsilon", "clip", "bytes_up"):
        assert [r.get(column) for r in resumed.rounds()] == pytest.approx([r.get(column) for r in whole.rounds()], nan_ok=True)
    assert resumed.summary.get("privacy") == whole.summary.get("privacy")


def test_what_is_told_of_a_private_run(straight):
    _, found = straight("central, adaptive, top-k")
    spent = [r["epsilon"] for r in found.rounds()]
    assert spent == sorted(spent) and found.summary["privacy"]["dp"]["epsilon"] == spent[-1]
    assert found.rounds()[0]["clip"] == 1.0 != found.rounds()[1]["clip"]
    assert "flexray/residual" in " ".join(everything(found.path)), "remembered by the clients, at rest with what they own"
    assert any(name.endswith("flexray/clip") for name in everything(found.path))
    _, plain = straight("int8")
    assert "privacy" not in plain.summary and "epsilon" not in plain.rounds()[0]
    assert RESIDUAL not in " ".join(everything(plain.path))


def test_the_ledger_counts_what_would_cross(straight):
    _, found = straight("int8")
    one = found.summary["bytes"]["one_update"]
    assert one["up"] < 0.26 * one["down"], "a byte for four, and a scale for every tensor"
    assert {r["bytes_up"] for r in found.rounds()} == {4 * one["up"]}
    x, masked = straight("local, masked")
    by_role = masked.summary["bytes"]["by_role"]["up"]
    # of four clients one is lost in each of three rounds: 9 vectors of 8 bytes a number
    assert by_role["lora"] == 9 * 2 * masked.summary["bytes"]["one_update"]["down"] - 9 * 2 * _down_of_masks(x)
    assert by_role["secure_aggregation"] == 3 * (4 * (64 + 300) + 3 * 96)


def _down_of_masks(x) -> int:
    return 3 * (64 + 100 + 4)


@pytest.mark.parametrize("privacy", [{"dp": ADAPTIVE}, ALL["local, masked"]["privacy"]], ids=["central", "local, masked"])
def test_seats_draw_the_same_noise_and_masks(small, tmp_path, privacy):
    """One round, so that what differs is what training beside others differs by."""
    train = {"optimizer": "sgd", "lr": 0.1, "final_lr": 0.1}
    found = []
    for seats in (1, 3):
        x = small(rounds=1, clients=4, seats=seats, placement="pooled", train=train, privacy=privacy)
        found.append(everything(api.simulate(x, tmp_path / f"{seats}").path))
    for n, t in found[0].items():
        torch.testing.assert_close(found[1][n], t, rtol=1e-3, atol=2e-6, msg=n)


def test_nobody_took_part_and_the_run_goes_on(small, tmp_path):
    dp = {"where": "central", "noise_multiplier": 1e-3}
    x = small(rounds=6, clients=4, cohort=1, privacy={"dp": dp}, evaluation={"every": None})
    found = api.simulate(x, tmp_path / "run")
    clients = [r["clients"] for r in found.rounds()]
    assert 0 in clients and found.summary["privacy"]["dp"]["epsilon"] > 0
    nobody = clients.index(0)
    assert np.isnan(found.rounds()[nobody]["loss"]) and found.rounds()[nobody]["bytes_up"] == 0


@pytest.mark.parametrize("name", ["central, adaptive, top-k", "local, masked"])
def test_ray_gives_the_same_bytes(ray_here, straight, tmp_path, name):
    """Two actors and one process: noise, masks and what is held back are everybody's own."""
    x, whole = straight(name)
    more = {"resources": x.resources.model_copy(update={"backend": "ray", "cpu_per_client": 2.0}), "seats": whole_seats(whole)}
    api.simulate(x.model_copy(update=more), tmp_path / "ray")
    assert_same(everything(whole.path), everything(tmp_path / "ray"))


def whole_seats(whole) -> int:
    return whole.summary["seats"]


def received(monkeypatch) -> list:
    """All that `ray.get` gives to this process, which is the driver, from now on."""
    from flexray.sim import actors

    found, get = [], actors.ray.get

    def spy(*args, **more):
        result = get(*args, **more)
        found.append(result)
        return result

    monkeypatch.setattr(actors.ray, "get", spy)
    return found


def in_store(wanted: bytes) -> bool:
    """Whether these bytes are anywhere in the memory of Ray's object store: a file without a name, which the raylet holds open."""
    import psutil

    looked = False
    for raylet in (p for p in psutil.process_iter(["name"]) if p.info["name"] == "raylet" and p.uids().real == os.getuid()):
        for entry in Path(f"/proc/{raylet.pid}/fd").iterdir():
            if "plasma" in os.path.realpath(entry) and "sock" not in os.path.realpath(entry):
                looked = True
                with open(entry, "rb") as file:
                    if wanted in file.read():
                        return True
    assert looked, "no object store was found"
    return False


def test_nothing_private_reaches_the_driver_or_the_object_store(ray_here, small, tmp_path, monkeypatch):
    from flexray.sim.actors import RayPool

    (tmp_path / "marked.py").write_text(f"{MINE}\n\nSHARED, PRIVATE = {SHARED}, {PRIVATE}\n")
    x = small(
        algorithm={"name": str(tmp_path / "marked.py")}, cohort=1, rounds=2, resources={"backend": "ray", "cpu_per_client": 2}
    )
    job, _ = prepare(x, CPU4, tmp_path / "private")
    (tmp_path / "run").mkdir()
    found = received(monkeypatch)
    list(run(job, RayPool, tmp_path / "run"))
    at_rest = b"".join(f.read_bytes() for f in (tmp_path / "private").rglob("*.safetensors"))
    assert pattern(PRIVATE) in at_rest
    crossed = b"".join(pickle.dumps(one) for one in found)
    assert pattern(SHARED) in crossed and in_store(pattern(SHARED)), (
        "the search finds what does cross: a sum of one is that one"
    )
    assert pattern(PRIVATE) not in crossed and not in_store(pattern(PRIVATE))


KEEPS = {
    "flex, top-k": {"algorithm": {"name": "flex"}, "compress": {"kind": "topk", "keep": 0.2}},
    "fedper": {"algorithm": {"name": "fedper"}},
    "local": {"algorithm": {"name": "local"}},
    "ditto, masked": {"algorithm": {"name": "ditto"}, "privacy": {"secure_aggregation": {"protocol": "secagg"}}},
    "fed_dpa": {"algorithm": {"name": "fed_dpa"}},
    "fedalt": {"algorithm": {"name": "fedalt"}},
}


def pieces(files: list[Path]) -> dict[str, bytes]:
    """32 bytes of each tensor: from its start, its middle and its end."""
    found = {}
    for file in files:
        for name, t in load_file(file).items():
            raw = t.contiguous().numpy().tobytes()
            for at in {0, len(raw) // 128 * 64, max(0, len(raw) - 32)}:
                if len(set(piece := raw[at : at + 32])) > 16:
                    found[f"{file.parent.name} {file.name} {name} {at}"] = piece
    return found


@pytest.mark.parametrize("name", [n if i < 1 else pytest.param(n, marks=pytest.mark.slow) for i, n in enumerate(KEEPS)])
def test_nothing_that_a_method_keeps_is_anywhere_but_in_its_files(ray_here, small, tmp_path, monkeypatch, name):
    """Not in what the driver got, nor in the object store, nor in any other file of the run or of Ray's session."""
    from flexray.sim.actors import RayPool

    x = small(**KEEPS[name], rounds=2, resources={"backend": "ray", "cpu_per_client": 2}, tracking=["tensorboard"])
    job, plan = prepare(x, CPU4, (tmp_path / "private").absolute())
    api._open_folder(tmp_path / "run", job, plan)
    found = received(monkeypatch)
    list(run(job, RayPool, tmp_path / "run"))
    shared = (tmp_path / "run" / "server.safetensors").read_bytes() + job.backbone.joinpath("backbone.safetensors").read_bytes()
    kept = {n: p for n, p in pieces(sorted((tmp_path / "private").rglob("*.safetensors"))).items() if p not in shared}
    assert len(kept) > 20
    worker: Any = import_module("ray._private.worker")
    session = Path(worker._global_node.get_session_dir_path())
    files = [f for folder in (tmp_path / "run", session) for f in folder.rglob("*") if f.is_file()]
    for where in (b"".join(pickle.dumps(one) for one in found), *(f.read_bytes() for f in files)):
        assert not [n for n, piece in kept.items() if piece in where]
    assert not [n for n in sorted(kept)[:: max(1, len(kept) // 12)] if in_store(kept[n])]


def test_masked_sums_are_all_that_the_driver_gets(ray_here, small, tmp_path, monkeypatch):
    """Whatever actors summed, bits that are set half the time; and no client's plain values."""
    from flexray.sim.actors import RayPool

    x = small(
        privacy={"secure_aggregation": {"protocol": "secagg"}}, rounds=1, resources={"backend": "ray", "cpu_per_client": 2}
    )
    job, _ = prepare(x, CPU4, tmp_path / "private")
    (tmp_path / "run").mkdir()
    found = received(monkeypatch)
    list(run(job, RayPool, tmp_path / "run"))
    sums = [s for one in found if isinstance(one, list) for s in one if isinstance(s, Sum)]
    assert sums and all(s.vector.dtype == np.uint64 for s in sums)
    for s in sums:
        bits = np.unpackbits(np.ascontiguousarray(s.vector).view(np.uint8)).reshape(-1, 64).mean(0)
        # n coins: a deviation of 1/(2√n)
        assert np.abs(bits - 0.5).max() < 5 / (2 * len(s.vector) ** 0.5)
