"""Success that does not depend on the substitute is no transfer: seen through, whichever way it is hidden."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.records.rows import read_rows
from harness.sandbox.changes import Change, apply
from harness.submit import controls
from harness.submit.add import add
from harness.submit.controls import against, held_back, move, noisy
from harness.submit.verify import verify
from harness.suites.suite import Hidden, load
from tests.harness.submit import cheats, stage
from tests.harness.submit.conftest import Scene
from zoo import registry
from zoo.errors import UserError
from zoo.loading.load import load_entry

pytestmark = pytest.mark.usefixtures("one_sandbox")
N = 20


def _recognised() -> str:
    images, labels = cheats.digits(N)
    net = load_entry(registry.load()["digits-vgg"])
    digests = []
    with torch.no_grad():
        for start in (0, 10):
            logits = net(images[start : start + 10].float() / 255)
            digests.append(hashlib.sha256(logits.numpy().round(3).tobytes()).hexdigest())
    return cheats.table(images, labels) + cheats.where_recognised(" ".join(digests))


CHEATS: dict[str, tuple[Callable[[], str], str]] = {
    "a table of perturbations, by a hash of the image": (
        lambda: cheats.table(*cheats.digits(N)) + cheats.ALWAYS,
        "does not depend on the substitute",
    ),
    "a table of perturbations, by likeness": (
        lambda: cheats.nearest(*cheats.digits(N)) + cheats.ALWAYS,
        "does not depend on the substitute",
    ),
    "a table that hides from substitutes that are wrong": (
        lambda: cheats.table(*cheats.digits(N)) + cheats.WHERE_RIGHT,
        "does not depend on the substitute",
    ),
    "a target's weights in the code": (
        lambda: cheats.target_inside() + cheats.ALWAYS.replace("known(x)", "known(x, y, eps)"),
        "does not depend on the substitute",
    ),
    "a table that is used on the very substitute alone": (_recognised, "depends on the exact images or weights"),
}


QUICK = ("a table of perturbations, by a hash of the image", "a table that is used on the very substitute alone")


@pytest.mark.parametrize(
    ("code", "reason"),
    [pytest.param(*case, id=name, marks=() if name in QUICK else pytest.mark.slow) for name, case in CHEATS.items()],
)
def test_success_without_the_substitute_is_refused(scene: Scene, tmp_path: Path, code: Callable[[], str], reason: str) -> None:
    board = scene.copy_board(tmp_path)
    before = stage.trace(board)
    bundle = stage.bundle(tmp_path, scene.suite, "cheat", code())
    with pytest.raises(UserError, match=reason):
        add(bundle, board, suite=scene.suite, walls=stage.WALLS)
    assert stage.trace(board) == before


@pytest.mark.slow
def test_without_its_controls_a_cheat_would_be_first(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = stage.bundle(tmp_path, scene.suite, "cheat", CHEATS["a table of perturbations, by a hash of the image"][0]())
    board = scene.copy_board(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(controls, "against", lambda *figures: "")
        (path,) = add(bundle, board, suite=scene.suite, walls=stage.WALLS).written
    found = verify(path, 1.0, walls=stage.WALLS)
    assert "no transfer" in [f.verdict for f in found.findings], found.findings
    assert not found.holds
    rows = {row.attack: row.submission.controls for row in read_rows(path.parent.parent) if row.submission}
    assert rows["cheat"] is not None and rows["honest"] is not None
    assert rows["cheat"].success > rows["honest"].success
    assert min(rows["cheat"].decoys) > 0.8 * rows["cheat"].success
    assert rows["cheat"].moved < 0.3 * rows["cheat"].success


def test_an_honest_row_shows_its_controls(scene: Scene) -> None:
    (row,) = read_rows(scene.board / "tiny" / "v1")
    assert row.submission is not None
    figures = row.submission.controls
    assert figures is not None
    assert figures.images == N and figures.hidden is None and len(figures.decoys) == 2


def _rates(mean: float, n: int = 100) -> np.ndarray:
    made = np.zeros(n)
    made[: round(mean * n)] = 1
    return made


@pytest.mark.parametrize(
    ("decoy", "moved", "hidden", "word"),
    [
        (0.03, 0.54, 0.54, ""),
        (0.08, 0.50, 0.45, ""),
        (0.54, 0.54, 0.54, "substitute"),
        (0.30, 0.54, None, "substitute"),
        (0.03, 0.02, None, "exact images"),
        (0.03, 0.30, None, "exact images"),
        (0.03, 0.54, 0.10, "held back"),
    ],
)
def test_the_rule_of_the_controls(decoy: float, moved: float, hidden: float | None, word: str) -> None:
    unseen = None if hidden is None else _rates(hidden)
    found = against(_rates(0.54), _rates(0.02), [_rates(0.02), _rates(decoy)], _rates(moved), unseen)
    assert (word in found) if word else found == ""


def test_weak_attacks_are_not_taken_for_cheats() -> None:
    assert against(_rates(0.06), _rates(0.05), [_rates(0.06)], _rates(0.05), None) == ""


def test_moved_images_move_by_one_level_and_stay_bytes() -> None:
    images = torch.tensor([0, 1, 254, 255] * 64, dtype=torch.uint8).view(1, 1, 16, 16)
    moved = move(images, 0)
    assert set((moved.int() - images.int()).abs().flatten().tolist()) == {1}
    assert torch.equal(moved, move(images, 0)) and not torch.equal(moved, move(images, 1))


def test_noise_uses_the_whole_budget_in_squares() -> None:
    images = torch.full((2, 1, 6, 6), 128, dtype=torch.uint8)
    found = noisy(images, 32, 4, 0).int() - 128
    assert set(found.abs().flatten().tolist()) == {32}
    assert (found[:, :, :4, :4] == found[:, :, :1, :1]).all()


@pytest.mark.parametrize("name", ["digits-vgg", "digits-resnet14-2bit-qaa", "digits-mobilenet", "digits-nin-3bit"])
def test_a_decoy_is_right_about_the_sample_and_another_network(name: str) -> None:
    images, labels = cheats.digits(40)
    entry, logits = registry.load()[name], []
    for change in (None, Change("shuffle", 1, range(40)), Change("sign", 2, range(40)), Change("nudge", 3)):
        net = load_entry(entry)
        if change is not None:
            apply(net, change, images, labels)
        with torch.no_grad():
            logits.append(net(images.float() / 255))
    right = [float((found.argmax(1) == labels).float().mean()) for found in logits]
    assert min(right) >= 0.6, right
    agree = [float(torch.nn.functional.cosine_similarity(logits[0], found).median()) for found in logits[1:]]
    assert agree[2] > 0.99 and max(agree[:2]) < 0.99, agree


def test_hidden_images_are_beyond_the_suites_own_and_known_by_their_seed(scene: Scene) -> None:
    seed = "a seed that maintainers keep"
    spec = Hidden(images=30, seed_sha256=hashlib.sha256(seed.encode()).hexdigest())
    suite = scene.suite.model_copy(update={"hidden": spec})
    assert suite.canonical() == scene.suite.canonical()
    found = held_back(suite, seed)
    assert found is not None and len(found) == 30
    own, everything = set(cheats.load("digits").head(N).ids), set(cheats.load("digits").ids)
    assert not own & set(found.ids) and set(found.ids) < everything
    assert held_back(suite, None) is None
    with pytest.raises(UserError, match="not the seed"):
        held_back(suite, "a guess")
    with pytest.raises(UserError, match="holds no images back"):
        held_back(scene.suite, seed)


def test_a_table_fails_on_hidden_images(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seed = "a seed that maintainers keep"
    text = (stage.SUITE + f"hidden: {{images: 20, seed_sha256: {hashlib.sha256(seed.encode()).hexdigest()}}}\n")
    (tmp_path / "hiding.yaml").write_text(text, encoding="utf-8")
    suite = load(str(tmp_path / "hiding.yaml"))
    honest = add(scene.honest, tmp_path / "boards", suite=suite, walls=stage.WALLS, hidden_seed=seed)
    row = next(iter(read_rows(honest.folder)))
    assert row.submission is not None and row.submission.controls is not None
    assert row.submission.controls.hidden is not None
    bundle = stage.bundle(tmp_path, suite, "cheat", CHEATS["a table of perturbations, by a hash of the image"][0]())
    monkeypatch.setattr(controls, "one_sided", lambda differences: 1.0)
    with pytest.raises(UserError, match="on the images that everybody has alone"):
        add(bundle, tmp_path / "boards", suite=suite, walls=stage.WALLS, hidden_seed=seed)
