"""What clients own before their first local step; flexray itself keeps nothing of it."""

from __future__ import annotations

from flexray.models.seats import Seats
from flexray.sim.host import ClientHost
from flexray.sim.job import Job
from flexray.sim.local.trainer import SeatTrainer
from flexray.state import State, seat


def starts(job: Job) -> list[State]:
    """The private weights of every client, with what the server sends first."""
    host = ClientHost(job)
    sent, seats = host.open(), Seats(host.backbone, job.algorithm.parts, 1)

    def start(client: int) -> State:
        trainer = SeatTrainer(job, host.backbone, seats, host.corpus, (client,), 0)
        return seat(job.algorithm.start(trainer, host.sent.widened(sent, (client,))).weights, 0)

    try:
        return [start(client) for client in range(len(job.clients))]
    finally:
        seats.detach()
        host.close()
