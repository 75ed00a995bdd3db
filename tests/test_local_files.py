"""A run folder goes on, and is used, from anywhere: what it says of files does not depend on where it was begun."""

import json
import os
import shutil

import pytest
import yaml

from flexray import api, folder, raw
from flexray.comparison import spec as comparison
from flexray.comparison.folder import check_folder
from flexray.config import Experiment
from flexray.errors import ConfigError
from flexray.local_files import absolute, absolute_at, contents
from flexray.sim.private.sealed import seal_of
from flexray.sim.system.files import profiles, traces
from flexray.sweeping import spec as sweep
from flexray.sweeping.records import Record, Records

ROWS = [{"instruction": f"do {i}", "output": f"done {i}"} for i in range(40)]


def test_only_what_is_a_file_here_gets_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("rows.jsonl", "tiny", "builtin"):
        (tmp_path / name).touch()
    here = str(tmp_path)
    for key, given, made in (
        ("data.path", "rows.jsonl", f"{here}/rows.jsonl"),
        ("data.path", "./x/../rows.jsonl", f"{here}/rows.jsonl" if (tmp_path / "x").exists() else "./x/../rows.jsonl"),
        ("data.path", "builtin", "builtin"),
        ("model.path", "tiny", "tiny"),
        ("model.path", "owner/name", "owner/name"),
        ("storage.private", "own", f"{here}/own"),
        ("storage.checkpoint", "s3://bucket/x", "s3://bucket/x"),
        ("storage.cache", "~/.cache/flexray", "~/.cache/flexray"),
        ("storage.key", None, None),
        ("storage.key", "a\0b", "a\0b"),
        ("data.subset", "rows.jsonl", "rows.jsonl"),
        ("data.path", 5, 5),
        ("data.path", "x" * 5000, "x" * 5000),
    ):
        assert absolute_at(key, given) == made
    mixed = {"data.partition": {"path": "rows.jsonl"}, "data": {"path": "rows.jsonl", "keep": {"path": ["rows.jsonl"]}}, 3: [4]}
    assert absolute(mixed) == {
        "data.partition": {"path": f"{here}/rows.jsonl"},
        "data": {"path": f"{here}/rows.jsonl", "keep": {"path": ["rows.jsonl"]}},
        3: [4],
    }


@pytest.fixture
def begun(tmp_path, small, monkeypatch):
    """A run of files named from the folder where it was begun; now in another folder. The config as it was given, too."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (home / "deal.json").write_text(json.dumps({"a": [*range(20)], "b": [*range(20, 40)]}))
    (home / "key").write_bytes(b"k" * 32)
    (home / "key").chmod(0o600)
    (home / "mine.py").write_text(
        '"""Mine."""\nfrom flexray.algorithms.local import Local as Base\n\n\nclass Mine(Base):\n    pass\n'
    )
    x = small(
        clients=None,
        rounds=1,
        data={"path": "rows.jsonl", "partition": {"name": "from_file", "path": "deal.json"}, "columns": {"label": None}},
        storage={"private": "own", "key": "key", "checkpoint": "copies"},
        algorithm={"name": "mine.py"},
    )
    api.simulate(x, "run")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    return home / "run", x


def test_a_run_goes_on_from_another_folder(begun, tmp_path):
    run, _ = begun
    before = (run / "server.safetensors").read_bytes()
    (run / "summary.json").unlink()
    assert api.resume(run).summary["rounds"] == 1
    assert (run / "server.safetensors").read_bytes() == before
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_run_is_made_again_from_its_copy_in_another_folder(begun, tmp_path):
    run, _ = begun
    shutil.rmtree(run)
    shutil.rmtree(run.parent / "own")
    assert api.resume(api.opened(run.parent / "copies" / "run", tmp_path / "again")).summary["rounds"] == 1
    assert (run.parent / "own").exists()


def test_a_run_of_before_goes_on_where_it_was_begun(begun, monkeypatch):
    run, x = begun
    values = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(
        yaml.safe_dump({**x.spec(), **{k: values[k] for k in ("placement", "seats", "resources")}})
    )
    (run / "summary.json").unlink()
    monkeypatch.chdir(run.parent)
    assert api.resume("run").summary["rounds"] == 1


def test_what_was_asked_for_is_the_same_wherever_it_goes_on(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    for name in ("a.jsonl", "b.jsonl"):
        (home / name).touch()
    data = {"data": {"path": "a.jsonl", "partition": "iid"}, "storage": {"private": "own"}}
    compared = comparison.read({**data, "compare": {"methods": {"x": "fedavg", "y": {"model.path": "../home"}}, "seeds": [0]}})
    swept = sweep.read({**data, "sweep": {"over": {"data": {"path": ["a.jsonl", "b.jsonl"]}}}})
    assert compared.cells[0].experiment.storage.private == home / "own" / "x-s0"
    assert swept.points[1] == {"data.path": f"{home}/b.jsonl"}
    (home / "out").mkdir()
    (home / "out" / "compare.yaml").write_text(yaml.safe_dump(compared.dump()))
    relative = Experiment(**data).spec() | {"algorithm": compared.cells[0].experiment.spec()["algorithm"]}
    (home / "out" / "runs" / "x-s0").mkdir(parents=True)
    (home / "out" / "runs" / "x-s0" / "config.yaml").write_text(yaml.safe_dump(relative | {"storage": {"private": "own/x-s0"}}))
    check_folder(compared, home / "out", True)  # a run of before says it as it was given
    monkeypatch.chdir(tmp_path)
    again = comparison.asked_for(None, (), home / "out")
    assert [c.experiment for c in again.cells] == [c.experiment for c in compared.cells]
    assert sweep.read(swept.dump()).points == swept.points


def test_a_trial_of_before_is_the_same_setting(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").touch()
    (records := Records(tmp_path / "out")).save(Record(0, {"data.path": "a.jsonl"}, {"data": {"path": "a.jsonl"}}))
    found = records.read(0)
    assert found is not None and found.point == {"data.path": f"{tmp_path}/a.jsonl"}
    assert json.loads((tmp_path / "out/trials/000.json").read_text())["spec"] == {"data": {"path": f"{tmp_path}/a.jsonl"}}


def test_neither_pipes_nor_devices_are_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"x" * 11)
    (tmp_path / "fine").write_bytes(b"x" * 10)
    assert contents(tmp_path / "fine", 10) == b"x" * 10
    for path, said in (
        (tmp_path / "pipe", "a pipe or a device"),
        ("/dev/zero", "a pipe or a device"),
        (tmp_path, "Is a directory"),
        (tmp_path / "large", "more than 0 MB"),
        (tmp_path / "none", "No such file"),
    ):
        with pytest.raises(OSError, match=said):
            contents(path, 10)
    read, write = os.pipe()
    os.write(write, b"rounds: 3")
    os.close(write)
    assert contents(f"/dev/fd/{read}", 10) == b"rounds: 3"  # as a shell's <(…) gives it
    os.close(read)


@pytest.mark.parametrize("key", ["config", "system.profiles", "system.availability", "storage.key", "algorithm.name"])
@pytest.mark.parametrize("what", ["pipe", "device"])
def test_files_that_never_end_are_refused_by_their_key(tmp_path, key, what):
    path = tmp_path / "x.py" if key == "algorithm.name" else tmp_path / "x.csv"
    path.symlink_to("/dev/zero") if what == "device" else os.mkfifo(path)
    read = {
        "config": raw.read_yaml,
        "system.profiles": lambda file: profiles(file, ["a"]),
        "system.availability": lambda file: traces(file, ["a"], None),
        "storage.key": seal_of,
        "algorithm.name": lambda file: folder.load("algorithms", str(file), "algorithm.name"),
    }[key]
    with pytest.raises(ConfigError) as e:
        read(path)
    assert str(e.value).startswith(f"{key}: expected") and str(path) in str(e.value) and "a pipe or a device" in str(e.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.csv", b"client,compute\n\xe9,1\n", "expected UTF-8 text, got 'byte 0xe9 in "),
        ("x.json", b"[" * 100_000, "expected JSON, got "),
        ("x.csv", b"", "expected what it says of clients, got 'nothing in "),
        ("x.json", b"{}", "expected what it says of clients, got 'nothing in "),
    ],
)
def test_files_of_clients_that_cannot_be_read(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    for read in (lambda file: profiles(file, ["a"]), lambda file: traces(file, ["a"], None)):
        with pytest.raises(ConfigError) as e:
            read(tmp_path / name)
        assert said in str(e.value) and name in str(e.value)


def test_large_configs_and_code_that_ends_the_process(tmp_path):
    (tmp_path / "x.yaml").write_text("a: " + "x" * (2 << 20))
    with pytest.raises(ConfigError, match=r"x\.yaml' \(more than 2 MB\)"):
        raw.read_yaml(tmp_path / "x.yaml")
    (tmp_path / "x.py").write_text("raise SystemExit(0)\n")
    with pytest.raises(ConfigError, match=r"algorithm\.name: expected Python code that runs, got SystemExit"):
        folder.load("algorithms", str(tmp_path / "x.py"), "algorithm.name")
