"""Cards of exported models: fields that the hub reads, and whose licence it is."""

from dataclasses import replace

import pytest
import yaml

from flexray.serve import card
from flexray.serve.export import export

LICENCES = {
    "---\nlicense: mit\n---\n# It\n": {"license": "mit"},
    "---\nlicense: other\nlicense_name: theirs\nlicense_link: LICENSE\n---\n": {
        "license": "other", "license_name": "theirs", "license_link": "LICENSE",
    },
    "---\nlicense: [broken\n---\n": {"license": "unknown"},
    "# No head\n---\nlicense: mit\n---\n": {"license": "unknown"},
    "---\n- a list\n---\n": {"license": "unknown"},
}  # fmt: skip


def test_the_card_says_what_it_is(finished, tmp_path):
    run = finished("flex")
    export(run, tmp_path / "model", "client-0")
    text = (tmp_path / "model" / "README.md").read_text()
    head = yaml.safe_load(text.split("---\n")[1])
    assert head == {
        "library_name": "transformers", "pipeline_tag": "text-generation", "license": "unknown",
        "tags": ["flexray", "federated-learning", "mixture-of-experts"], "metrics": ["loss", "perplexity"],
    }  # fmt: skip
    for what in (
        "- **Method**: `flex`", "- **Data**: `builtin`, 2 clients", "- **Licence**: unknown: ", "trust_remote_code=True",
        "On held-out rows (test).", "| loss |", "### Instruction:\\nWhat is to be answered?",
    ):  # fmt: skip
        assert what in text


@pytest.mark.parametrize(("text", "wanted"), LICENCES.items(), ids=range(len(LICENCES)))
def test_the_licence_is_the_one_that_the_bases_own_card_names(finished, tmp_path, random_model, text, wanted):
    run = finished("fedavg")
    try:
        (random_model / "README.md").write_text(text)
        head = yaml.safe_load(card.of_run(run, None, "base").text("plain", "x").split("---\n")[1])
    finally:
        (random_model / "README.md").unlink()
    assert {name: value for name, value in head.items() if name.startswith("license")} == wanted


def test_a_card_names_what_is_on_the_hub(finished):
    told = replace(card.of_run(finished("fedavg"), "client-0", "personal"), base="some/base", dataset="some/rows")
    head = yaml.safe_load(told.text("adapter", "x").split("---\n")[1])
    assert (head["base_model"], head["base_model_relation"], head["datasets"]) == ("some/base", "adapter", ["some/rows"])
    assert 'base = "some/base"' in told.text("adapter", "x")
