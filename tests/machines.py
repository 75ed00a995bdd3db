"""Nodes of a Ray cluster on this machine, each as another machine would be: processes of its own that come and die together, and, if
asked for, a folder whose contents the others do not see."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep

ENV = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A node that is gone is found to be so within two seconds, instead of fifteen.
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "500",
    "RAY_health_check_failure_threshold": "3",
}
START_SECONDS = 90


def can_hide() -> bool:
    """Whether a process may have a folder of its own here."""
    return (
        shutil.which("unshare") is not None and subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0
    )


@dataclass
class Machines:
    """folder: where Ray notes things, with a short name. client: the port for Ray's client, which the head has to be told."""

    folder: Path
    nodes: list[subprocess.Popen] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.address, self.client = f"127.0.0.1:{_port()}", _port()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.env = {**os.environ, **ENV, "RAY_TMPDIR": str(self.folder), "OMP_NUM_THREADS": "1"}
        self.env.pop("RAY_ADDRESS", None)

    def start(self, cpus: int, hiding: Path | None = None, *more: str) -> subprocess.Popen:
        """A node; the first one is the head. hiding: a folder that is another one there, and empty."""
        port = self.address.rpartition(":")[2]
        where = ["--address", self.address] if self.nodes else ["--head", "--port", port, "--include-dashboard", "false"]
        ray = [
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "start",
            "--block",
            "--num-cpus",
            str(cpus),
            "--disable-usage-stats",
        ]
        command = [*ray, *where, "--object-store-memory", str(100 << 20), "--node-ip-address", "127.0.0.1", *more]
        if hiding is not None:
            command = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs none "{hiding}" && exec "$@"', "sh", *command]
        with open(self.folder / f"node-{len(self.nodes)}.log", "wb") as log:
            node = subprocess.Popen(
                command, env=self.env, start_new_session=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.nodes.append(node)
        self._wait(len([n for n in self.nodes if n.poll() is None]))
        return node

    def kill(self, node: subprocess.Popen) -> None:
        """As if its power were cut."""
        with suppress(ProcessLookupError):
            os.killpg(node.pid, signal.SIGKILL)
        node.wait()

    def stop(self) -> None:
        """Ends all."""
        for node in reversed(self.nodes):
            self.kill(node)

    def run(self, *command: str, **more: str) -> subprocess.Popen:
        """Python with these arguments, as on the head."""
        return subprocess.Popen(
            [sys.executable, *command], env=self.env | more, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def _wait(self, count: int) -> None:
        """Until so many nodes are there."""
        ask = "import ray, sys; ray.init(sys.argv[1], logging_level='ERROR'); print(sum(n['Alive'] for n in ray.nodes()))"
        before = monotonic()
        while monotonic() - before < START_SECONDS and self.nodes[-1].poll() is None:
            asking = self.run("-c", ask, self.address)
            with suppress(subprocess.TimeoutExpired):  # where nobody listens, Ray would try for minutes
                found = asking.communicate(timeout=20)[0].strip()
                if found.isdigit() and int(found) >= count:
                    return
            asking.kill()
            asking.communicate()
            sleep(0.5)
        told = "\n".join(f.read_text()[-2000:] for f in self.folder.glob("node-*.log"))
        raise TimeoutError(f"{count} nodes did not start: {told}")


def _port() -> int:
    """One that nobody uses."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
