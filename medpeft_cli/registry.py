"""Look a name up in a table; a wrong name is answered with the nearest right one."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TypeVar

from medpeft_cli.errors import RecipeError

T = TypeVar("T")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name most like `name`, or None if nothing is near."""
    matches = get_close_matches(name.lower(), list(known), n=3, cutoff=0.6)
    # of equally near ones the swapped letters win: lroa is lora, not road
    return min(matches, key=lambda match: sorted(match) != sorted(name.lower()), default=None)


def lookup(kind: str, table: Mapping[str, T], name: str) -> T:
    """Return `table[name]`.

    Raises:
        RecipeError: if there is no such name; it names the nearest and all known ones.
    """
    if name in table:
        return table[name]
    raise RecipeError(f"unknown {kind} {name!r}", unknown_hint(name, table))


def unknown_hint(name: str, known: Iterable[str]) -> str:
    """Return `did you mean 'x'? known: …` for an unknown name."""
    names = list(known)
    guess = nearest(name, names)
    listed = f"known: {', '.join(names)}" if names else "none is known"
    return f"did you mean {guess!r}? {listed}" if guess else listed
