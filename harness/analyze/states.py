"""States held fixed: how much of a substitute's success is its alternation (Table IX)."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness.analyze.study import Row, Study
from harness.board import Board, load
from harness.board.compare import compare_reported
from harness.board.gains import ALL
from harness.board.lines import family_means
from harness.board.statistics import Rate
from harness.runs.runner import run
from harness.runs.unfinished import Request
from harness.suites.suite import Pair, SubstituteSpec, Suite
from zoo.errors import UserError


def held(study: Study, names: Sequence[str]) -> tuple[Suite, dict[str, str]]:
    """Return the suite with each alternating substitute in each of its states alone, and what each substitute is.

    A substitute is paired with its own fixed states, its baseline and its controls.

    Raises:
        UserError: none of the substitutes alternates.
    """
    suite, registry = study.suite, study.workspace.registry
    specs: dict[str, SubstituteSpec] = {}
    words: dict[str, str] = {}
    pairs = []
    for name in names or [spec.name for spec in suite.substitutes]:
        known = next((s for s in suite.substitutes if s.name == name), SubstituteSpec(name=name, models=(name,)))
        alternation = registry[known.models[0]].alternation if len(known.models) == 1 else None
        if known.states is not None or alternation is None or len(set(alternation.states)) < 2:
            continue
        specs[name], words[name] = known, "alternating"
        fixed = []
        for state in dict.fromkeys(alternation.states):
            own = f"{name}.{state}"
            specs[own] = SubstituteSpec(name=own, models=known.models, states=(state,))
            words[own] = f"{'low-bit' if state == 'wa' else 'full-precision'} activations alone ({state})"
            fixed.append(own)
        pair = next((p for p in suite.pairs if p.substitute == name), None)
        others = [other for other in ((pair.baseline, *pair.controls) if pair else ()) if other not in specs]
        for other in others:
            specs[other], words[other] = suite.substitute(other), "baseline" if pair and other == pair.baseline else "control"
        first, *rest = (*others, *fixed)
        pairs.append(Pair(substitute=name, baseline=first, controls=tuple(rest)))
    if not pairs:
        raise UserError(f"no substitute of {suite.name} alternates its states; name one with --model")
    update = {"substitutes": tuple(specs.values()), "pairs": tuple(pairs), "reported": suite.reported}
    reported = tuple(f for f in suite.reported if f.substitute in specs)
    return suite.model_copy(update={**update, "reported": reported}), words


def analyze(study: Study, names: Sequence[str], attack: str = "mim") -> dict[str, list[Row]]:
    """Return the rates of every state, the alternation's gain over each, and the paper's figures beside ours.

    It is a run of the suite, so it shares the cache of other runs and goes on where it stopped.
    """
    suite, words = held(study, names)
    with tempfile.TemporaryDirectory() as scratch:
        request = Request(
            suite="",
            attacks=(attack,),
            seeds=(study.seed,),
            limit=study.images,
            device=study.device,
            overlays=study.overlays,
            workers=1,
        )
        board = load(run(suite, request, Path(scratch)).folder)
        return {"rates": _rates(board, words), "gains": _gains(board), "reported": _reported(board)}


def _rates(board: Board, words: dict[str, str]) -> list[Row]:
    made = []
    for line in board.lines:
        said = {"substitute": line.substitute, "state": words[line.substitute], "attack": line.attack}
        made.append({**said, "targets": "all families", **_percent(line.own)})
        for family, rate in family_means(line.asr, board.frame, line.usable).items():
            made.append({**said, "targets": family, **_percent(rate)})
    return made


def _percent(rate: Rate | None) -> Row:
    names = ("asr", "low", "high")
    values = [None] * 3 if rate is None else [100 * v for v in (rate.value, rate.low, rate.high)]
    return {**dict(zip(names, values, strict=True)), "n": 0 if rate is None else rate.n}


def _gains(board: Board) -> list[Row]:
    families = len(board.frame.members)
    return [
        {
            "substitute": g.substitute,
            "against": g.against,
            "attack": g.attack,
            "gain": 100 * g.gain.value,
            "low": 100 * g.gain.low,
            "high": 100 * g.gain.high,
            "p_holm": g.p_holm,
        }
        for g in board.gains
        if g.family == ALL or families == 1
    ]


def _reported(board: Board) -> list[Row]:
    return [
        {
            "substitute": f.substitute,
            "attack": f.attack,
            "target": f.target,
            "reported": 100 * f.reported,
            "error_rate": 100 * f.error.value,
        }
        for f in compare_reported(board.frame, board.lines)
        if f.error is not None
    ]

