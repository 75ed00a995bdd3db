"""The two ways flexray stops: the user's input is wrong, or a run has failed."""

from collections.abc import Iterable
from difflib import get_close_matches


class ConfigError(Exception):
    """Wrong input, found before anything was written; the command line exits with code 2.

    Each problem reads `<dotted key>: expected …, got …; <how to mend it>`.
    """

    def __init__(self, *problems: str):
        super().__init__("\n".join(problems))
        self.problems = problems

    def __reduce__(self):  # crosses process borders whole: exceptions are re-made from their arguments
        return type(self), self.problems


class RunError(Exception):
    """A run has failed; the command line exits with code 1. Says what, who, which round, and how to go on."""


def expected(key: str, wanted: str, got: object, mend: str) -> ConfigError:
    """One problem in the house's form."""
    return ConfigError(f"{key}: expected {wanted}, got {got!r}; {mend}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean 'fedprox'?` when something known is near, else the list of what is known."""
    known = sorted(known)
    near = get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"choose one of: {', '.join(known)}"
