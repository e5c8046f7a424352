"""Momentum along the gradients of random neighbours: a whole attack from scratch, in about 30 lines."""

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
