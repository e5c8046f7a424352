"""Gradient alignment: how alike the input gradients of two models are (Eq. 9, Fig. 4), with rival measures of the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from harness.analyze.study import Row, Study, in_state, input_gradient, mean_interval
from zoo.errors import UserError

EDGES = 0.1
"""Share of an image's pixels that count as edges: those of the steepest gradient map."""
BINS = 9
CELLS = 4
VANISHED = 1e-8
"""An input gradient whose L2 norm is at most this counts as vanished."""
REPORTED = {"resnet34": 0.1180, "resnet34-4bit": 0.1186, "resnet34-2bit": 0.1196, "resnet34-2bit-qaa": 0.1250}
"""Mean similarity over the paper's 16 ImageNet targets (Sec. III-D)."""


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine of two gradients of each image (N,), flattened (Eq. 9); 0 where one is zero."""
    x, y = a.flatten(1).double(), b.flatten(1).double()
    norms = x.norm(dim=1) * y.norm(dim=1)
    return torch.where(norms > 0, (x * y).sum(1) / norms.clamp(min=torch.finfo(torch.float64).tiny), 0.0)


def edges(gradient: Tensor) -> Tensor:
    """Return the edge map (N, H, W) of a gradient's magnitude: the `EDGES` of its pixels where Sobel's operator is largest.

    The magnitude is the sum of absolute values over channels; pixels beyond the rim repeat it. Pixels of equal steepness at
    the threshold are taken from the top left on, so that every map has the same number of edges.
    """
    steep = torch.hypot(*_slopes(gradient)).flatten(1)
    count = max(1, round(EDGES * steep.shape[1]))
    order = torch.argsort(steep, dim=1, descending=True, stable=True)[:, :count]
    found = torch.zeros_like(steep, dtype=torch.bool).scatter_(1, order, True)
    return found.view(len(gradient), *gradient.shape[-2:])


def edge_overlap(a: Tensor, b: Tensor) -> Tensor:
    """Return the intersection over the union of two edge maps of each image (N,)."""
    one, two = edges(a), edges(b)
    return (one & two).flatten(1).sum(1).double() / (one | two).flatten(1).sum(1)


def histograms(gradient: Tensor) -> Tensor:
    """Return histograms of oriented gradients of a gradient's magnitude, (N, CELLS^2 * BINS).

    Dalal and Triggs (CVPR 2005) without blocks: unsigned directions in 9 bins, votes by slope, shared linearly between the
    two nearest bins, in 4 x 4 cells that cover the image.
    """
    dx, dy = _slopes(gradient)
    size = torch.hypot(dx, dy)
    place = (torch.atan2(dy, dx) % torch.pi) / torch.pi * BINS - 0.5
    low = place.floor()
    share = place - low
    first, second = (low % BINS).long(), ((low + 1) % BINS).long()
    votes = torch.zeros(len(size), BINS, *size.shape[-2:], dtype=size.dtype, device=size.device)
    votes.scatter_add_(1, first.unsqueeze(1), (size * (1 - share)).unsqueeze(1))
    votes.scatter_add_(1, second.unsqueeze(1), (size * share).unsqueeze(1))
    return F.adaptive_avg_pool2d(votes, CELLS).flatten(1)


def histogram_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine of the histograms of oriented gradients of each image (N,)."""
    return cosine(histograms(a), histograms(b))


MEASURES = {"cosine": cosine, "edge_overlap": edge_overlap, "histogram_cosine": histogram_cosine}


def _slopes(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return Sobel's slopes (N, H, W) along x and y of the summed absolute gradient."""
    size = F.pad(gradient.double().abs().sum(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    kernel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], dtype=torch.float64, device=gradient.device)
    return F.conv2d(size, kernel[None, None]).squeeze(1), F.conv2d(size, kernel.T[None, None]).squeeze(1)


def gradients(study: Study, name: str, state: str = "mean") -> Tensor:
    """Return a model's input gradients at the clean images, (N, C, H, W) on the CPU.

    Of a model that alternates, the mean over its states, or those of one state.

    Raises:
        UserError: the model gives no gradients (a deployed network, answers only).
    """
    return study.remember_tensor("gradients", {"model": name, "state": state}, lambda: _gradients(study, name, state))


def _gradients(study: Study, name: str, state: str) -> Tensor:
    net = study.net(name)
    schedule = study.schedule(name, net) if state == "mean" else (state,)
    total: list[Tensor] = []
    for each in schedule:
        in_state(net, each)  # type: ignore[arg-type]
        parts = []
        for pixels, y in study.batches(study.pixels, study.labels):
            try:
                parts.append(input_gradient(net, pixels.float() / 255, y).cpu())
            except RuntimeError as error:
                raise UserError(f"{name} gives no gradients, only answers: {error}") from error
        total.append(torch.cat(parts))
    return torch.stack(total).mean(0)


def norms(study: Study, name: str, gradient: Tensor) -> Row:
    """Return how large a model's input gradients are, and how many vanish."""
    size = gradient.flatten(1).double().norm(dim=1)
    zero = (gradient == 0).flatten(1).double().mean()
    return {"model": name, **mean_interval(size), "vanished": float((size <= VANISHED).double().mean()), "zeros": float(zero)}


def embed(similarity: NDArray[np.float64], seed: int) -> tuple[NDArray[np.float64], float]:
    """Return places in three dimensions (models, 3) whose distances are close to 1 - similarity, and Kruskal's stress.

    Metric multi-dimensional scaling by SMACOF (scikit-learn) from the best of eight starts under the seed.
    """
    from sklearn.manifold import MDS

    distance = np.clip(1 - (similarity + similarity.T) / 2, 0, None)
    np.fill_diagonal(distance, 0)
    scaling = MDS(n_components=3, n_init=8, init="random", metric="precomputed", random_state=seed, normalized_stress=False)
    places = scaling.fit_transform(distance)
    shown = np.linalg.norm(places[:, None] - places[None], axis=-1)
    upper = np.triu_indices(len(distance), 1)
    total = float((distance[upper] ** 2).sum())
    stress = float(np.sqrt(((shown - distance)[upper] ** 2).sum() / total)) if total > 0 else 0.0
    return places - places.mean(0), stress


def analyze(study: Study, substitutes: Sequence[str], targets: Sequence[str]) -> dict[str, list[Row]]:
    """Return similarities of substitutes and targets, their means over targets, gradient norms, and places in three dimensions.

    A mean takes the targets that are another model; its interval is that of sampling images, the mean over targets taken
    within each image first.
    """
    names = list(dict.fromkeys((*substitutes, *targets)))
    known, refused = {}, []
    for name in names:
        try:
            known[name] = gradients(study, name)
        except UserError as error:
            refused.append({"model": name, "reason": str(error)})
    pairs, means = [], []
    matrix = np.eye(len(known))
    place = {name: at for at, name in enumerate(known)}
    for a in known:
        per_image: dict[str, list[Tensor]] = {}
        for b in known:
            if a == b or (a not in substitutes and place[b] < place[a]):
                continue
            values = {key: measure(known[a], known[b]) for key, measure in MEASURES.items()}
            matrix[place[a], place[b]] = matrix[place[b], place[a]] = float(values["cosine"].mean())
            pairs += [{"substitute": a, "target": b, "measure": key, **mean_interval(v)} for key, v in values.items()]
            if a in substitutes and b in targets:
                for key, v in values.items():
                    per_image.setdefault(key, []).append(v)
        for key, each in per_image.items():
            reported = REPORTED.get(a) if key == "cosine" else None
            found = mean_interval(torch.stack(each).mean(0))
            means.append({"substitute": a, "measure": key, "targets": len(each), **found, "reported": reported})
    places: list[Row] = []
    if len(known) > 3:
        at, stress = embed(matrix, study.seed)
        kinds = {name: "substitute" if name in substitutes else "target" for name in known}
        for name, (x, y, z) in zip(known, at.tolist(), strict=True):
            places.append({"model": name, "kind": kinds[name], "x": x, "y": y, "z": z, "stress": stress})
    sizes = [norms(study, name, gradient) for name, gradient in known.items()]
    return {"means": means, "pairs": pairs, "norms": sizes, "places": places, "refused": refused}
