"""The server in a file: every cluster's state, bit for bit, and the same bytes for the same state."""

import torch
from safetensors.torch import load_file

from flexray.sim import server_file
from flexray.sim.work import Server
from flexray.state import ServerState, Update


def state(value: float, kept: bool) -> ServerState:
    sent = Update({"lora/a|b": torch.full((2, 2), value), "expert/i": torch.tensor([3])}, {"count": torch.tensor(value)})
    return ServerState(sent, {"m/lora/a": torch.ones(3, dtype=torch.float64) * value, "t": torch.tensor(7)} if kept else {})


def assert_same(x: Server, y: Server) -> None:
    assert x.clusters == y.clusters and len(x.states) == len(y.states)
    for s, t in zip(x.states, y.states, strict=True):
        for mine, yours in ((s.sent.weights, t.sent.weights), (s.sent.aux, t.sent.aux), (s.kept, t.kept)):
            assert list(mine) == list(yours)
            assert all(u.dtype == yours[n].dtype and torch.equal(u, yours[n]) for n, u in mine.items())


def test_every_clusters_state_comes_back(tmp_path):
    """Eleven of them: the second's names are no beginning of the eleventh's."""
    server = Server(tuple(state(i, i % 2 == 0) for i in range(11)), (3, 10, 0))
    server_file.write(tmp_path / "x", server, 5)
    found, round, _ = server_file.read(tmp_path / "x")
    assert round == 5
    assert_same(found, server)


def test_a_server_without_tensors_comes_back(tmp_path):
    server_file.write(tmp_path / "x", Server((ServerState(Update()),)), -1)
    found, round, _ = server_file.read(tmp_path / "x")
    assert round == -1 and found == Server((ServerState(Update()),))


def test_the_same_state_is_the_same_bytes_also_after_reading(tmp_path):
    server_file.write(tmp_path / "x", Server((state(1.5, True),), (0, 0)), 5)
    server_file.write(tmp_path / "y", *server_file.read(tmp_path / "x"))
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_the_library_reads_it(tmp_path):
    server_file.write(tmp_path / "x", Server((state(1.5, True),)), 0)
    assert load_file(tmp_path / "x").keys() == {
        "weights0|lora/a|b",
        "weights0|expert/i",
        "aux0|count",
        "kept0|m/lora/a",
        "kept0|t",
    }
