"""Honest submissions from folder to board: tiers of evidence, verification, PNG files, withdrawal."""

from __future__ import annotations

import json
import struct
import time
import zlib
from pathlib import Path

import pytest
from PIL import Image

from harness.board import check as check_board
from harness.records.rows import Outcome, Predictions, read_clean, read_row, read_rows, write_row
from harness.submit import disputes, images, make, measure
from harness.submit.add import add, take_off
from harness.submit.claim import open_claim
from harness.submit.conformance import conformance
from harness.submit.pack import pack
from harness.submit.verify import sample, verify
from tests.harness.submit import stage
from tests.harness.submit.conftest import Scene
from zoo.errors import UserError

pytestmark = pytest.mark.usefixtures("one_sandbox")


def board_of(place: Path) -> Path:
    return place / "tiny" / "v1"


def test_a_regenerated_row_says_where_it_comes_from(scene: Scene) -> None:
    (row,) = read_rows(board_of(scene.board))
    assert row.evidence == "regenerated"
    assert row.submission is not None
    assert row.submission.authors == ("A. Uthor",)
    assert row.submission.isolation is not None
    assert "seccomp" in row.submission.isolation
    assert row.submission.source_sha256 == open_claim(scene.honest, "cpu", (), scene.suite).source.sha256
    assert (row.cost.forwards, row.cost.backwards) == (1, 1)
    assert len(row.outcomes) == 3
    assert check_board(board_of(scene.board)) == []


def test_reasons_of_missing_cells_come_from_a_fixed_list(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = measure.absent_models
    monkeypatch.setattr(measure, "absent_models", lambda w, names: {**found(w, names), "digits-nin": "<b>/home/me</b>: gone"})
    row = read_row(add(scene.pictures, tmp_path / "boards", suite=scene.suite).written[0])
    assert row.failures == {"digits-nin": measure.ABSENT}


def test_images_are_rescored(scene: Scene, tmp_path: Path) -> None:
    added = add(scene.pictures, scene.copy_board(tmp_path), suite=scene.suite)
    assert added.evidence == "rescored"
    row = read_row(added.written[0])
    assert row.filename.endswith("--rescored.json")
    assert row.submission is not None
    assert row.submission.source_sha256 is None
    assert check_board(added.folder) == []


def test_a_bundle_holds_code_and_images_and_no_rows(scene: Scene) -> None:
    parts = stage.unpack(scene.honest)
    assert sorted(parts) == [stage.PART, "manifest.json", "source/attack.py", "source/submission.yaml"]
    assert sorted(json.loads(parts["manifest.json"])["jobs"][0]) == ["seed", "substitute", "substitute_sha256"]


def test_a_bundle_may_be_a_folder_of_code_alone(scene: Scene, tmp_path: Path) -> None:
    source = stage.folder(tmp_path, "second", stage.SIGN.replace("eps / 2", "eps / 5"))
    place = tmp_path / "second--tiny"
    pack(source, scene.suite, place, walls=stage.WALLS, scored=False, with_images=False)
    assert not (place / "images").exists()
    added = add(place, tmp_path / "boards", suite=scene.suite, walls=stage.WALLS)
    assert added.evidence == "regenerated"
    assert verify(place, 1.0, walls=stage.WALLS, suite=scene.suite).holds
    with pytest.raises(UserError, match="is there already"):
        pack(source, scene.suite, place, walls=stage.WALLS, scored=False)


def test_a_mere_claim_blocks_nobody(scene: Scene, tmp_path: Path) -> None:
    boards = scene.copy_board(tmp_path)
    (row,) = read_rows(board_of(boards))
    taken = row.model_copy(update={"attack": "pictures", "evidence": "claimed", "composition": "Submission('pictures', images)"})
    write_row(board_of(boards), taken)
    added = add(scene.pictures, boards, suite=scene.suite)
    assert added.withdrawn == ["digits-vgg--pictures--s0--claimed.json"]
    assert check_board(added.folder) == []


def test_without_isolation_the_row_says_so(scene: Scene, tmp_path: Path) -> None:
    added = add(scene.honest, tmp_path / "boards", suite=scene.suite, walls=stage.Walls("none", stage.WALLS.limits))
    submission = read_row(added.written[0]).submission
    assert submission is not None
    assert submission.isolation is not None
    assert submission.isolation.startswith("none")


def test_a_bundle_and_its_row_verify(scene: Scene, tmp_path: Path) -> None:
    found = verify(scene.honest, 1.0, seed=0, walls=stage.WALLS, suite=scene.suite)
    assert [f.verdict for f in found.findings] == ["identical"]
    (path,) = (board_of(scene.copy_board(tmp_path)) / "rows").glob("*.json")
    found = verify(path, 0.1, seed=0, walls=stage.WALLS)
    assert found.holds
    assert [f.verdict for f in found.findings] == ["same outcomes"]


def forged(board: Path, share: float) -> Path:
    """Make a share of a row's outcomes wrong where they are right, a success that nobody had; return the row's path."""
    (row,) = read_rows(board)
    labels = read_clean(board).labels.array
    outcomes = {}
    for target, outcome in row.outcomes.items():
        adv = outcome.adv.array.copy()
        right = (adv == labels).nonzero()[0]
        chosen = right[: max(1, round(share * len(labels)))]
        adv[chosen] = (labels[chosen] + 1) % 10
        outcomes[target] = Outcome(clean=outcome.clean, adv=Predictions(adv))
    return write_row(board, row.model_copy(update={"outcomes": outcomes}))


@pytest.mark.parametrize("share", [0.1, pytest.param(0.15, marks=pytest.mark.slow), pytest.param(1.0, marks=pytest.mark.slow)])
def test_a_row_that_lies_does_not_verify_and_says_so_from_then_on(scene: Scene, tmp_path: Path, share: float) -> None:
    board = board_of(scene.copy_board(tmp_path))
    path = forged(board, share)
    found = verify(path, 1.0, seed=1, walls=stage.WALLS)
    assert not found.holds
    assert found.findings[0].verdict == "different"
    (dispute,) = disputes.standing(read_row(path))
    assert (dispute.seed, dispute.images) == (1, 20)
    assert check_board(board) == []


def test_a_dispute_stays_until_somebody_clears_it_by_name(scene: Scene, tmp_path: Path) -> None:
    board = board_of(scene.copy_board(tmp_path))
    (honest,) = read_rows(board)
    path = forged(board, 0.2)
    assert not verify(path, 1.0, seed=1, walls=stage.WALLS).holds
    submission = read_row(path).submission
    assert submission is not None
    write_row(board, honest.model_copy(update={"submission": submission}))  # the numbers are mended; the finding is not forgotten
    found = verify(path, 1.0, seed=2, walls=stage.WALLS)
    assert [f.verdict for f in found.findings] == ["identical", "disputed"]
    assert not found.holds
    assert "disputed" in (board / "board.md").read_text()
    with pytest.raises(UserError, match="--by: holds"):
        disputes.clear(path, "<b>me</b>", "because")
    assert disputes.clear(path, "A. Maintainer", "the numbers were mended") == 1
    assert verify(path, 1.0, seed=3, walls=stage.WALLS).holds
    kept = read_row(path).submission
    assert kept is not None and kept.disputes[0].cleared is not None
    assert kept.disputes[0].cleared.by == "A. Maintainer"
    with pytest.raises(UserError, match="nothing stands against"):
        disputes.clear(path, "A. Maintainer", "again")


def test_every_draw_is_logged(scene: Scene, tmp_path: Path) -> None:
    board = board_of(scene.copy_board(tmp_path))
    path = forged(board, 0.2)
    for seed in (1, 2):
        verify(path, 0.5, seed=seed, walls=stage.WALLS)
    assert [(d.row, d.seed, d.images) for d in disputes.draws(board)] == [(path.name, 1, 10), (path.name, 2, 10)]


def test_a_row_whose_code_was_changed_is_refused(scene: Scene, tmp_path: Path) -> None:
    board = board_of(scene.copy_board(tmp_path))
    source = board / "submissions" / "honest" / "attack.py"
    source.write_text(source.read_text() + "\n# changed\n")
    (path,) = (board / "rows").glob("*.json")
    with pytest.raises(UserError, match="not the code that the row was made by"):
        verify(path, 0.1, walls=stage.WALLS)


def test_images_without_code_verify_by_their_outcomes_only(scene: Scene) -> None:
    found = verify(scene.pictures, 0.5, suite=scene.suite)
    assert [f.verdict for f in found.findings] == ["not verifiable"]
    assert not found.holds


def test_the_sample_is_random_but_repeatable(scene: Scene) -> None:
    workspace = open_claim(scene.honest, "cpu", (), scene.suite).workspace
    assert sample(workspace, 1.0, 0) == [(0, 10), (10, 20)]
    assert len(sample(workspace, 0.01, 0)) == 1
    assert {tuple(sample(workspace, 0.1, seed)) for seed in range(20)} == {((0, 10),), ((10, 20),)}


def test_withdrawing_leaves_a_record_and_a_sound_board(scene: Scene, tmp_path: Path) -> None:
    boards = scene.copy_board(tmp_path)
    add(scene.pictures, boards, suite=scene.suite)
    assert take_off(board_of(boards), "honest") == ["digits-vgg--honest--s0.json"]
    assert check_board(board_of(boards)) == []
    assert not (board_of(boards) / "submissions" / "honest").exists()
    with pytest.raises(UserError, match="has no submission 'honest'"):
        take_off(board_of(boards), "honest")
    with pytest.raises(UserError, match="was withdrawn from a board, and an id is never reused"):
        add(scene.honest, boards, suite=scene.suite, walls=stage.WALLS)


def png_folder(scene: Scene, tmp_path: Path) -> Path:
    folder = stage.folder(tmp_path, "drawn", code=None)
    pixels, ids = stage.images(stage.unpack(scene.pictures))
    place = folder / "images" / "digits-vgg--s0"
    place.mkdir(parents=True)
    for image, name in zip(pixels, ids, strict=True):
        Image.fromarray(image[0].numpy()).save(place / f"{name}.png")
    return folder


def test_png_files_are_the_same_images(scene: Scene, tmp_path: Path) -> None:
    packed = pack(png_folder(scene, tmp_path), scene.suite, tmp_path / "b.zip", scored=False)
    assert stage.images(stage.unpack(packed.path))[0].equal(stage.images(stage.unpack(scene.pictures))[0])


BOMB = b"x\0\0" + zlib.compress(bytes(2**25), 9)


def _write_png(path: Path, width: int, height: int, *chunks: tuple[bytes, bytes]) -> None:
    """Write a PNG by hand: a grey image of a size of its own choice, with chunks that nobody asked for."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(17 * 16))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    made = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(made))


def _rewrite(image: Image.Image, path: Path) -> None:
    path.unlink()
    image.save(path, "PNG")


@pytest.mark.parametrize(
    ("tamper", "reason"),
    [
        pytest.param(lambda p: _rewrite(Image.new("L", (20000, 20000)), p), "larger than|20000x20000 pixels", id="PNG bomb"),
        pytest.param(lambda p: _write_png(p, 60_000, 60_000), "not a whole PNG|pixels, it must be", id="PNG bomb by its header"),
        pytest.param(lambda p: _write_png(p, 16, 16, (b"zTXt", BOMB)), "not a whole PNG|larger than", id="text bomb"),
        pytest.param(lambda p: _write_png(p, 16, 16, (b"iCCP", BOMB)), "not a whole PNG|larger than", id="ICC bomb"),
        pytest.param(lambda p: _rewrite(Image.new("RGB", (16, 16)), p), "it is of mode RGB", id="wrong mode"),
        pytest.param(lambda p: _rewrite(Image.new("L", (17, 16)), p), "17x16 pixels, it must be 16x16", id="wrong size"),
        pytest.param(lambda p: Image.new("L", (16, 16)).save(p, "JPEG"), "not a whole PNG", id="a JPEG"),
        pytest.param(lambda p: p.write_bytes(p.read_bytes()[:60]), "not a whole PNG", id="cut short"),
        pytest.param(lambda p: p.write_bytes(b"x" * 10**6), "larger than the", id="too large"),
        pytest.param(lambda p: p.unlink(), "is missing", id="missing"),
        pytest.param(lambda p: p.rename(p.with_name("other.png")), "no image of this suite", id="foreign"),
        pytest.param(lambda p: p.rename(p.with_suffix(".pkl")), "has no place among the images", id="a pickle"),
        pytest.param(lambda p: p.with_name(f"{p.stem.upper()}.png").write_bytes(b""), "occurs twice", id="twice"),
        pytest.param(lambda p: (p.unlink(), p.symlink_to("/etc/passwd")), "is a link", id="a link"),
        pytest.param(
            lambda p: Image.new("L", (16, 16)).save(p, "PNG", save_all=True, append_images=[Image.new("L", (16, 16), 9)]),
            "it must be one",
            id="animated",
        ),
    ],
)
def test_hostile_png_files_are_stopped(scene: Scene, tmp_path: Path, tamper: object, reason: str) -> None:
    folder = png_folder(scene, tmp_path)
    assert callable(tamper)
    tamper(sorted((folder / "images" / "digits-vgg--s0").glob("*.png"))[3])
    with pytest.raises(UserError, match=reason):
        pack(folder, scene.suite, tmp_path / "b.zip", scored=False)
    assert not (tmp_path / "b.zip").exists()


CONFORMING = {
    "the images depend on their batch-mates": (
        "return (x + eps * (x - x.mean(0)).sign()).clamp(0, 1)",
        "other batch-mates, same image",
        "depends on its batch-mates",
    ),
    "time decides": (
        "import time\n    torch.manual_seed(time.time_ns() % 2**31)\n"
        "    return (x + eps * torch.randn_like(x).sign()).clamp(0, 1)",
        "same seed, same bytes",
        "draw from `rng`",
    ),
    "the sign is wrong": (
        "z = x.clone().requires_grad_()\n"
        "    torch.nn.functional.cross_entropy(model(z), y).backward()\n"
        "    return (x - eps / 32 * z.grad.sign()).clamp(0, 1)",
        "the loss rises",
        "is the gradient's sign right",
    ),
    "the ball is left": ("return (x + 2 * eps).clamp(0, 1)", "images", "the budget is 32"),
}


@pytest.mark.parametrize(("body", "name", "reason"), [pytest.param(*case, id=name) for name, case in CONFORMING.items()])
def test_check_says_what_fails_and_why(scene: Scene, tmp_path: Path, body: str, name: str, reason: str) -> None:
    code = f"import torch\ndef attack(model, x, y, *, eps, steps, rng):\n    {body}\n"
    found = list(conformance(stage.folder(tmp_path, "odd", code), stage.suite(tmp_path), stage.WALLS))
    failed = [check for check in found if not check.passed]
    assert failed[0].name == f"digits-vgg: {name}"
    assert reason in failed[0].detail


def test_an_honest_attack_passes_every_check(scene: Scene, tmp_path: Path) -> None:
    found = list(conformance(stage.folder(tmp_path, "fine"), scene.suite, stage.WALLS))
    assert all(check.passed for check in found), found


def test_a_rewritten_row_is_found_by_the_board(scene: Scene, tmp_path: Path) -> None:
    board = board_of(scene.copy_board(tmp_path))
    (row,) = read_rows(board)
    path = board / "rows" / row.filename
    path.write_text(row.model_copy(update={"max_level": 1}).model_dump_json(indent=1) + "\n")
    assert "was changed after it was recorded" in check_board(board)[0]
    write_row(board, row)
    assert check_board(board) == []


@pytest.mark.parametrize("failure", [NotImplementedError("odd"), MemoryError(), KeyError("x"), OverflowError("y")])
def test_a_decoder_that_fails_in_any_way_is_a_bad_file(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise failure

    monkeypatch.setattr(Image, "open", fail)
    path = tmp_path / "x.png"
    with pytest.raises(UserError, match="not a whole PNG"):
        images._png(path.read_bytes() if path.exists() else b"", 1, 16, 16, path)


def test_every_order_has_a_sandbox_of_its_own(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    shared = make.Sandbox

    class Counted(shared):  # type: ignore[misc, valid-type]
        def __enter__(self) -> object:
            opened.append(self)
            return super().__enter__()

    monkeypatch.setattr(make, "Sandbox", Counted)
    add(scene.honest, tmp_path / "boards", suite=scene.suite, walls=stage.WALLS)
    assert len(opened) == len({id(each) for each in opened}) == 4  # the row, two decoys, moved images


def test_a_submission_has_its_time_in_all(scene: Scene, tmp_path: Path) -> None:
    walls = stage.Walls("auto", stage.WALLS.limits, total_seconds=0.001)
    began = time.perf_counter()
    with pytest.raises(UserError, match="the time for a submission"):
        add(scene.honest, tmp_path / "boards", suite=scene.suite, walls=walls)
    assert time.perf_counter() - began < 120
    assert not (tmp_path / "boards").exists()
