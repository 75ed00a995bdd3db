"""The page in a real browser: nothing runs out of it at either width, and light is light and dark is dark."""

import shutil
import subprocess

import pytest

from flexray.report import sweep_page
from flexray.report.page import write
from tests.report.folders import make, sweep

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (Debian: apt install chromium)")]
FRAME = """<body style="margin:0"><iframe id="f" src="{page}" style="border:0;width:{width}px;height:1500px"></iframe>
<p id="wide"></p><script>
document.getElementById("f").onload = () => {{
  const doc = document.getElementById("f").contentDocument, wide = doc.documentElement.scrollWidth;
  const out = [...doc.querySelectorAll("h1, h2, p, figure, svg, .scroll, .tiles > div")].filter(
    e => e.getBoundingClientRect().right > {width} + 0.5 || e.getBoundingClientRect().left < -0.5);
  const texts = [...doc.querySelectorAll("svg text")].filter(t => {{
    const own = t.getBoundingClientRect(), card = t.closest("figure").getBoundingClientRect();
    return own.left < card.left - 0.5 || own.right > card.right + 0.5;
  }});
  document.getElementById("wide").textContent = `wide=${{wide}} out=${{out.length}} texts=${{texts.map(t => t.textContent)}};`;
}}</script>"""


OVER = {
    "train.lr": {"loguniform": [4e-4, 0.1]}, "train.steps": {"randint": [5, 50]}, "train.weight_decay": [0.0, 0.01, 0.1],
    "algorithm.lora.rank": [2, 4, 8, 16], "algorithm.gate.init": ["closed", "half", "router_row"], "seed": [0, 1],
}  # fmt: skip


@pytest.fixture(scope="module", params=["runs", "sweep"])
def page(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("browser")
    if request.param == "sweep":
        made = sweep(path / "sweep", OVER, lambda p: p["train.lr"] + p["algorithm.lora.rank"] / 100, samples=4, failed=[3])
        return sweep_page.write(made, path / "out")[0]
    big = {"clients": 60, "rounds": 30, "labels": 20, "layers": 16, "experts": 32}
    runs = [make(path / "a", **big), make(path / "b", method="fedavg", **big)]
    return write(runs, path / "out")[0]


def chromium(page, *options: str) -> str:
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--allow-file-access-from-files")
    done = subprocess.run([str(CHROMIUM), *flags, *options, page.as_uri()], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_fits_and_follows_the_scheme(page, width, dark, tmp_path):
    from PIL import Image

    frame = page.with_name("frame.html")
    frame.write_text(FRAME.format(page=page.name, width=width))
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    seen = chromium(frame, scheme, "--dump-dom", "--virtual-time-budget=20000", f"--window-size={max(width, 500)},1500")
    assert f"wide={width} out=0 texts=;" in seen, seen[-300:]
    chromium(frame, scheme, f"--screenshot={tmp_path / 'shot.png'}", f"--window-size={max(width, 500)},1500")
    corner = sum(Image.open(tmp_path / "shot.png").convert("RGB").getpixel((2, 2)))
    assert corner < 150 if dark else corner == 3 * 255
