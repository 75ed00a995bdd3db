"""The built-in instruction corpus: twelve skills, and facts on which the clients contradict one another.

A client sees a few skills far more often than the others, and holds its own answers to the same list of questions (its
private facts). The public part has all skills and facts about other things, so a model trained on it knows how such
questions are asked but none of the clients' answers. A skill's prompt belongs to one split for good, by a checksum of its
text, so no held-out prompt is trained on, here or in the public part. A private fact is held out by its wording: every
client has every fact among its train rows, and is tested on a wording of it that those rows do not have.
"""

from collections.abc import Callable
from zlib import crc32

import numpy as np

from flexray.data import lexicon as words
from flexray.data.skills import SKILLS, Asked, Rng, public_fact

Row = dict[str, str]
SPLITS = {"train": 0, "valid": 40, "test": 80}  # rows of a client; train: every fact in three wordings, and the skills below
TRAIN_SKILLS = (130, 200)  # at least, at most
MAIN_SHARE = 0.8  # of a client's skill rows come from its main domains
READING_EXTRA = 2  # reading is the slowest to learn: the public part has it three times as often as any other skill
CLIENT_WORLD_SHARE = 0.7  # of the draws of a client's skill row know the part of the world that the public part lacks


def rows(seed: int, clients: int) -> dict[str, list[Row]]:
    """The corpus of so many clients: split to rows, each with its domain, client and kind (`skill` or `fact`)."""
    mains = _mains(seed, clients)
    corpus: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for k in range(clients):
        name = f"client-{k:0{len(str(clients - 1))}d}"
        for split, own in _client_rows(seed, k, mains[k]).items():
            corpus[split] += [{**row, "client": name} for row in own]
    return corpus


def public_rows(seed: int, count: int, split: str = "train") -> list[Row]:
    """Rows of no client: every skill, and facts about public things; what a base may be pretrained on."""
    rng = np.random.default_rng([seed, 1])
    makers = [*SKILLS.items(), ("facts", public_fact), *[("reading", SKILLS["reading"])] * READING_EXTRA]
    drawn = (makers[i] for i in rng.integers(len(makers), size=count))
    return [_row(domain, _of_split(maker, words.PUBLIC_WORLD, split, rng)) | {"client": "public"} for domain, maker in drawn]


def private_answer(seed: int, register: str, thing: str, client: int) -> str:
    """What one client holds to be true; clients differ while there are answers enough."""
    answers = words.REGISTERS[register][3]
    order = np.random.default_rng([seed, 2, crc32(f"{register} {thing}".encode())]).permutation(len(answers))
    return answers[order[client % len(answers)]]


def _mains(seed: int, clients: int) -> list[list[str]]:
    """Two main domains per client, more where the clients are too few to cover all."""
    each = max(2, -(-len(SKILLS) // clients))
    order = np.random.default_rng([seed, 3]).permutation(list(SKILLS))
    return [[str(order[(k * each + i) % len(order)]) for i in range(each)] for k in range(clients)]


def _client_rows(seed: int, client: int, mains: list[str]) -> dict[str, list[Row]]:
    rng = np.random.default_rng([seed, 4, client])
    split_rows = _fact_rows(seed, client, rng)
    for split, own in split_rows.items():
        count = SPLITS[split] - len(own) if SPLITS[split] else int(rng.integers(*TRAIN_SKILLS, endpoint=True))
        own += _skill_rows(count, mains, split, rng)
    return {split: [own[i] for i in rng.permutation(len(own))] for split, own in split_rows.items()}


def _fact_rows(seed: int, client: int, rng: Rng) -> dict[str, list[Row]]:
    """Each fact in three wordings to train, one to test, and for every other fact one to validate."""
    split_rows: dict[str, list[Row]] = {split: [] for split in SPLITS}
    facts = [(register, thing) for register, (_, private, _, _) in words.REGISTERS.items() for thing in private]
    for i, (register, thing) in enumerate(facts):
        wordings = [w.format(thing) for w in words.REGISTERS[register][0]]
        test, valid, *train = wordings[i % 5 :] + wordings[: i % 5]
        split_wordings = {"train": train, "valid": [valid] if i % 2 else [], "test": [test]}
        answer = private_answer(seed, register, thing, client)
        for split, asked in split_wordings.items():
            split_rows[split] += [_row("facts", (question, "", answer)) for question in asked]
    return split_rows


def _skill_rows(count: int, mains: list[str], split: str, rng: Rng) -> list[Row]:
    """So many different prompts, most of them of the main domains."""
    found: dict[tuple[str, str], Row] = {}
    while len(found) < count:
        domain = str(rng.choice(mains if rng.random() < MAIN_SHARE else list(SKILLS)))
        world = words.CLIENT_WORLD if rng.random() < CLIENT_WORLD_SHARE else words.PUBLIC_WORLD
        row = _row(domain, _of_split(SKILLS[domain], world, split, rng))
        found.setdefault((row["instruction"], row["input"]), row)
    return list(found.values())


def _of_split(maker: Callable[[Rng, words.World], Asked], world: words.World, split: str, rng: Rng) -> Asked:
    """Ask until the prompt is one of this split: a fifth of all prompts test, a tenth validate."""
    while True:
        asked = maker(rng, world)
        tenth = crc32(f"{asked[0]}\n{asked[1]}".encode()) % 10
        if split == ("test" if tenth < 2 else "valid" if tenth == 2 else "train"):
            return asked


def _row(domain: str, asked: Asked) -> Row:
    instruction, text, output = asked
    kind = "fact" if domain == "facts" else "skill"
    return {"instruction": instruction, "input": text, "output": output, "domain": domain, "kind": kind}
