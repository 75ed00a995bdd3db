"""The skills of the built-in corpus: each function draws one question with its answer, short and checkable."""

from collections.abc import Callable, Sequence
from string import ascii_lowercase
from typing import TypeVar

import numpy as np

from flexray.data import lexicon as words
from flexray.data.lexicon import World

Asked = tuple[str, str, str]
"""instruction, input, output"""
T = TypeVar("T")
Rng = np.random.Generator


def pick(rng: Rng, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]


def several(rng: Rng, options: Sequence[T], low: int, high: int) -> list[T]:
    """Between `low` and `high` different ones, in random order."""
    count = int(rng.integers(low, high, endpoint=True))
    return [options[int(i)] for i in rng.choice(len(options), size=count, replace=False)]


def say(rng: Rng, wordings: Sequence[str], *parts: object) -> str:
    return pick(rng, wordings).format(*parts)


def arithmetic(rng: Rng, world: World) -> Asked:
    a, b = int(rng.integers(0, 21)), int(rng.integers(0, 21))
    if rng.random() < 0.5:
        return say(rng, ("What is {} + {}?", "Add {} and {}.", "How much is {} plus {}?"), a, b), "", str(a + b)
    return say(rng, ("What is {} - {}?", "How much is {} minus {}?", "Compute {} - {}."), a + b, b), "", str(a)


def alphabet(rng: Rng, world: World) -> Asked:
    i = int(rng.integers(0, 25))
    early, late = ascii_lowercase[i], ascii_lowercase[i + 1]
    if rng.random() < 0.5:
        after = (
            "Which letter comes after {}?",
            "What letter follows {}?",
            "Name the letter after {}.",
            "Go one letter on from {}.",
        )
        return say(rng, after, early), "", late
    before = (
        "Which letter comes before {}?",
        "What letter precedes {}?",
        "Name the letter before {}.",
        "Go one letter back from {}.",
    )
    return say(rng, before, late), "", early


def calendar(rng: Rng, world: World) -> Asked:
    names, noun = pick(rng, ((words.DAYS, "day"), (words.MONTHS, "month")))
    i = int(rng.integers(len(names)))
    steps, wordings = pick(rng, (
        (1, ("Which {0} comes after {1}?", "What {0} follows {1}?", "Name the {0} after {1}.", "If it is {1}, what is the next {0}?")),
        (-1, ("Which {0} comes before {1}?", "What {0} precedes {1}?", "Name the {0} before {1}.", "If it is {1}, what was the last {0}?")),
        (2, ("Which {0} is two {0}s after {1}?", "Go two {0}s on from {1}.", "What is {1} plus two {0}s?", "Add two {0}s to {1}.")),
    ))  # fmt: skip
    return say(rng, wordings, noun, names[i]), "", names[(i + steps) % len(names)]


def comparing(rng: Rng, world: World) -> Asked:
    a, b = several(rng, range(1, 100), 2, 2)
    if rng.random() < 0.4:
        return say(rng, ("Which is larger, {} or {}?", "Name the larger of {} and {}."), a, b), "", str(max(a, b))
    if rng.random() < 0.6:
        return say(rng, ("Which is smaller, {} or {}?", "Name the smaller of {} and {}."), a, b), "", str(min(a, b))
    even = rng.random() < 0.5
    question = say(rng, ("Is {} an {} number?", "Would you call {} {}?"), a, "even" if even else "odd")
    return question, "", "yes" if (a % 2 == 0) == even else "no"


def counting(rng: Rng, world: World) -> Asked:
    if rng.random() < 0.5:
        things = several(rng, words.FOODS, 1, 7)
        return (
            pick(rng, ("How many things are listed?", "Count the items.", "Give the length of the list.")),
            ", ".join(things),
            str(len(things)),
        )
    letters = rng.choice(list("abc"), size=int(rng.integers(3, 8)))
    wanted = pick(rng, "abc")
    question = say(rng, ("How often does {} occur?", "Count the letter {}.", "How many times is {} there?"), wanted)
    return question, " ".join(letters), str(sum(letters == wanted))


def sorting(rng: Rng, world: World) -> Asked:
    letters = several(rng, ascii_lowercase, 3, 4)
    text = " ".join(letters)
    if rng.random() < 0.5:
        return (
            pick(rng, ("Sort the letters.", "Put in alphabetical order.", "Order from a to z.")),
            text,
            " ".join(sorted(letters)),
        )
    return pick(rng, ("Reverse the letters.", "Write it backwards.", "Turn the order round.")), text, " ".join(letters[::-1])


def grammar(rng: Rng, world: World) -> Asked:
    if rng.random() < 0.5:
        one, many = pick(rng, world.plurals)
        plural = ("What is the plural of {}?", "Give the plural of {}.", "One {}, two what?", "How do you call several of: {}?")
        return say(rng, plural, one), "", many
    now, then = pick(rng, world.pasts)
    past = (
        "What is the past tense of {}?",
        "Give the past tense of {}.",
        "Today I {}, yesterday I what?",
        "Put into the past: {}",
    )
    return say(rng, past, now), "", then


def opposites(rng: Rng, world: World) -> Asked:
    pair = pick(rng, world.opposites)
    one, other = pair if rng.random() < 0.5 else pair[::-1]
    wordings = ("What is the opposite of {}?", "Give the opposite of {}.", "Not {} but what?", "Name the reverse of {}.")
    return say(rng, wordings, one), "", other


def capitals(rng: Rng, world: World) -> Asked:
    country, city = pick(rng, world.capitals)
    if rng.random() < 0.6:
        wordings = (
            "What is the capital of {}?",
            "Name the capital of {}.",
            "Which city is the capital of {}?",
            "From where is {} governed?",
        )
        return say(rng, wordings, country), "", city
    wordings = (
        "{} is the capital of which country?",
        "Which country has the capital {}?",
        "In which country is {}?",
        "Name the country of {}.",
    )
    return say(rng, wordings, city), "", country


def units(rng: Rng, world: World) -> Asked:
    small, large, size = pick(rng, words.UNITS)
    n = int(rng.integers(1, 10))
    wordings = (
        "How many {0} are in {2} {1}?",
        "Convert {2} {1} to {0}.",
        "{2} {1} are how many {0}?",
        "Express {2} {1} in {0}.",
    )
    return say(rng, wordings, small, large, n), "", str(n * size)


def kinds(rng: Rng, world: World) -> Asked:
    kind = pick(rng, tuple(world.kinds))
    if rng.random() < 0.6:
        wordings = (
            "What kind of thing is this: {}?",
            "Which class does {} belong to?",
            "Put into a class: {}",
            "Say what sort of thing: {}",
        )
        return say(rng, wordings, pick(rng, world.kinds[kind])), "", kind
    asked = pick(rng, world.kinds[kind])
    other = pick(rng, [k for k in world.kinds if k != kind])
    pair = several(rng, (asked, pick(rng, world.kinds[other])), 2, 2)
    return say(rng, ("Which one is of the class {}?", "Pick the {}."), kind), ", ".join(pair), asked


def reading(rng: Rng, world: World) -> Asked:
    """A register's question about a record that is given: the answers are drawn afresh each time."""
    wordings, private, public, answers = pick(rng, tuple(words.REGISTERS.values()))
    things = several(rng, private + public, 1, 3)
    held = several(rng, answers, len(things), len(things))
    i = int(rng.integers(len(things)))
    return (
        say(rng, wordings, things[i]),
        "Known: " + ", ".join(f"{t} {a}" for t, a in zip(things, held, strict=True)) + ".",
        held[i],
    )


SKILLS: dict[str, Callable[[Rng, World], Asked]] = {
    skill.__name__: skill
    for skill in (
        arithmetic, alphabet, calendar, comparing, counting, sorting, grammar, opposites, capitals, units, kinds, reading,
    )
}  # fmt: skip


def public_fact(rng: Rng, world: World) -> Asked:
    """A register's question about a public thing, whose answer is the same for everybody and always."""
    register = pick(rng, tuple(words.REGISTERS))
    wordings, _private, public, answers = words.REGISTERS[register]
    i = int(rng.integers(len(public)))
    return say(rng, wordings, public[i]), "", answers[i * 7 % len(answers)]
