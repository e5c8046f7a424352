"""A folder to start a submission from: it passes `harness submit check` as it is."""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from harness.storage.files import atomic_write
from harness.submit.record import ATTACK, FILE, refuse_odd_name
from zoo.errors import UserError
from zoo.registry.entry import Name

_YAML = """\
name: {name}
title: {title}
authors: [Your Name]
paper: null              # https://...
license: MIT             # SPDX id of the code or the images
kind: {kind}
settings: {settings}
internals: false         # true hands you the networks themselves (hooks, modules); passes are not counted then
substitutes: null        # or a list of the suite's substitutes; null is all of them
"""

_ATTACK = '''\
"""{title}."""

import torch
from torch.nn.functional import cross_entropy


def attack(model, x, y, *, eps, steps, rng, decay=1.0, radius=0.5):
    """Follow the gradient at a random neighbour; return images in [0, 1] with |adv - x| <= eps.

    model: the substitute, from [0, 1] pixels (N, C, H, W) to logits. Call model.begin_iteration(t) before iteration t, so
        that a quantisation-aware substitute takes its state of that iteration.
    x, y: clean images in [0, 1], and their labels.
    rng: rng.uniform(shape, low, high), rng.normal(shape, std), ... draw for each image apart: an image must not depend on
        its batch-mates. Ask for `pool` to mix in other images of the suite: pool.draw(rng, y).
    decay, radius: from `settings` in submission.yaml.
    """
    adv, momentum = x.clone(), torch.zeros_like(x)
    for t in range(steps):
        model.begin_iteration(t)
        model.begin_forward()
        z = (adv + rng.uniform(x.shape[1:], -radius * eps, radius * eps)).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(cross_entropy(model(z), y, reduction="sum"), z)
        momentum = decay * momentum + gradient / gradient.abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-12)
        adv = adv + eps / steps * momentum.sign()
        adv = torch.minimum(torch.maximum(adv, x - eps), x + eps).clamp(0, 1)
    return adv
'''

_README = """\
# {title}

{what}

    harness submit check .
    harness submit run . --suite digits-qnn
    harness submit add {name}--digits-qnn.zip --out boards
"""

_CODE = "Write the attack in `attack.py`. It runs in a sandbox without network, files, processes or threads."
_IMAGES = """Put the images into `images/SUBSTITUTE--s0.safetensors`: one uint8 tensor `images` (N, C, H, W), with the suite's
image ids, one per line, as the metadata `ids`; or into a folder `images/SUBSTITUTE--s0` of PNG files called ID.png."""


def new(name: str, parent: Path, images: bool = False) -> Path:
    """Make the folder `parent`/`name` of a submission and return it.

    Raises:
        UserError: the name cannot be one, is taken, or the folder exists.
    """
    from harness.submit.naming import refuse_taken, reserved

    refuse_odd_name(name, "NAME")
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        rule = "use lower-case letters and digits, with single dots or hyphens between"
        raise UserError(f"{name!r} cannot be a name: {rule}") from None
    refuse_taken(name, reserved(), "an attack or model of the harness")
    folder = parent / name
    if folder.exists():
        raise UserError(f"{folder} exists already; choose another name, or remove it")
    title = name.replace("-", " ").replace(".", " ").capitalize()
    kind, settings = ("images", "{}") if images else ("code", "{decay: 1.0, radius: 0.5}")
    atomic_write(folder / FILE, _YAML.format(name=name, title=title, kind=kind, settings=settings))
    atomic_write(folder / "README.md", _README.format(name=name, title=title, what=_IMAGES if images else _CODE))
    if not images:
        atomic_write(folder / ATTACK, _ATTACK.format(title=title))
    return folder
