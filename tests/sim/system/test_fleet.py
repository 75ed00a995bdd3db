"""What clients are like: constants, draws that the seed fixes, files by name, and what is said to wrong ones."""

import json
from math import inf
from pathlib import Path

import numpy as np
import pytest

from flexray.errors import ConfigError
from flexray.sections_system import Diurnal, System
from flexray.sim.system.fleet import diurnal, draw, fleet

NAMES = ("ann", "bob", "eve")


def made(**settings):
    found = fleet(System(**settings), NAMES, 0)
    assert found is not None
    return found


def test_nothing_is_simulated_by_default():
    assert fleet(System(), NAMES, 0) is None and not System().on


def test_constants_and_units():
    f = made(tokens_per_second=50, download_mbps=8, latency=0.5)
    assert f.tokens_per_second.tolist() == [50, 50, 50]
    assert f.download.tolist() == [1e6] * 3  # 8 Mbit are a million bytes
    assert f.upload.tolist() == [inf] * 3 and f.latency.tolist() == [0.5] * 3
    assert f.slowdown.tolist() == [1, 1, 1] and f.dropout.tolist() == [0, 0, 0] and f.there is None and f.drawn is None


def test_laws():
    n = 20_000
    assert np.median(draw({"lognormal": (100.0, 0.5)}, "latency", n, 0)) == pytest.approx(100, rel=0.02)
    assert np.log(draw({"lognormal": (100.0, 0.5)}, "latency", n, 0)).std() == pytest.approx(0.5, rel=0.02)
    u = draw({"uniform": (2.0, 4.0)}, "latency", n, 0)
    assert u.min() >= 2 and u.max() <= 4 and u.mean() == pytest.approx(3, rel=0.01)
    assert {*draw({"choice": (1.0, 5.0)}, "latency", n, 0).tolist()} == {1.0, 5.0}
    slow = draw({"bernoulli": (0.1, 10.0)}, "slowdown", n, 0)
    assert {*slow.tolist()} == {1.0, 10.0} and (slow == 10).mean() == pytest.approx(0.1, abs=0.01)
    assert {*draw({"bernoulli": (0.5, 0.3)}, "dropout", n, 0).tolist()} == {0.0, 0.3}


def test_draws_are_the_seeds_and_more_clients_change_nobody():
    law = {"lognormal": (1.0, 1.0)}
    assert draw(law, "latency", 5, 3, 1).tolist() == draw(law, "latency", 9, 3, 1)[:5].tolist()
    assert draw(law, "latency", 5, 3, 1).tolist() != draw(law, "latency", 5, 4, 1).tolist()
    f = made(download_mbps=law, upload_mbps=law)
    assert f.download.tolist() != f.upload.tolist()
    assert f.sha256 == made(download_mbps=law, upload_mbps=law).sha256 != made(download_mbps=law, upload_mbps=1).sha256


def test_a_slowness_of_each_turn_is_not_the_clients():
    law = {"bernoulli": (0.5, 10.0)}
    assert made(slowdown=law).drawn == law and made(slowdown=law).slowdown.tolist() == [1, 1, 1]
    own = made(slowdown={"uniform": (2.0, 3.0)}, slowdown_each="client")
    assert own.drawn is None and (own.slowdown >= 2).all()
    assert made(slowdown=4).slowdown.tolist() == [4, 4, 4]


def test_profiles_come_before_what_stands_for_all(tmp_path):
    csv = tmp_path / "p.csv"
    csv.write_text("client, tokens_per_second, dropout\nbob, 7,\n*, 9, 0.5\n")
    f = made(profiles=csv, tokens_per_second=50, dropout=0.1)
    assert f.tokens_per_second.tolist() == [9, 7, 9] and f.dropout.tolist() == [0.5, 0.1, 0.5]
    (tmp_path / "p.json").write_text(json.dumps({"eve": {"upload_mbps": 16, "slowdown": 3}}))
    f = made(profiles=tmp_path / "p.json", slowdown={"bernoulli": (0.5, 10.0)})
    assert f.upload.tolist() == [inf, inf, 2e6] and f.slowdown.tolist() == [1, 1, 3] and f.drawn is not None
    assert f.facts(NAMES)["clients"][2] == {"client": "eve", "upload": 2e6, "latency": 0, "slowdown": 3, "dropout": 0}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("client,speed\nbob,3\n", "expected columns called client and keys of system, got 'speed'"),
        ("client,latency\nbop,3\n", "expected names of clients, got \"'bop' in"),
        ("client,latency\nbob,-3\n", "row 1, latency: expected seconds of at least 0, got '-3'"),
        ("client,dropout\nbob,much\n", "row 1, dropout: expected a share from 0 to 1, got 'much'"),
    ],
)
def test_wrong_profiles(tmp_path, text, said):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(ConfigError) as e:
        made(profiles=tmp_path / "p.csv")
    assert said in str(e.value) and str(e.value).startswith("system.profiles")


def test_files_that_are_none(tmp_path):
    for name, said in (("none.csv", "expected a file"), ("p.txt", "a .csv or .json file"), ("p.json", "expected JSON")):
        if name != "none.csv":
            (tmp_path / name).write_text("{")
        with pytest.raises(ConfigError, match=f"system.profiles: .*{said}"):
            made(profiles=tmp_path / name)


TRACES = {
    "t.csv": "client,start,end\nann,0,5\nann,8,9\nbob,1,2\neve,0,1\n",
    "t.json": json.dumps({"ann": [[0, 5], [8, 9]], "bob": [[1, 2]], "eve": [[0, 1]]}),
}


@pytest.mark.parametrize("name", TRACES)
def test_traces(tmp_path, name):
    file: Path = tmp_path / name
    file.write_text(TRACES[name])
    once, again = made(availability=file).there, made(availability=file, availability_period=10).there
    assert once is not None and again is not None
    assert once.on(8.5).tolist() == again.on(18.5).tolist() == [True, False, False]
    assert not once.on(18.5).any()


def test_traces_in_fedscales_form_repeat_after_their_own_time(tmp_path):
    file = tmp_path / "t.json"
    file.write_text(
        json.dumps(
            {n: {"duration": 9, "active": [0, 6], "inactive": [2, 8], "finish_time": 10 + i} for i, n in enumerate(NAMES)}
        )
    )
    there = made(availability=file).there
    assert there is not None and there.period.tolist() == [10, 11, 12]
    assert there.on(17).tolist() == [True, True, False]  # 7, 6 and 5 of their periods


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("client,start,end\nann,0,5\n", "expected intervals of bob, got"),
        ("client,start,end\n*,5,0\n", "expected start and end seconds, in order"),
        ("client,from,end\n*,5,6\n", "expected start and end seconds, in order"),
    ],
)
def test_wrong_traces(tmp_path, text, said):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ConfigError, match=said):
        made(availability=tmp_path / "t.csv")


def test_a_star_stands_for_the_rest(tmp_path):
    (tmp_path / "t.csv").write_text("client,start,end\nbob,3,4\n*,0,1\n")
    there = made(availability=tmp_path / "t.csv").there
    assert there is not None and there.on(0).tolist() == [True, False, True]


def test_days():
    """Each is there for its share of a day; around noon they are all there, if hours hardly differ."""
    there = diurnal(Diurnal(period=24, share=0.25, sd=0.0), 50, 0)
    assert there.on(12).all() and not there.on(0).any() and there.on(9).all() and not there.on(8.9).any()
    there = diurnal(Diurnal(period=24, share=0.25), 4000, 0)
    assert [there.on(h).mean() for h in (0, 7, 30)] == pytest.approx([0.25] * 3, abs=0.03)
    assert diurnal(Diurnal(share=1.0), 3, 0).on(5).all() and not diurnal(Diurnal(share=0.0), 3, 0).on(5).any()
