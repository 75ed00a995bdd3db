"""Hand-made plans and clients: what is shown needs no model."""

import numpy as np
import pytest

from flexray.config import Experiment
from flexray.data.clients import Client
from flexray.sim.job import Costs, Layout
from flexray.sim.planning.forecast import Forecast
from flexray.sim.planning.plan import Plan
from flexray.sim.planning.sizes import Disk, Memory


@pytest.fixture
def client():
    def make(name: str, train: int, labels: dict[str, int] | None = None) -> Client:
        return Client(name, np.arange(train), np.arange(4), np.arange(8), 0, labels or {})

    return make


@pytest.fixture
def plan(client):
    def make(**changes) -> Plan:
        values = {
            "experiment": Experiment(rounds=12, evaluation={"every": 5}),
            "layout": Layout("pooled", 4, 1, 1, "cpu", 1.0, 0.0),
            "clients": (client("a", 12), client("b", 1200)),
            "cohort": 2,
            "family": "qwen2_moe",
            "blocks": 4,
            "frozen": 2_563_200,
            "shared": 24_576,
            "private": 197_124,
            "bytes_up": 98_304,
            "bytes_down": 98_304,
            "costs": Costs(4_000_000, 400_000, {"lora_on_experts": 884_736, "full_model": 10_252_800}),
            "memory": Memory(10_300_000, 300_000_000, 26_000_000, 260_000_000, 640_000_000, 4),
            "disk": Disk(2, 788_000),
            "forecast": Forecast(7.5, 0.5, 12, 2.0, 4, 1.25),
            "notes": ("3 rows without a response dropped, at 1 of 2 clients",),
        }
        return Plan(**(values | changes))

    return make
