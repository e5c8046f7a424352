"""What the page of one line shows: its rates per target, where its rows come from, how to make them again, and its images."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from harness.board.lines import Line
from harness.board.site.view import View, in_percent
from harness.board.site.viewer import CLEAN, FOLDER, Samples, strip_name
from harness.board.statistics import proportion
from harness.records.rows import Controls, Dispute, Row


def targets(view: View, line: Line) -> list[dict[str, Any]]:
    """Return every target with its rates over all seeds, in the order of the families."""
    frame, bits = view.board.frame, view.board.suite.bits
    n_correct = line.correct.sum(axis=1)
    made = []
    for place, target in enumerate(frame.targets):
        there = bool(line.measured[place])
        made.append(
            {
                "target": target,
                "family": next(title for title, member in frame.members.items() if member[place]),
                "bits": bits[target],
                "asr": in_percent(line.asr.single(place)) if there else None,
                "error": in_percent(line.error.single(place)) if there else None,
                "clean_error": round(100 * float(line.clean_error[place]), 2) if frame.known[place] else None,
                "n_correct": int(n_correct[place]),
                "whitebox": bool(line.whitebox[place]),
                "missing": line.missing.get(target, ""),
            }
        )
    return made


def origin(view: View, row: Row, folder: Path) -> list[tuple[str, str]]:
    """Return where a row comes from, as (what, value) pairs."""
    p, facts = row.provenance, [("Seed", str(row.seed))]
    facts += [
        ("Images", f"{row.images:,}" + (f" (the first of {view.pinned.images:,})" if row.limit else "")),
        ("Largest difference", f"{row.max_level}/255"),
    ]
    if row.size is not None:
        facts.append(("Mean size", f"L2 {row.size.l2:.3f}, SSIM {row.size.ssim:.4f}"))
    passes = [("forward", row.cost.forwards), ("backward", row.cost.backwards)]
    said = ", ".join(f"{count} {word}" for word, count in passes if count is not None)
    seconds = f"{row.cost.seconds / row.images:.3g} s per image on {row.cost.device}" if row.images else "unknown"
    facts += [
        ("Passes per image", said or "not declared"),
        ("Crafting", seconds),
        ("Made", f"{p.created}, package {p.package}, torch {p.torch}, timm {p.timm}, Python {p.python}, {p.platform}"),
        ("Precision", p.precision or "exact: float32, deterministic kernels"),
        ("Hardware", p.hardware or "not recorded"),
        ("Commit", p.commit or "outside a repository"),
        ("sha256 of the images", row.images_sha256),
        ("sha256 of the substitute", row.substitute_sha256),
        ("sha256 of the canonical row", row.digest),
        ("Row", (folder / "rows" / row.filename).as_posix()),
    ]
    if row.submission is not None:
        s = row.submission
        facts += [("Authors", ", ".join(s.authors)), ("Paper", s.paper or "none"), ("Licence", s.license)]
        facts += [("Isolation", s.isolation or "the code was not run here"), ("sha256 of the bundle", s.bundle_sha256)]
        facts += [("Disputed", _dispute(dispute)) for dispute in s.disputes]
        facts += [("Controls", _controls(s.controls))] if s.controls is not None else []
    return [*facts, ("Notes", row.notes)] if row.notes else facts


def _dispute(dispute: Dispute) -> str:
    words = f"made again, {dispute.differing} of {dispute.predictions} predictions were others"
    return words if dispute.cleared is None else f"{words}; cleared by {dispute.cleared.by}: {dispute.cleared.because}"


def _controls(controls: Controls) -> str:
    """Return in words whether a submitted attack needs its substitute."""
    decoys = " and ".join(f"{100 * rate:.1f} %" for rate in controls.decoys)
    return (
        f"on {controls.images} images: {100 * controls.success:.1f} % as ranked, {100 * controls.noise:.1f} % by noise, "
        f"{decoys} with decoy substitutes, {100 * controls.moved:.1f} % on images moved by one level"
    )


def command(row: Row, folder: Path) -> str:
    """Return the command that makes a row again, or, of a row of others, checks a part of it."""
    verb = "reproduce" if row.submission is None else "verify"
    return f"harness {verb} {shlex.quote((folder / 'rows' / row.filename).as_posix())}"


def images(view: View, row: Row, samples: Samples | None, amplified: bool) -> dict[str, Any] | None:
    """Return what the image viewer of a row shows, with what each target says of each image; None without strips."""
    if samples is None or not amplified:
        return None
    clean = view.board.frame.clean
    shown = [i for i in samples.indices if i < row.images]
    labels = clean.labels.array
    said = []
    for index in shown:
        answers = [
            {"target": name, "clean": int(outcome.clean.array[index]), "adv": int(outcome.adv.array[index])}
            for name, outcome in row.outcomes.items()
        ]
        label = int(labels[index])
        right = [a for a in answers if a["clean"] == label]
        fooled = sum(a["adv"] != label for a in right)
        said.append({"id": clean.ids[index], "label": label, "answers": answers, "right": len(right), "fooled": fooled})
    _, height, width = samples.shape
    strip = strip_name(row.filename)
    return {
        "count": len(samples.indices),
        "ratio": f"{width} / {height}",
        "small": max(width, height) < 64,
        "clean": f"../{FOLDER}/{CLEAN}",
        "adv": f"../{FOLDER}/{strip}",
        "difference": f"../{FOLDER}/difference-{strip}",
        "images": said,
    }


def seeds(line: Line) -> list[tuple[int, list[float] | None]]:
    """Return (seed, [rate, low, high]) of each seed alone, over the common targets counted together."""
    made = []
    used = line.common_weights > 0
    for seed, wrong in zip(line.seeds, line.wrong, strict=True):
        right = line.correct[used]
        made.append((seed, in_percent(proportion(int((wrong[used] * right).sum()), int(right.sum())))))
    return made
