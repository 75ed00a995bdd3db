#!/bin/bash
# One run on a Ray cluster of its own, in one SLURM job:
#
#   sbatch --nodes=4 deploy/slurm.sh my.yaml /shared/runs/first [--set rounds=50 ...]
#
# The second argument is the run's folder, on storage that all nodes share. Where a run is in it already, that run goes on: submit the same
# line again, or leave it to SLURM. Before the time limit (--signal) the run is stopped and the job put back into the queue; a job that is
# preempted or loses its first node is requeued by SLURM itself; `scancel` ends it for good. Private state rests in the run's folder too, unless
# a --set says otherwise.
#
# What is not here (partition, account, --gpus-per-node=8) goes on sbatch's command line. --exclusive is for ports and /dev/shm.
#SBATCH --job-name=flexray
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --open-mode=append
#SBATCH --output=flexray-%j.log

set -u
config=${1:?usage: sbatch deploy/slurm.sh CONFIG RUN [--set KEY=VALUE ...]}
run=${2:?usage: sbatch deploy/slurm.sh CONFIG RUN [--set KEY=VALUE ...]}
shift 2

# The same Python, Ray and flexray on every node, for instance:
# module load cuda; source /shared/flexray/.venv/bin/activate

export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')  # of this job alone, and in no file
export RAY_USAGE_STATS_ENABLED=0
export RAY_preload_python_modules=torch,flexray.sim.host,transformers.models.auto.modeling_auto
export RAY_TMPDIR=/tmp/flexray-$SLURM_JOB_ID  # on each node: Ray's sockets, which bear no long path, and its logs
mkdir -p "$RAY_TMPDIR"

cpus=${SLURM_CPUS_PER_TASK:?set --cpus-per-task}
# What Ray takes for this machine's address; where nodes are to speak over another network, export HEAD_IP.
head=${HEAD_IP:-$(python -c 'import ray; print(ray.util.get_node_ip_address())')}
port=$((20000 + SLURM_JOB_ID % 10000))
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")

steps=() command="" again=""
stop() { if [ -n "$command" ]; then kill -TERM "$command" 2>/dev/null; else exit 143; fi; }
finish() {  # of the command; a signal ends a `wait` before its time
  while kill -0 "$command" 2>/dev/null; do wait "$command"; done
  wait "$command"
}
leave() {  # with an exit code; what did not end by itself before the time limit goes on later
  if [ -n "$again" ] && [ "$1" -ne 0 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
  exit "$1"
}
trap 'kill "${steps[@]}" 2>/dev/null; wait' EXIT
trap stop TERM
trap 'again=yes; stop' USR1

# A step for each node: one that is lost takes no other with it. srun no longer reads sbatch's --cpus-per-task (22.05).
on() { exec srun --nodes=1 --ntasks=1 --nodelist="$1" --cpus-per-task="$cpus" --export=ALL --no-kill "${@:2}"; }
on "${nodes[0]}" ray start --head --node-ip-address="$head" --port="$port" --num-cpus="$cpus" --include-dashboard=false --block &
steps+=($!)
for node in "${nodes[@]:1}"; do
  on "$node" ray start --address="$head:$port" --num-cpus="$cpus" --block &
  steps+=($!)
done

# Nodes are waited for, but no longer than WAIT_SECONDS: who is late is taken in between two rounds.
python - "$head" "$port" "${#nodes[@]}" "${WAIT_SECONDS:-300}" <<'PYTHON' &
import socket
import sys
import time

import ray

head, port, nodes, until = sys.argv[1], sys.argv[2], int(sys.argv[3]), time.monotonic() + float(sys.argv[4])
while True:  # where nobody listens, ray.init would try for minutes
    try:
        socket.create_connection((head, int(port)), 3).close()
        break
    except OSError as e:
        if time.monotonic() > until:
            sys.exit(f"no Ray at {head}:{port} ({e})")
        time.sleep(1)
ray.init(f"{head}:{port}", log_to_driver=False, logging_level="error")
while (there := sum(node["Alive"] for node in ray.nodes())) < nodes and time.monotonic() < until:
    time.sleep(1)
print(f"{there} of {nodes} nodes at {head}:{port}", flush=True)
PYTHON
command=$!
while kill -0 "$command" 2>/dev/null; do
  if ! kill -0 "${steps[0]}" 2>/dev/null; then
    echo "the head did not start: see what \`ray start\` wrote above" >&2
    kill "$command"
    exit 1
  fi
  sleep 1
done
finish || leave $?

if [ -e "$run/config.yaml" ]; then
  flexray simulate --address "$head:$port" --resume "$run" &
else
  flexray simulate "$config" --address "$head:$port" --out "$run" --set storage.private="$run/private" "$@" &
fi
command=$!
finish
leave $?
