"""What the run folder writes is the same bytes for the same run."""

import torch

from flexray.sim.reports import ClientReport, Reports
from flexray.sim.round import RoundReport, Server
from flexray.sim.run_folder import RunFolder
from flexray.state import ServerState, Update


def server() -> Server:
    states = (
        ServerState(Update({"lora/a": torch.full((2,), value), "lora/b": torch.zeros(3)}, {}), {"m": torch.ones(1)})
        for value in (1.0, 2.0)
    )
    return Server(tuple(states), (0, 1))


def test_the_servers_file_is_the_same_bytes_every_time(tmp_path):
    report, found = RoundReport(3, Reports.of([ClientReport(0, 1.0, 2, 9, 4, {"lora": 8}, {"lora": 8})]), 1.0, 0.5, 0.1), set()
    for i in range(8):
        out = tmp_path / str(i)
        out.mkdir()
        RunFolder(out).save_round(server(), report)
        found.add((out / "server.safetensors").read_bytes())
    assert len(found) == 1
    loaded, round = RunFolder(tmp_path / "0").load_server() or (Server(()), -1)
    assert round == 3 and loaded.clusters == (0, 1)
    assert [state.sent.weights["lora/a"].tolist() for state in loaded.states] == [[1.0, 1.0], [2.0, 2.0]]
