"""flexray: federated fine-tuning of Mixture-of-Experts language models with personal experts, simulated on Ray."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flexray.algorithm import Algorithm
    from flexray.api import Run, load_run, resume, simulate
    from flexray.config import Experiment
    from flexray.data.partition import Partition
    from flexray.errors import ConfigError, RunError
    from flexray.metric import Metric
    from flexray.sweeping.results import Sweep, load_sweep

__all__ = [
    "Algorithm", "ConfigError", "Experiment", "Metric", "Partition", "Run", "RunError", "Sweep", "load_run", "load_sweep", "resume",
    "simulate",
]  # fmt: skip

_HOMES = {
    "Algorithm": "algorithm", "ConfigError": "errors", "Experiment": "config", "Metric": "metric", "Partition": "data.partition",
    "Run": "api", "RunError": "errors", "Sweep": "sweeping.results", "load_run": "api", "load_sweep": "sweeping.results",
    "resume": "api", "simulate": "api",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Names are imported when used, so that the command line answers at once."""
    if name not in _HOMES:
        raise AttributeError(f"module 'flexray' has no attribute {name!r}")
    return getattr(import_module(f"flexray.{_HOMES[name]}"), name)
