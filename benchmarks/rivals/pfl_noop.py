"""The no-op of `overhead.py` in pfl-research: SimulatedBackend, FederatedAveraging whose local SGD is taken out.

All that pfl does around training is there: the model's parameters are backed up, the difference is taken, weighted by
rows and summed, the parameters are put back, and a central optimizer (SGD with rate 1) applies the mean. Alone, or
started by torchrun: then each process has its share of the cohort, and sums meet by all-reduce (gloo). Clients are pinned
to processes (CrossSiloUserSampler), as pfl advises for what clients own, which is kept in memory.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import CrossSiloUserSampler
from pfl.data.user_state import InMemoryUserStateStorage
from pfl.exception import UserNotFoundError
from pfl.hyperparam import NNTrainHyperParams
from pfl.internal.ops import pytorch_ops
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel

from benchmarks.rivals.task import Task, answer, asked


class Vector(torch.nn.Module):
    """A model of one tensor."""

    def __init__(self, values: np.ndarray):
        super().__init__()
        self.values = torch.nn.Parameter(torch.from_numpy(values))

    def loss(self, *data: Any) -> torch.Tensor:
        return self.values.sum()

    def metrics(self, *data: Any) -> dict[str, Any]:
        return {}


class Noop(FederatedAveraging):
    """Federated averaging whose clients do not train."""

    def __init__(self, task: Task):
        super().__init__()
        self.task, self.store = task, InMemoryUserStateStorage()

    def train_one_user(self, initial_model_state: Any, model: Any, user_dataset: Any, central_context: Any) -> Any:
        """One client's round."""
        client = int(user_dataset.user_id)
        if self.task.step:
            self.task.train(client, model.pytorch_model.values.detach().numpy())
        if self.task.owned:
            self.store.save_state({"own": self.task.next_own(self.own(client))}, str(client))
        return model.get_model_difference(initial_model_state), Metrics()

    def own(self, client: int) -> np.ndarray | None:
        """What a client owns; None for a newcomer."""
        try:
            return self.store.load_state(str(client))["own"]
        except UserNotFoundError:
            return None


class Clock(TrainingProcessCallback):
    """The seconds of each round."""

    def __init__(self):
        self.seconds: list[float] = []

    def on_train_begin(self, *, model: Any) -> Metrics:
        self._last = perf_counter()
        return Metrics()

    def after_central_iteration(self, aggregate_metrics: Any, model: Any, *, central_iteration: int) -> tuple[bool, Metrics]:
        now = perf_counter()
        self.seconds.append(now - self._last)
        self._last = now
        return False, Metrics()


def main() -> None:
    task, out = asked()
    np.random.seed(0)  # the seeds of pfl's cohorts come from here, and must be the same in every process
    module = Vector(task.start())
    model = PyTorchModel(module, torch.optim.SGD, torch.optim.SGD(module.parameters(), lr=1.0))
    users = list(range(len(task.rows)))
    data = [Dataset((np.zeros((rows, 1), np.float32),), user_id=str(k)) for k, rows in enumerate(task.rows)]
    federated = FederatedDataset(lambda user: data[user], CrossSiloUserSampler("minimize_reuse", user_ids=users))
    backend = SimulatedBackend(federated, federated, [WeightByDatapoints()])
    algorithm, clock = Noop(task), Clock()
    rounds = NNAlgorithmParams(
        task.rounds, evaluation_frequency=task.rounds + 1, train_cohort_size=len(users), val_cohort_size=None
    )
    options = NNTrainHyperParams(local_num_epochs=1, local_learning_rate=1.0, local_batch_size=None)
    algorithm.run(rounds, backend, model, options, callbacks=[clock], send_metrics_to_platform=False)
    if pytorch_ops.distributed is None or pytorch_ops.distributed.global_rank == 0:
        own = algorithm.own(0)
        answer(task, out, clock.seconds, module.values.detach().numpy(), None if own is None else float(own[0]))


if __name__ == "__main__":
    main()
