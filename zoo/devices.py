"""Whether a device that was asked for can be used."""

from __future__ import annotations

import torch

from zoo.errors import UserError


def check_device(device: str) -> None:
    """Refuse a device that torch does not know or cannot compute on.

    Raises:
        UserError: no such device here.
    """
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        here = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        raise UserError(f"device {device!r} cannot be used ({_reason(str(error))}); use {' or '.join(here)}") from error


def _reason(message: str) -> str:
    """Return what torch says in its first sentence, or in shorter words where that is a list."""
    if message.startswith("Expected one of"):
        return "torch knows none of that name; GPUs are cuda, cuda:0, ..."
    if message.startswith("Could not run"):
        return "this torch is built without it"
    return message.split("\n")[0].split(". ")[0].rstrip(".")
