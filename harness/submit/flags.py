"""What a reviewer should look at in submitted code: read as text, never run. A flag is a question, no verdict."""

from __future__ import annotations

import ast
import hashlib
import zlib

from harness.sandbox import printable
from harness.submit.record import Source

LONG_TEXT = 300
"""Characters of a string, other than a docstring, from which on it may hold data."""
LONG_PROSE, LONG_WORD = 3000, 80
"""Characters of a docstring, and of a word in it, from which on it may hold data."""
LONG_LIST = 64
"""Constants in one list, tuple, set or dict, likewise."""
LONG_NUMBER = 10**20
LONG_LINE = 400
DENSE, DENSE_FROM = 0.55, 2000
"""Ratio of compressed to plain size that code stays below and data does not, for files of so many bytes."""
SHOWN = 20


def flags(source: Source) -> list[str]:
    """Return what may hide data in a submission's code, with file and line."""
    found: list[str] = []
    for name, text in sorted(source.files.items()):
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            found.append(f"{name}: does not parse ({type(error).__name__})")
            continue
        found += [f"{name}, line {line}: {what}" for line, what in _literals(tree)]
        packed = len(zlib.compress(text.encode(), 9)) / max(1, len(text.encode()))
        if len(text) >= DENSE_FROM and packed > DENSE:
            found.append(f"{name}: compresses to {100 * packed:.0f} % only, as data does and code does not")
        for number, line in enumerate(text.splitlines(), 1):
            if len(line) > LONG_LINE:
                found.append(f"{name}, line {number}: {len(line)} characters")
            odd = next((c for c in line if ord(c) > 126 or (ord(c) < 32 and c != "\t")), None)
            if odd is not None:
                found.append(f"{name}, line {number}: holds {odd!a}")
    return [printable(each) for each in found[:SHOWN]] + ([f"... and {len(found) - SHOWN} more"] if len(found) > SHOWN else [])


def _literals(tree: ast.AST) -> list[tuple[int, str]]:
    found = []
    docstrings = {id(_text_at_start(node)) for node in ast.walk(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant):
            value = node.value
            longest = max((len(word) for word in value.split()), default=0) if isinstance(value, str | bytes) else 0
            prose = id(node) in docstrings and longest <= LONG_WORD
            if isinstance(value, str | bytes) and len(value) > (LONG_PROSE if prose else LONG_TEXT):
                found.append((node.lineno, f"a text of {len(value)} characters"))
            if isinstance(value, int) and value > LONG_NUMBER:
                found.append((node.lineno, f"a number of {value.bit_length()} bits"))
        elif isinstance(node, ast.List | ast.Tuple | ast.Set | ast.Dict):
            parts = node.values if isinstance(node, ast.Dict) else node.elts
            if len(parts) > LONG_LIST:
                found.append((node.lineno, f"a literal of {len(parts)} entries"))
    return found


def _text_at_start(node: ast.AST) -> ast.Constant | None:
    """Return the docstring of a module, a class or a function, or what stands in its place."""
    body = getattr(node, "body", None)
    if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        return body[0].value
    return None


def fingerprint(source: Source) -> str:
    """Return a digest of what code does, whatever its files are called, and however it is laid out or commented."""
    parts = []
    for text in source.files.values():
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            parts.append(text)
            continue
        for node in ast.walk(tree):
            if _text_at_start(node) is not None:
                node.body[:1] = []  # type: ignore[attr-defined]
        parts.append(ast.dump(tree))
    return hashlib.sha256(repr(sorted(parts)).encode()).hexdigest()
