import json

from rich.console import Console

from flexray.report import plan as report
from flexray.sim.job import Layout


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
        "memory      about 1.31 GB: backbone 10.3 MB once, 326 MB per actor",
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
    assert facts["bytes_of_memory"]["node"] == 10_300_000 + 4 * 326_000_000
    assert facts["clients"][1] == {"client": "b", "train": 1200, "valid": 4, "test": 8}
