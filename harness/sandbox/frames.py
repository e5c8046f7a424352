"""Messages between the harness and the process inside the sandbox: a JSON head and bytes; nothing is ever unpickled.

Standard library only: it runs on both sides of the wall.
"""

from __future__ import annotations

import json
import struct
from typing import Any

HEAD = struct.Struct("!QQ")
MAX_HEAD = 8 * 2**20


TWICE = "a key occurs twice"


class FrameError(ValueError):
    """A message that is malformed or too large."""


def encode(head: dict[str, Any], body: bytes = b"") -> bytes:
    """Return the bytes of one message."""
    text = json.dumps(head).encode()
    return HEAD.pack(len(text), len(body)) + text + body


def lengths(prefix: bytes, max_body: int) -> tuple[int, int]:
    """Return the lengths of head and body that the first bytes of a message announce.

    Raises:
        FrameError: they are larger than allowed.
    """
    head, body = HEAD.unpack(prefix)
    if head > MAX_HEAD or body > max_body:
        raise FrameError(f"a message of {head} + {body} bytes, more than the {max_body} that were to come")
    return head, body


def decode_head(text: bytes) -> dict[str, Any]:
    """Return the head of a message.

    Raises:
        FrameError: it is no JSON object.
    """
    try:
        head = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        twice = f" ({error})" if str(error) == TWICE else f" ({type(error).__name__})"
        raise FrameError(f"a message that is not JSON{twice}") from error
    if not isinstance(head, dict):
        raise FrameError("a message that is not a JSON object")
    return head


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(TWICE)
    return found
