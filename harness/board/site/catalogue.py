"""The attacks that come with the package, read from their sources: describing them needs no torch."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "attacks"


@dataclass(frozen=True)
class Described:
    """What the sources say of an attack."""

    name: str
    category: str
    source: str
    doc: str
    aliases: tuple[str, ...]


@cache
def attacks() -> dict[str, Described]:
    """Return every function of `harness/attacks` that is decorated with `@preset("name", ...)`, in the order of the files."""
    found: dict[str, Described] = {}
    for path in sorted(FOLDER.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        words = _constants(tree)
        for node in tree.body:
            if isinstance(node, ast.FunctionDef):
                for call in node.decorator_list:
                    if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "preset":
                        described = _described(node, call, words)
                        found[described.name] = described
    return found


def _constants(tree: ast.Module) -> dict[str, str]:
    """Return the module's names that stand for a string."""
    found = {}
    for node in tree.body:
        targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets if isinstance(node, ast.Assign) else []
        value = getattr(node, "value", None)
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            found.update({target.id: value.value for target in targets if isinstance(target, ast.Name)})
    return found


def _described(node: ast.FunctionDef, call: ast.Call, words: dict[str, str]) -> Described:
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    aliases = given.get("aliases")
    return Described(
        name=_text(call.args[0], words),
        category=_text(given.get("category"), words),
        source=_text(given.get("source"), words),
        doc=" ".join((ast.get_docstring(node) or "").split()),
        aliases=tuple(_text(each, words) for each in aliases.elts) if isinstance(aliases, ast.Tuple) else (),
    )


def _text(node: ast.expr | None, words: dict[str, str]) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    return words.get(node.id, "") if isinstance(node, ast.Name) else ""
