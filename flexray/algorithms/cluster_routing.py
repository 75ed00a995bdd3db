"""Cluster routing: clients that use the experts alike are averaged together (ClientMorpher, arXiv 2608.15311)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from flexray.algorithm import Algorithm, ClientState, LocalTrainer, Lora, Part, State, Update


@dataclass(frozen=True)
class ClusterRouting(Algorithm):
    """Before round 0 every client tells how often the frozen router picks each expert for its rows; Ward's
    clustering of these profiles makes at most `count` groups, and FedAvg runs inside each of them.
    """

    surveys: ClassVar[bool] = True
    count: int = 2
    """At most so many clusters."""
    lora: Lora = Lora()

    @property
    def parts(self) -> tuple[Part, ...]:
        return (Part("lora", "lora", "shared", self.lora),)

    def check(self, experiment: Any) -> tuple[str, ...]:
        if self.count >= 1 and (experiment.clients is None or self.count <= experiment.clients):
            return ()
        return (f"count: expected 1 to {experiment.clients or 'the number of'} clients, got {self.count}; 2 is a start",)

    def survey(self, trainer: LocalTrainer) -> State:
        return trainer.profile()

    def clusters(self, surveys: State) -> tuple[int, ...]:
        from numpy import hstack
        from scipy.cluster.hierarchy import fcluster, linkage

        profiles = [t.flatten(1).double().numpy() for _, t in sorted(surveys.items())]
        if self.count == 1 or len(profiles[0]) == 1:
            return (0,) * len(profiles[0])
        found = fcluster(linkage(hstack(profiles), "ward"), self.count, "maxclust").tolist()
        number = {cluster: i for i, cluster in enumerate(dict.fromkeys(found))}  # in the order of their first clients
        return tuple(number[cluster] for cluster in found)

    def client(self, trainer: LocalTrainer, sent: Update, mine: ClientState) -> tuple[Update, ClientState]:
        return self.divide(trainer.fit(sent.weights))
