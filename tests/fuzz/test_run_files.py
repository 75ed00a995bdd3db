"""Files of a run that were cut, changed, swapped or lost: whoever reads them refuses them by name, and says how to go on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flexray import api
from flexray.cli import app
from flexray.errors import ConfigError, RunError
from flexray.report import reading
from flexray.serve import joined
from flexray.serve.export import export
from flexray.serve.finished import open_run
from flexray.serve.join import join
from flexray.serve.merge import merge
from flexray.sim.run import RoundDone
from tests.serve.conftest import FAST, random_model

assert random_model  # a fixture
ROWS = "".join(json.dumps({"instruction": f"What is {i}?", "output": f"It is {i}."}) + "\n" for i in range(20))


class StopError(Exception):
    """After two of three rounds."""


@pytest.fixture(scope="module")
def runs(small, random_model, tmp_path_factory) -> tuple[Path, Path]:
    """A run that stopped after round 1, and the same one finished. Client 1 was last trained in round 0, the others after that."""
    out = tmp_path_factory.mktemp("runs")
    x = small(**FAST | {"rounds": 3, "clients": 3, "cohort": 2, "model": {"path": str(random_model)}, "evaluation": EVERY})

    def stop(event: object) -> None:
        if isinstance(event, RoundDone) and event.report.round == 1:
            raise StopError

    with pytest.raises(StopError):
        api.simulate(x, out / "half", watch=stop)
    api.simulate(x, out / "done")
    return out / "half", out / "done"


EVERY = {"every": 1, "inside_rows": 0, "metrics": ["loss"]}


def private(run: Path) -> list[Path]:
    """Every client's newest file."""
    return [max(folder.glob("*.safetensors")) for folder in sorted((run / "private").iterdir())]


def half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def turned(file: Path) -> None:
    """One bit of it, in its middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def gone(file: Path) -> None:
    file.unlink()


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def endless(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


def wrong_value(file: Path) -> None:
    """One bit of a table's first column, or what no JSON may have in its middle."""
    content = bytearray(file.read_bytes())
    at = len(content) // 2
    if file.suffix == ".parquet":
        column = pq.ParquetFile(file).metadata.row_group(0).column(0)
        at = (column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size - 1
    content[at] = content[at] ^ 4 if file.suffix == ".parquet" else 1
    file.write_bytes(content)


DAMAGES = (half, turned, gone)
OF_TABLES = (half, wrong_value, gone)


@pytest.fixture
def tried(tmp_path) -> Callable[..., str]:
    """What is said when a copy of a run, damaged so, is read so."""

    def go(run: Path, harm: Callable[[Path], object], use: Callable[[Path], object]) -> str:
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(run, copy)
        harm(copy)
        with pytest.raises((ConfigError, RunError)) as e:
            use(copy)
        assert "Traceback" not in str(e.value)
        return str(e.value)

    return go


def test_without_harm_it_goes_on(runs, tmp_path):
    shutil.copytree(runs[0], tmp_path / "copy")
    resumed = api.resume(tmp_path / "copy")
    assert resumed.summary["mean"] == api.load_run(runs[1]).summary["mean"]
    assert (tmp_path / "copy" / "server.safetensors").read_bytes() == (runs[1] / "server.safetensors").read_bytes()


@pytest.mark.parametrize("harm", DAMAGES)
def test_the_servers_state(runs, tried, harm):
    for run, use in ((runs[0], api.resume), (runs[1], open_run)):
        said = tried(run, lambda copy: harm(copy / "server.safetensors"), use)
        assert "server.safetensors'" in said and "start the run anew" in said


@pytest.mark.parametrize("harm", DAMAGES)
@pytest.mark.parametrize("client", [0, 1, 2])
def test_a_clients_private_state(runs, tried, harm, client):
    """Lost, the older generation does not stand in for it."""
    name = private(runs[0])[client].name
    said = tried(runs[0], lambda copy: harm(private(copy)[client]), api.resume)
    assert f"private state of client client-{client}" in said and name in said and "start the run anew" in said
    name = private(runs[1])[client].name

    def served(copy: Path) -> None:
        opened = open_run(copy)
        try:
            opened.personal(f"client-{client}")
        finally:
            opened.close()

    said = tried(runs[1], lambda copy: harm(private(copy)[client]), served)
    assert name in said or (harm is gone and f"client client-{client} after round" in said and "put the folder back" in said)


def swapped(copy: Path) -> None:
    """Another client's file, under the right name."""
    shutil.copy(private(copy)[2], private(copy)[0])


def older(copy: Path) -> None:
    """An earlier state of its own, under the right name."""
    now = private(copy)[2]
    shutil.copy(min(now.parent.glob("*.safetensors")), now)


def no_folder(copy: Path) -> None:
    shutil.rmtree(private(copy)[0].parent)


@pytest.mark.parametrize("harm", [swapped, older, no_folder])
def test_anothers_and_older_private_state(runs, tried, harm, tmp_path):
    assert "private state of client client-" in tried(runs[0], harm, api.resume)
    for use in (
        lambda copy: export(open_run(copy), tmp_path / "out", "client-0" if harm is not older else "client-2"),
        lambda copy: merge(open_run(copy), ["client-0", "client-1", "client-2"], tmp_path / "out"),
    ):
        assert "private state of client" in tried(runs[1], harm, use)
        assert not (tmp_path / "out").exists()


def test_the_server_of_another_run(runs, tried):
    def other(copy: Path) -> None:
        config = (copy / "config.yaml").read_text()
        (copy / "config.yaml").write_text(config.replace("lr: 0.03", "lr: 0.04", 1))

    for run, use in ((runs[0], api.resume), (runs[1], open_run)):
        assert "made with other settings than config.yaml has" in tried(run, other, use)


@pytest.mark.parametrize("harm", OF_TABLES)
@pytest.mark.parametrize("name", ["rounds/000000", "clients/000001", "evaluations/000001", "rows/000000"])
def test_tables_while_it_goes_on(runs, tried, harm, name):
    if name.startswith("rows") and harm is gone:
        return  # the frozen base is scored anew
    assert f"{name}.parquet'" in tried(runs[0], lambda copy: harm(copy / f"{name}.parquet"), api.resume)


@pytest.mark.parametrize("harm", OF_TABLES)
@pytest.mark.parametrize("name", ["rounds.parquet", "clients.parquet", "evaluations.parquet", "clients.json", "versions.json"])
def test_what_a_report_reads(runs, tried, harm, name):
    said = tried(runs[1], lambda copy: harm(copy / name), lambda copy: reading.read([copy]))
    assert name in said or (harm is gone and name == "clients.json" and "run folders" in said)


@pytest.mark.parametrize("name", ["clients/000001.parquet", "clients.json", "config.yaml", "rounds/000001.parquet"])
@pytest.mark.parametrize("harm", [gone, emptied, a_folder, endless])
def test_what_a_report_reads_of_a_run_that_goes_on(runs, tried, harm, name):
    if (harm, name) == (gone, "rounds/000001.parquet"):
        return  # as if that round had not been played yet
    assert f"{name}'" in tried(runs[0], lambda copy: harm(copy / name), lambda copy: reading.read([copy]))


@pytest.mark.parametrize("harm", [half, lambda file: file.write_text("[]"), lambda file: file.write_bytes(b"\xff")])
def test_the_summary(runs, tried, harm):
    for use in (api.load_run, open_run, lambda copy: reading.read([copy])):
        said = tried(runs[1], lambda copy: harm(copy / "summary.json"), use)
        assert "summary.json'" in said and "delete it, and have it written again by `flexray simulate --resume" in said


@pytest.mark.parametrize("harm", [a_folder, endless])
@pytest.mark.parametrize("name", ["bytes/000001.parquet", "rows/000000.parquet", "server.safetensors", "versions.json"])
def test_what_is_no_file_any_more(runs, tried, harm, name):
    said = tried(runs[0], lambda copy: harm(copy / name), api.resume)
    assert f"{name}' as it was written, got something else than a file" in said


def test_who_took_part_and_what_trackers_know(runs, tried):
    for harm in OF_TABLES:
        assert "clients.json'" in tried(runs[0], lambda copy: harm(copy / "clients.json"), api.resume)  # noqa: B023
    said = tried(runs[0], lambda copy: half(copy / "tracking.json"), api.resume)
    assert "tracking.json'" in said and "delete it: then all is told anew" in said


@pytest.mark.parametrize("content", ["[", '[{"round": 0}]', "[5]", ""])
def test_who_was_left_out(runs, tried, content):
    assert "left_out.json'" in tried(runs[0], lambda copy: (copy / "left_out.json").write_text(content), api.resume)


@pytest.mark.parametrize("place", ["data.tokenise._write", "models.backbone._convert"])
def test_a_cache_without_room(small, tmp_path, monkeypatch, place):
    def full(*_: object) -> None:
        raise OSError("131072 requested and 45248 written")

    monkeypatch.setattr(f"flexray.{place}", full)
    with pytest.raises(ConfigError) as e:
        api.simulate(small(storage={"cache": str(tmp_path / "cache")}), tmp_path / "run")
    said = f"storage.cache: expected a folder with room for the model and the data, got '{tmp_path}/cache'; make room"
    assert said in str(e.value) and not (tmp_path / "run").exists()


def test_the_config(runs, tried):
    assert "the folder of a run, or of its checkpoints" in tried(runs[0], lambda copy: gone(copy / "config.yaml"), api.resume)
    assert "config.yaml'" in tried(runs[0], lambda copy: (copy / "config.yaml").write_text(""), api.resume)
    assert "config.yaml'" in tried(runs[0], lambda copy: (copy / "config.yaml").write_text("a: [\n"), api.resume)
    said = tried(runs[0], lambda copy: (copy / "config.yaml").write_text("rouds: 3"), api.resume)
    assert said.startswith("rouds: expected a known key") and "config.yaml)" in said


def test_a_newcomers_files(runs, tried, tmp_path):
    (tmp_path / "ann.jsonl").write_text(ROWS)
    shutil.copytree(runs[1], tmp_path / "with")
    place = join(tmp_path / "with", tmp_path / "ann.jsonl", steps=1).path.relative_to(tmp_path / "with")
    assert joined.served(tmp_path / "with", "ann")
    for harm in DAMAGES:
        said = tried(tmp_path / "with", lambda c: harm(c / place / "served.safetensors"), lambda c: joined.served(c, "ann"))  # noqa: B023
        assert "join it anew, with --again" in said
    assert "joined.json'" in tried(tmp_path / "with", lambda c: half(c / place / "joined.json"), joined.names)


@pytest.mark.parametrize("out", ["file/x", "x" * 400])
@pytest.mark.parametrize("command", ["export", "merge", "report", "simulate", "plan", "partition"])
def test_places_where_nothing_can_be_written(runs, tmp_path, monkeypatch, command, out):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    cache = ("--set", f"storage.cache={out}")
    more = {
        "export": (str(runs[1]), "--base", "--out", out),
        "merge": (str(runs[1]), "--clients", "client-0,client-1", "--out", out),
        "report": (str(runs[1]), "--out", out),
        "simulate": ("--set", "resources.backend=inline", "--out", out),
        "plan": ("--no-measure", *cache),
        "partition": cache,
    }
    result = CliRunner().invoke(app, [command, *more[command]])
    assert result.exit_code == 2, result.stderr
    assert "expected a folder that can be written to" in result.stderr
    assert [f.name for f in tmp_path.iterdir()] == ["file"]
