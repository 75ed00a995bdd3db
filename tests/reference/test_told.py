"""What is said of a field: below it, else in its class's docstring, else by its options' class; a subclass has the last word."""

from dataclasses import dataclass

from flexray.reference import told
from flexray.sections import Section


@dataclass(frozen=True)
class Options:
    """Something small. And more of it.

    left: how far to the left. right and far: the other way,
    in whole steps.
    """

    left: int = 1
    right: int = 2
    far: int = 3
    silent: int = 4


@dataclass(frozen=True)
class Base:
    """What two have in common. size: in rows."""

    size: int = 1
    """How large."""
    kind: str = "a"
    options: Options = Options()

    @property
    def doubled(self) -> int:
        """No field."""
        return 2 * self.size


@dataclass(frozen=True)
class Derived(Base):
    """More, and of its own fields only: kind: not its own."""

    size: int = 5
    """How large, now
    over two lines."""


class Keys(Section):
    """Of pydantic."""

    rounds: int = 3
    """How often."""
    base: Base = Base()


def test_a_passage_of_the_docstring_ends_where_the_next_one_begins():
    both = "The other way, in whole steps."
    assert told.fields(Options) == {"left": "How far to the left.", "right": both, "far": both}


def test_below_the_field_comes_first_and_options_speak_for_themselves():
    assert told.fields(Base) == {"size": "How large.", "options": "Something small."}


def test_a_subclass_has_the_last_word():
    assert told.fields(Derived) == {
        "size": "How large, now over two lines.",
        "options": "Something small.",
    }


def test_of_pydantics_models_too():
    assert told.fields(Keys) == {"rounds": "How often.", "base": "What two have in common."}


def test_what_nothing_is_said_of():
    assert told.missing(Keys) == ["Base.kind", "Options.silent"]


def test_a_class_without_its_fields():
    assert told.whole(Options) == "Something small. And more of it."
    assert told.first(Options) == "Something small."
    assert told.whole(Keys) == "Of pydantic."
