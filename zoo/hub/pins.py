"""Writes pins into a registry file as text, so that comments, order and layout stay as they are."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from zoo.errors import UserError
from zoo.hub.whole import write_whole

Scalar = str | int


def write_pins(path: Path, pins: Mapping[str, Mapping[str, Scalar | None]]) -> None:
    """Write fields of `weights` into a registry file: for each model, values by dotted key such as `hub.revision`.

    Raises:
        UserError: the file does not define the model, or cannot be edited without changing anything else.
    """
    text = path.read_text(encoding="utf-8")
    for model, values in pins.items():
        for key, value in values.items():
            text = set_value(text, ["models", model, "weights", *key.split(".")], value, str(path))
    write_whole(path, text.encode())


def set_value(text: str, keys: list[str], value: Scalar | None, where: str) -> str:
    """Return YAML text with one value set, adding the mappings that lead to it where they are missing.

    Raises:
        UserError: a key on the way is not a mapping, or the edit would change anything else (an anchor used twice).
    """
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    depth = 0
    while depth < len(keys):
        child = _child(node, keys[depth])
        if child is None:
            break
        node, depth = child, depth + 1
    if depth < 2:
        raise UserError(f"{where}: models.{keys[1]} is not defined in this file; give the registry that defines it")
    rest = keys[depth:]
    if isinstance(node, yaml.ScalarNode) and (not rest or node.tag == "tag:yaml.org,2002:null"):
        edited = _replace(text, node, _flow(rest, value))
    elif isinstance(node, yaml.MappingNode) and rest:
        edited = _into_flow(text, node, rest, value) if node.flow_style else _into_block(text, node, rest, value)
    else:
        raise UserError(f"{where}: {'.'.join(keys[:depth])} is not a mapping; mend it there")
    _check(text, edited, keys, value, where)
    return edited


def _child(node: yaml.Node | None, key: str) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        for name, child in node.value:
            if name.value == key and isinstance(child, yaml.Node):
                return child
    return None


def _flow(keys: list[str], value: Scalar | None) -> str:
    """Return `{a: {b: value}}`, or the bare value without keys. JSON strings are YAML; plain words need no quotes."""
    plain = isinstance(value, str) and value[:1].isalpha() and all(c.isalnum() or c in "-_./" for c in value)
    quoted = value if plain and not _means_something_else(str(value)) else json.dumps(value)
    text = str(quoted)
    for key in reversed(keys):
        text = f"{{{key}: {text}}}"
    return text


def _means_something_else(word: str) -> bool:
    return not isinstance(yaml.safe_load(word), str)


def _replace(text: str, node: yaml.Node, new: str) -> str:
    start, end = node.start_mark.index, node.end_mark.index
    space = " " if start == end and text[start - 1] == ":" else ""
    return text[:start] + space + new + text[end:]


def _into_flow(text: str, node: yaml.MappingNode, keys: list[str], value: Scalar | None) -> str:
    end = node.end_mark.index - 1  # the closing brace
    before = text[:end].rstrip()
    comma = "" if before.endswith(("{", ",")) else ","
    space = "" if before.endswith("{") else " "
    return f"{before}{comma}{space}{keys[0]}: {_flow(keys[1:], value)}{text[end:]}"


def _into_block(text: str, node: yaml.MappingNode, keys: list[str], value: Scalar | None) -> str:
    indent = " " * node.start_mark.column
    line = f"{indent}{keys[0]}: {_flow(keys[1:], value)}\n"
    end = _last_leaf(node).end_mark.index
    if text[end - 1] != "\n":  # a block scalar ends after its line, everything else within it
        newline = text.find("\n", end)
        if newline < 0:
            return f"{text}\n{line}"
        end = newline + 1
    return text[:end] + line + text[end:]


def _last_leaf(node: yaml.Node) -> yaml.Node:
    while isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        node = last[1] if isinstance(node, yaml.MappingNode) else last
    return node


def _check(old: str, new: str, keys: list[str], value: Scalar | None, where: str) -> None:
    """Refuse an edit that changes anything but the one value."""
    expected: Any = copy.deepcopy(yaml.safe_load(old))
    at = expected
    for key in keys[:-1]:
        if at.get(key) is None:
            at[key] = {}
        at[key] = copy.copy(at[key])  # an anchor's mapping is shared between its uses
        at = at[key]
    at[keys[-1]] = value
    try:
        found = yaml.safe_load(new)
    except yaml.YAMLError:
        found = None
    if found != expected:
        raise UserError(f"{where}: cannot write {'.'.join(keys)}: {value} without changing more; write it there by hand")
