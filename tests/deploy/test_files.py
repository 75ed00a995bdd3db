"""deploy/: the files are well formed, agree with each other and with constraints.txt, and call commands that there are."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml

from flexray.cli import app
from flexray.cluster import PRELOAD
from flexray.config import Experiment

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
FILES = sorted(path for path in DEPLOY.iterdir() if path.is_file())
PAGES = [ROOT / "docs/clusters.md", DEPLOY / "README.md"]
KUBERNETES = {found["kind"]: found for found in yaml.safe_load_all((DEPLOY / "kuberay-rayjob.yaml").read_text())}
JOB = KUBERNETES["RayJob"]["spec"]
CLUSTER = JOB["rayClusterSpec"]
PODS = [CLUSTER["headGroupSpec"]["template"]["spec"], *(group["template"]["spec"] for group in CLUSTER["workerGroupSpecs"])]
RAY = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)["ray"]


def lines() -> Iterator[tuple[str, str]]:
    """Of every file, its lines without comment signs, and those that go on in the next one as one."""
    for path in (*FILES, *PAGES):
        for line in path.read_text().replace("\\\n", " ").splitlines():
            yield path.name, line.strip().lstrip("#").strip()


def called(program: str) -> list[tuple[str, list[str]]]:
    """Every call of a program: the file's name and the arguments, up to what the shell makes of the rest."""
    found = re.compile(rf"(?:^|[\s/;'])({program} [^;'`&|#]*)")
    calls = [(name, call.strip()) for name, line in lines() for call in found.findall(line)]
    return [(name, shlex.split(call)[1:]) for name, call in calls if "`" not in call]


def of_ray_start(arguments: list[str]) -> dict:
    from ray.scripts.scripts import start

    return start.make_context("start", list(arguments)).params


def test_one_version_of_ray():
    said = [found for _, line in lines() for found in re.findall(r"(?:ray\[\w+\]==|/ray:|rayVersion: \")(\d[\d.]*\d)", line)]
    assert len(said) >= 3
    assert set(said) == {RAY}


FLEXRAY = called("flexray (?:simulate|compare|sweep|plan)")


@pytest.mark.parametrize(("name", "arguments"), FLEXRAY, ids=lambda x: x if isinstance(x, str) else " ".join(x))
def test_flexray_takes_what_it_is_called_with(name, arguments):
    command = typer.main.get_group(app).commands[arguments[0]]
    given = [a for a in arguments[1:] if a != "$@"]
    params = command.make_context(arguments[0], given).params
    for text in params.get("sets") or ():
        assert re.fullmatch(r"[\w.]+=.+", text)


def test_every_file_calls_flexray():
    assert {"slurm.sh", "kuberay-rayjob.yaml", "clusters.md"} <= {name for name, _ in FLEXRAY}


@pytest.mark.parametrize(("name", "arguments"), called("ray start"), ids=lambda x: x if isinstance(x, str) else " ".join(x))
def test_ray_takes_what_it_is_started_with(name, arguments):
    given = [a.replace('"', "") for a in arguments[1:]]
    given = [re.sub(r"\$\{?(port|cpus)\}?", "7", a) for a in given]
    params = of_ray_start(given)
    assert params["head"] != bool(params["address"])


def test_actors_start_soon_wherever_they_are():
    said = [found for _, line in lines() for found in re.findall(r"(torch,flexray\S*?)[;\s]*$", line)]
    assert len(said) >= 4
    assert set(said) == {PRELOAD}


def test_ray_itself_takes_the_ray_up_file():
    from ray.autoscaler._private.util import prepare_config, validate_config

    given = yaml.safe_load((DEPLOY / "ray-up.yaml").read_text())
    made = prepare_config(given)
    validate_config(made)
    workers = len(given["provider"]["worker_ips"])
    assert made["available_node_types"]["local.cluster.node"]["min_workers"] == workers  # nobody is sent home for being idle
    for local in given["file_mounts"].values():
        assert local.startswith("~") or (ROOT / local).exists()


def test_the_job_of_kuberay_agrees_with_itself():
    for pod in PODS:
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        (container,) = pod["containers"]
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        assert (
            mounts["/shared"]["persistentVolumeClaim"]["claimName"] == KUBERNETES["PersistentVolumeClaim"]["metadata"]["name"]
        )
        assert mounts["/config"]["configMap"]["name"] == KUBERNETES["ConfigMap"]["metadata"]["name"]
        assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"
        assert mounts["/cache"] == {"name": "cache", "emptyDir": {}}
        assert container["resources"]["limits"] == container["resources"]["requests"]
        assert {e["name"]: e["value"] for e in container["env"]}["RAY_preload_python_modules"] == PRELOAD
    assert KUBERNETES["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]
    assert len({pod["containers"][0]["image"] for pod in PODS}) == 1
    assert CLUSTER["authOptions"] == {"mode": "token"}
    assert JOB["shutdownAfterJobFinishes"]


def test_the_run_of_kuberay_is_one():
    data = KUBERNETES["ConfigMap"]["data"]
    storage = Experiment(**yaml.safe_load(data["first.yaml"])).storage
    assert str(storage.private).startswith("/shared/")
    assert str(storage.cache) == "/cache"
    (script,) = [name for name in data if name.endswith(".sh")]
    assert JOB["entrypoint"] == f"bash /config/{script}"
    folders = set(re.findall(r"/shared/runs/\w+", data[script] + str(storage.private)))
    assert len(folders) == 1
    subprocess.run(["bash", "-n"], input=data[script], text=True, check=True)


def test_the_image_has_what_the_package_is_made_of():
    text = (DEPLOY / "Dockerfile").read_text()
    copied = [word for line in re.findall(r"^COPY --chown=\S+ (.*)$", text, re.MULTILINE) for word in line.split()[:-1]]
    assert {"flexray", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"} == set(copied)
    assert all((ROOT / name).exists() for name in copied)
    python = re.search(r"-py3(\d+)-", text)
    assert python and int(python[1]) >= 11


def test_the_slurm_script_is_well_formed():
    text = (DEPLOY / "slurm.sh").read_text()
    subprocess.run(["bash", "-n", DEPLOY / "slurm.sh"], check=True)
    if tool := shutil.which("shellcheck"):
        subprocess.run([tool, DEPLOY / "slurm.sh"], check=True)
    before, _, after = text.partition("\nset -u\n")  # sbatch reads options up to the first command
    assert "#SBATCH" not in after
    signal = re.search(r"^#SBATCH --signal=B:(\w+)@\d+$", before, re.MULTILINE)
    assert signal and re.search(rf"^trap .* {signal[1]}$", after, re.MULTILINE)
