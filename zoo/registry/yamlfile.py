"""Strict YAML: no duplicate keys, no tags, bounded size; every complaint names the file and the place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from zoo.errors import UserError

MAX_BYTES = 4 * 1024 * 1024
MAX_NODES = 1_000_000
"""Scalars, lists and mappings of a file, each counted as often as aliases repeat it."""
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
R = TypeVar("R", bound=BaseModel)


class _Loader(_Base):  # type: ignore[misc]
    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is not a string", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key!r}", key_node.start_mark)
            seen.add(key)
        self.flatten_mapping(node)
        return {self.construct_object(k, deep=True): self.construct_object(v, deep=True) for k, v in node.value}

    def get_single_node(self) -> Any:
        """Compose the document, and refuse it before construction when its aliases stand for too much."""
        node = super().get_single_node()
        if node is not None and _expanded(node, {}) > MAX_NODES:
            problem = f"its aliases repeat one another to more than {MAX_NODES} values"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return node


def _expanded(node: Any, counts: dict[int, int]) -> int:
    """Return how many values a node stands for, looking at each node once however often aliases name it."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in counts:
        counts[id(node)] = 0  # a node inside itself is refused later
        children = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        counts[id(node)] = 1 + sum(_expanded(child, counts) for child in children)
    return counts[id(node)]


_Loader.add_constructor("tag:yaml.org,2002:map", lambda loader, node: loader.construct_mapping(node))


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds.

    Raises:
        UserError: the file is missing, unreadable, too large, not YAML, not a mapping, or has duplicate or non-string keys.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path}: larger than {MAX_BYTES // 2**20} MiB, which no registry or suite is; check the file")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from error
    try:
        data = yaml.load(text, Loader=_Loader)  # a SafeLoader: constructs plain data only
        json.dumps(data)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise UserError(f"{where}: {problem}; mend the YAML there") from error
    except (RecursionError, ValueError) as error:
        raise UserError(f"{path}: nested too deeply or referring to itself; write it flat") from error
    except TypeError as error:
        raise UserError(f"{path}: holds something that is not plain text, number, list or mapping ({error}); quote it") from error
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a mapping at the top, found {type(data).__name__}")
    return data


def validate(record: type[R], data: Any, where: str) -> R:
    """Build a record from plain data; a mismatch becomes one UserError that names each key path below `where`."""
    try:
        return record.model_validate_json(json.dumps(data))
    except ValidationError as error:
        raise UserError(explain(error, where)) from error


def explain(error: ValidationError, where: str) -> str:
    """Return one line per problem (at most three) with the path of its key and what was found there."""
    lines = []
    for problem in error.errors()[:3]:
        path = ".".join(str(part) for part in problem["loc"])
        found = problem["input"]
        found = found if isinstance(found, str | int | float | bool | None) else type(found).__name__
        message = problem["msg"].removeprefix("Value error, ")
        lines.append(f"{where}{'.' + path if path else ''}: {message} (found {str(found)[:80]!r})")
    more = error.error_count() - len(lines)
    return "; ".join(lines) + (f"; and {more} more" if more > 0 else "")
