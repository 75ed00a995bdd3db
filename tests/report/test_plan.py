import json

from rich.console import Console

from flexray.config import Experiment
from flexray.report import plan as report
from flexray.sim.job import Layout
from flexray.sim.planning.sizes import Disk, Memory
from flexray.sim.system.timeline import Outlook


def printed(plan, width: int = 80) -> list[str]:
    console = Console(width=width, force_terminal=False, color_system=None)
    with console.capture() as got:
        report.show(plan, console)
    return [line.rstrip() for line in got.get().splitlines()]


def test_the_plan_as_a_person_reads_it(plan):
    assert printed(plan()) == [
        "method      flex · 12 rounds × 20 steps × 8 rows · seed 0",
        "model       tiny · qwen2_moe · 4 MoE blocks · float32",
        "parameters  2.56 M frozen · 24.6 k shared · 197 k private per client",
        "clients     2, of which 2 a round · builtin dealt by column",
        "rows        12–1,200 train · 4 valid · 8 test per client",
        "placement   pooled · 4 actors × 1 seat × 1 thread on cpu",
        "a round     197 KB up · 197 KB down (98.3 KB and 98.3 KB per client)",
        "instead     one client, one way: lora on experts 885 KB · full model 10.3 MB",
        "compute     4.00 M FLOPs a token forward, +10.0% by what is trained",
        "memory      about 2.21 GB: backbone 10.3 MB, 4 actors × 326 MB, the rest 900 MB",
        "disk        about 4.73 MB of private state, 788 KB a client",
        "time        about 37.0 s: 12 rounds × 2.0 s, 4 evaluations × 1.2 s, start 8.0 s",
        "notes       3 rows without a response dropped, at 1 of 2 clients",
    ]


def test_clients_that_wait_for_a_seat_take_turns(plan):
    lines = printed(plan(layout=Layout("pooled", 1, 1, 2, "cuda", 1.0, 1.0)), 100)
    assert "placement   pooled · 1 actor × 1 seat × 2 threads on cuda, clients take turns" in lines


def test_every_line_fits_and_names_are_no_markup(plan):
    long = plan(notes=("left aside, for no split is in the name: [bold]" + ", ".join(f"file-{i}.jsonl" for i in range(20)),))
    lines = printed(long)
    assert max(map(len, lines)) <= 80
    assert any("[bold]" in line for line in lines)


def test_the_plan_as_a_script_reads_it(plan):
    facts = report.facts(plan())
    assert json.loads(json.dumps(facts)) == facts
    assert facts["parameters"] == {"frozen": 2_563_200, "shared": 24_576, "private_per_client": 197_124}
    assert facts["bytes_per_round"] == {"up": 196_608, "down": 196_608}
    assert facts["bytes_of_memory"] == {"backbone": 10_300_000, "actor": 326_000_000, "node": 2_214_300_000, "gpu": 0}
    assert facts["bytes_on_disk"] == {"client": 788_000, "all": 2 * 3 * 788_000}
    assert facts["seconds"]["whole"] == 7.5 + 0.5 + 12 * 2 + 4 * 1.25
    assert report.facts(plan(forecast=None))["seconds"] is None
    assert facts["clients"][1] == {"client": "b", "train": 1200, "valid": 4, "test": 8}


def test_what_was_not_measured_or_is_not_there_has_no_line(plan):
    lines = printed(plan(forecast=None, disk=Disk(2, 0)))
    assert not [line for line in lines if line.startswith(("time", "disk"))]


def test_epochs_stand_where_steps_would(plan):
    assert (
        printed(plan(experiment=Experiment(train={"epochs": 1.5})))[0]
        == "method      flex · 10 rounds × 1.5 epochs × 8 rows · seed 0"
    )


def test_memory_of_a_gpu_is_told_first(plan):
    gb = 10**9
    shared = Memory(28 * gb, gb, 5 * gb, gb, gb, 2, on_gpu=True, sharing=2, context=gb)
    lines = printed(plan(memory=shared), 200)
    told = "2 actors, each backbone 28.0 GB, training 5.00 GB, the process 1.00 GB"
    beside = "about 4.00 GB a node: 2 actors × 1.00 GB, the rest 2.00 GB"
    assert f"memory      about 68.0 GB a GPU: {told}; {beside}" in lines
    alone = Memory(28 * gb, gb, 5 * gb, gb, gb, 1, on_gpu=True, context=gb)
    assert any("about 34.0 GB a GPU: backbone 28.0 GB, training" in line for line in printed(plan(memory=alone), 200))


def test_the_simulated_clock_is_told(plan):
    told = plan(outlook=Outlook(50, 6000.0, 300.0, 650, 490, 1))
    each = "2 min 00 s a round (at most 5 min 00 s)"
    line = f"clock       50 rounds in 1 h 40 min simulated: {each}, 490 of 650 turns count, 1 round void"
    assert line in printed(told, 140)
    assert report.facts(told)["simulated"]["seconds"] == 6000.0
