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
        reason = str(error).split("\n")[0]
        raise UserError(f"device {device!r} cannot be used ({reason}); use cpu, or a device that torch sees") from error
