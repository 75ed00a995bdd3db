"""The two ways flexray stops: the user's input is wrong, or a run has failed."""

from collections.abc import Iterable
from difflib import get_close_matches

LONGEST = 1000
"""Characters of one problem; what is longer loses its middle."""


class ConfigError(Exception):
    """Wrong input, found before anything was written; the command line exits with code 2.

    Each problem reads `<dotted key>: expected …, got …; <how to mend it>`, on one line whatever is quoted in it.
    """

    def __init__(self, *problems: str):
        self.problems = tuple(map(_one_line, problems))
        super().__init__("\n".join(self.problems))

    def __reduce__(self):  # crosses process borders whole: exceptions are re-made from their arguments
        return type(self), self.problems


class RunError(Exception):
    """A run has failed; the command line exits with code 1. Says what, who, which round, and how to go on."""


def _one_line(problem: str) -> str:
    """Without what would break the line or hide in it."""
    if len(problem) > LONGEST:
        problem = f"{problem[: LONGEST // 2]} … {problem[-LONGEST // 2 :]}"
    return problem if problem.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in problem)


def expected(key: str, wanted: str, got: object, mend: str) -> ConfigError:
    """One problem in the house's form."""
    return ConfigError(f"{key}: expected {wanted}, got {got!r}; {mend}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean 'fedprox'?` when something known is near, else the list of what is known."""
    known = sorted(known)
    near = get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"choose one of: {', '.join(known)}"
