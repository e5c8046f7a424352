"""Names that are taken, and names that only look new."""

from __future__ import annotations

from collections.abc import Iterable

from zoo.errors import UserError

_ALIKE = str.maketrans({"0": "o", "1": "l", "i": "l", "5": "s", "2": "z", "8": "b", ".": None, "-": None})


def skeleton(name: str) -> str:
    """Return what a hasty reader sees: without separators, with letters and digits that look alike made one."""
    return name.casefold().replace("rn", "m").replace("vv", "w").replace("cl", "d").translate(_ALIKE)


def refuse_taken(name: str, taken: Iterable[str], kind: str) -> None:
    """Refuse a name that is, or looks like, one that is taken.

    Raises:
        UserError: it does; the message names the other one.
    """
    seen = skeleton(name)
    for other in taken:
        if other == name:
            raise UserError(f"the name {name!r} is taken by {kind}; choose another, since an id is never reused")
        if skeleton(other) == seen:
            raise UserError(f"the name {name!r} looks like {other!r}, {kind}; choose one that nobody can mistake")


def reserved() -> list[str]:
    """Return the names of the harness's own attacks, old names included, and of its models."""
    from harness.attacks.registry import ALIASES, names
    from zoo import registry

    return [*names(), *ALIASES, *registry.load()]
