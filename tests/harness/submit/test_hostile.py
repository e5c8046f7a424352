"""Hostile submissions: each is stopped with a clear reason, and the board has no trace of it."""

from __future__ import annotations

import json
import os
import stat
import struct
import zipfile
import zlib
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.sandbox import Limits
from harness.submit.add import add
from harness.submit.make import Walls
from tests.harness.submit import stage
from tests.harness.submit.conftest import Scene
from zoo.errors import UserError

Parts = dict[str, bytes]
Tamper = Callable[[Parts], dict[str, Any] | None]
"""Changes the parts of a bundle of images in place; returns changes of the manifest."""


def stopped(scene: Scene, tmp_path: Path, path: Path, reason: str, **options: Any) -> None:
    """Assert that adding a bundle fails for the reason, in one readable line, and leaves the board as it was."""
    board = scene.copy_board(tmp_path)
    before = stage.trace(board)
    with pytest.raises(UserError, match=reason) as caught:
        add(path, board, suite=scene.suite, walls=Walls("auto", Limits(seconds=5, memory=256 * 2**20)), **options)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert stage.trace(board) == before


def with_images(change: Callable[[torch.Tensor, list[str]], bytes]) -> Tamper:
    """Return a tampering that replaces the images."""

    def tamper(parts: Parts) -> None:
        parts[stage.PART] = change(*stage.images(parts))

    return tamper


def with_yaml(change: Callable[[str], str]) -> Tamper:
    """Return a tampering that rewrites submission.yaml."""

    def tamper(parts: Parts) -> None:
        parts["source/submission.yaml"] = change(parts["source/submission.yaml"].decode()).encode()

    return tamper


def renamed(name: str) -> Tamper:
    """Return a tampering that gives the submission another name."""

    def tamper(parts: Parts) -> dict[str, Any]:
        with_yaml(lambda text: text.replace("name: pictures", f"name: {name}", 1))(parts)
        return {"submission": name}

    return tamper


def with_job(**changes: Any) -> Tamper:
    """Return a tampering that changes what the manifest says of the job."""

    def tamper(parts: Parts) -> dict[str, Any]:
        (job,) = json.loads(parts["manifest.json"])["jobs"]
        return {"jobs": [{**job, **changes}]}

    return tamper


def _one_level(images: torch.Tensor, ids: list[str]) -> bytes:
    from zoo.data import load

    clean = load("digits").images[: len(images)]
    wrong = images.clone().view(len(images), -1)
    place = int((clean[3].flatten() < 200).nonzero()[0])
    wrong[3, place] = clean[3].flatten()[place] + 33
    return stage.encoded(wrong.view_as(images), ids)


def _swapped(images: torch.Tensor, ids: list[str]) -> bytes:
    return stage.encoded(images[[1, 0, *range(2, len(images))]], ids)


def _clean(images: torch.Tensor, ids: list[str]) -> bytes:
    from zoo.data import load

    return stage.encoded(load("digits").images[: len(images)], ids)


def _header(text: str, body: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text)) + text.encode() + body


IMAGES: dict[str, tuple[Tamper, str]] = {
    "budget broken by one level": (with_images(_one_level), "image 'digits-.*' differs .* by 33 levels, the budget is 32"),
    "one image too few": (with_images(lambda x, ids: stage.encoded(x[:-1], ids)), r"are \[19, 1, 16, 16\], they must be \[20"),
    "one image too many": (with_images(lambda x, ids: stage.encoded(torch.cat([x, x[:1]]), ids)), r"are \[21, 1, 16, 16\]"),
    "wrong size": (with_images(lambda x, ids: stage.encoded(x[..., :8], ids)), r"are \[20, 1, 16, 8\]"),
    "channels last": (with_images(lambda x, ids: stage.encoded(x.permute(0, 2, 3, 1), ids)), r"are \[20, 16, 16, 1\]"),
    "float images": (with_images(lambda x, ids: stage.encoded(x.float() / 255, ids)), "the images are F32, they must be U8"),
    "16-bit images": (with_images(lambda x, ids: stage.encoded(x.short(), ids)), "the images are I16"),
    "swapped images": (with_images(_swapped), "the images are not in the suite's order"),
    "ids in another order": (with_images(lambda x, ids: stage.encoded(x, ids[::-1])), "keep the suite's order"),
    "duplicated ids": (with_images(lambda x, ids: stage.encoded(x, [ids[1], *ids[1:]])), "occurs twice"),
    "no ids": (with_images(lambda x, ids: stage.encoded(x, None)), "its metadata lacks `ids`"),
    "ids of another suite": (with_images(lambda x, ids: stage.encoded(x, list("abcdefghijklmnopqrst"))), "no image of this"),
    "the clean images": (with_images(_clean), "the images are the clean ones"),
    "a pickle": (with_images(lambda x, ids: stage.pickled({"images": x}, new_format=False)), "a pickle .*which could run code"),
    "a zipped pickle": (with_images(lambda x, ids: stage.pickled({"images": x})), "a pickle .*which could run code"),
    "cut short": (with_images(lambda x, ids: stage.encoded(x, ids)[:-100]), "holds 5020 bytes of images where 5120 belong"),
    "something behind": (with_images(lambda x, ids: stage.encoded(x, ids) + b"x" * 9), "holds 5129 bytes of images where 5120"),
    "a header bomb": (with_images(lambda x, ids: struct.pack("<Q", 2**60) + b"{}"), "its header would take"),
    "a nested header": (with_images(lambda x, ids: _header("[" * 100_000)), "no safetensors file"),
    "a key twice": (with_images(lambda x, ids: _header('{"images":{},"images":{}}')), "a key occurs twice"),
    "a lying shape": (
        with_images(
            lambda x, ids: _header('{"images":{"dtype":"U8","shape":[1099511627776],"data_offsets":[0,1099511627776]}}', b"x")
        ),
        "they must be",
    ),
    "lying offsets": (
        with_images(
            lambda x, ids: _header('{"images":{"dtype":"U8","shape":[20,1,16,16],"data_offsets":[-9,5111]}}', bytes(5120))
        ),
        "cut short or padded",
    ),
    "a second tensor": (with_images(lambda x, ids: stage.encoded(x, ids, key="weights")), "one tensor called 'images'"),
    "empty": (with_images(lambda x, ids: b""), "no safetensors file"),
}


def _alias_bomb(text: str) -> str:
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)]
    return text + "\n".join(lines) + "\n"


WORDS: dict[str, tuple[Tamper, str]] = {
    "a YAML tag": (with_yaml(lambda t: t + "paper: !!python/object/apply:os.system [id]\n"), "could not determine a constructor"),
    "a YAML bomb": (with_yaml(_alias_bomb), "an alias"),
    "a nested YAML": (with_yaml(lambda t: t + "paper: " + "[" * 5000 + "]" * 5000), "nested too deeply|YAML"),
    "a key twice": (with_yaml(lambda t: t + "name: other\n"), "duplicate key 'name'"),
    "an unknown key": (with_yaml(lambda t: t + "score: 100\n"), "score: Extra inputs"),
    "a huge YAML": (with_yaml(lambda t: t + "#" * 300_000), "more than the 262144"),
    "binary YAML": (with_yaml(lambda t: t + "\x00"), "YAML|special characters"),
    "an author who steers the terminal": (with_yaml(lambda t: t.replace("A. Uthor", '"\\e[2J"')), "a table cannot show"),
    "a title of HTML": (with_yaml(lambda t: t.replace("title: pictures", "title: <script>x</script>")), "LESS-THAN SIGN"),
    "a title that turns text around": (with_yaml(lambda t: t.replace("title: pictures", 'title: "a\\u202eb"')), "RIGHT-TO-LEFT"),
    "settings of the suite": (with_yaml(lambda t: t + "settings: {eps: 1.0}\n"), "settings name 'eps', which the suite decides"),
    "a paper that is a script": (with_yaml(lambda t: t + "paper: 'javascript:alert(1)'\n"), "paper"),
    "the name of a preset": (renamed("mim"), "taken by an attack or model of the harness"),
    "the name of a model": (renamed("digits-vgg"), "taken by an attack or model of the harness"),
    "a name of other case": (renamed("MIM"), "capital letters"),
    "a name with a look-alike letter": (renamed("m\u0456m"), "CYRILLIC SMALL LETTER"),
    "a name with look-alike digits": (renamed("m1m"), "looks like 'mim'"),
    "a name with other separators": (renamed("m.i-m"), "looks like 'mim'"),
    "a name that leads out": (renamed("../../x"), "name"),
    "a name taken on this board": (renamed("honest"), "on this board with other code, settings or authors"),
    "a name like one on this board": (renamed("h0nest"), "looks like 'honest', an attack on this board"),
    "another name in the manifest": (lambda parts: {"submission": "other"}, "is called 'pictures', the manifest says 'other'"),
    "code in a submission of images": (lambda parts: parts.update({"source/attack.py": b"x"}), "kind is `images`"),
    "images of another suite": (lambda parts: {"suite": "digits-qnn"}, "made for digits-qnn v1, here is tiny v1"),
    "images for another version": (lambda parts: {"suite_version": 2}, "made for tiny v2"),
    "images for another budget": (lambda parts: {"inputs_sha256": "0" * 64}, "made from other images or settings"),
    "images of a part of the suite": (lambda parts: {"limit": 10}, "made from other images or settings|are .20, 1"),
    "more images than there are": (lambda parts: {"limit": 999}, "made from the first 999 images"),
    "on other weights": (with_job(substitute_sha256="0" * 64), "made on other weights of 'digits-vgg'"),
    "on a target": (with_job(substitute="digits-nin"), "no substitute 'digits-nin'|belongs to no job"),
    "on a substitute that is not listed": (with_job(substitute="digits-resnet14-2bit-qaa"), "belongs to no job|does not list"),
    "with a chosen seed": (with_job(seed=7), "belongs to no job|nobody picks seeds"),
    "a manifest that is no JSON": (lambda parts: parts.update({"manifest.json": b"x"}), "manifest.json"),
    "no code to regenerate from": (lambda parts: None, "holds no code to regenerate"),
}


def _tampered(scene: Scene, tmp_path: Path, tamper: Tamper, **options: Any) -> Path:
    parts = stage.unpack(scene.pictures)
    changes = tamper(parts) or {}
    if parts["manifest.json"] == b"x":
        with zipfile.ZipFile(tmp_path / "bundle.zip", "w") as archive:
            for name, data in parts.items():
                archive.writestr(name, data)
        return tmp_path / "bundle.zip"
    return stage.repack(parts, tmp_path / "bundle.zip", **changes, **options)


@pytest.mark.parametrize(("tamper", "reason"), [pytest.param(*case, id=name) for name, case in IMAGES.items()])
def test_hostile_images_are_stopped(scene: Scene, tmp_path: Path, tamper: Tamper, reason: str) -> None:
    stopped(scene, tmp_path, _tampered(scene, tmp_path, tamper), reason)


@pytest.mark.parametrize(("tamper", "reason"), [pytest.param(*case, id=name) for name, case in WORDS.items()])
def test_hostile_words_are_stopped(scene: Scene, tmp_path: Path, tamper: Tamper, reason: str) -> None:
    options: dict[str, Any] = {"evidence": "regenerated"} if "regenerate" in reason else {}
    stopped(scene, tmp_path, _tampered(scene, tmp_path, tamper), reason, **options)


def _zip(path: Path, members: list[tuple[zipfile.ZipInfo | str, bytes]], parts: Parts) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
        for member, data in members:
            archive.writestr(member, data)
    return path


def _link() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("images/link.safetensors")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info


ARCHIVES: dict[str, tuple[list[tuple[zipfile.ZipInfo | str, bytes]], str]] = {
    "path traversal": ([("../../evil.py", b"x")], "leads out of the bundle"),
    "traversal by backslashes": ([("..\\evil.py", b"x")], "leads out of the bundle"),
    "an absolute path": ([("/etc/cron.d/evil", b"x")], "leads out of the bundle"),
    "a drive": ([("C:evil.py", b"x")], "leads out of the bundle"),
    "a link": ([(_link(), b"/etc/passwd")], "is a link"),
    "a pickle beside": ([("images/x.pkl", b"x")], "has no place in a bundle"),
    "a name of other case": ([("Manifest.json", b"{}")], "has no place in a bundle"),
    "a name with a line break": ([("rows/a.json\n", b"{}")], "has no place in a bundle"),
    "a part that nobody names": ([("rows/a.json", b"{}")], "is not named in the manifest"),
    "thousands of parts": ([(f"rows/a{i}.json", b"") for i in range(1100)], "more than 1000 parts"),
}


@pytest.mark.parametrize(("members", "reason"), [pytest.param(*case, id=name) for name, case in ARCHIVES.items()])
def test_hostile_archives_are_stopped(scene: Scene, tmp_path: Path, members: Any, reason: str) -> None:
    stopped(scene, tmp_path, _zip(tmp_path / "bundle.zip", members, stage.unpack(scene.pictures)), reason)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_part_twice_is_stopped(scene: Scene, tmp_path: Path) -> None:
    parts = stage.unpack(scene.pictures)
    stopped(scene, tmp_path, _zip(tmp_path / "b.zip", [(stage.PART, b"x")], parts), "occurs twice")


def test_a_zip_bomb_is_stopped(scene: Scene, tmp_path: Path) -> None:
    parts = stage.unpack(scene.pictures)
    parts[stage.PART] = bytes(300 * 2**20)
    bomb = stage.repack(parts, tmp_path / "plain.zip")
    stopped(scene, tmp_path / "a", _zip(tmp_path / "bomb.zip", [], stage.unpack(bomb)), "more than the .* that it may have")


def test_a_zip_bomb_that_lies_about_its_size_is_stopped(scene: Scene, tmp_path: Path) -> None:
    parts = stage.unpack(scene.pictures)
    content = json.loads(parts["manifest.json"])
    parts[stage.PART] = bytes(64 * 2**20)
    parts["manifest.json"] = json.dumps(content).encode()  # still names the size and digest of the honest part
    stopped(scene, tmp_path, _zip(tmp_path / "bomb.zip", [], parts), "unpacks to more than")


def test_a_changed_part_is_stopped(scene: Scene, tmp_path: Path) -> None:
    parts = stage.unpack(scene.pictures)
    data = bytearray(parts[stage.PART])
    data[-1] ^= 1
    parts[stage.PART] = bytes(data)
    stopped(scene, tmp_path, _zip(tmp_path / "b.zip", [], parts), "is not what the manifest says")


def test_a_missing_part_is_stopped(scene: Scene, tmp_path: Path) -> None:
    parts = stage.unpack(scene.pictures)
    del parts[stage.PART]
    stopped(scene, tmp_path, _zip(tmp_path / "b.zip", [], parts), "named in the manifest but missing")


def test_a_damaged_zip_is_stopped(scene: Scene, tmp_path: Path) -> None:
    path = tmp_path / "b.zip"
    path.write_bytes(scene.pictures.read_bytes()[:-40])
    stopped(scene, tmp_path, path, "neither a folder nor a zip file")


def test_an_endless_list_of_members_is_stopped(scene: Scene, tmp_path: Path) -> None:
    path = _zip(tmp_path / "b.zip", [(f"rows/a{i}.json", b"") for i in range(9000)], stage.unpack(scene.pictures))
    stopped(scene, tmp_path, path, "its list of members takes .* bytes")


def test_a_bundle_that_is_no_archive_is_stopped(scene: Scene, tmp_path: Path) -> None:
    for n, data in enumerate((b"", b"x" * 100, b"PK\x05\x06", stage.pickled([1], new_format=False))):
        path = tmp_path / f"{n}.zip"
        path.write_bytes(data)
        stopped(scene, tmp_path / str(n), path, "neither a folder nor a zip file")


def _unzipped(scene: Scene, place: Path) -> Path:
    with zipfile.ZipFile(scene.pictures) as archive:
        archive.extractall(place / "bundle")
    return place / "bundle"


def test_a_link_in_a_folder_is_stopped(scene: Scene, tmp_path: Path) -> None:
    folder = _unzipped(scene, tmp_path)
    (folder / stage.PART).unlink()
    (folder / stage.PART).symlink_to("/etc/passwd")
    stopped(scene, tmp_path, folder, "is a link")


def test_a_linked_folder_is_stopped(scene: Scene, tmp_path: Path) -> None:
    folder = _unzipped(scene, tmp_path)
    (folder / "rows").symlink_to("/etc")
    stopped(scene, tmp_path, folder, "is a link")


def test_a_pipe_in_a_folder_is_stopped(scene: Scene, tmp_path: Path) -> None:
    folder = _unzipped(scene, tmp_path)
    (folder / stage.PART).unlink()
    os.mkfifo(folder / stage.PART)
    stopped(scene, tmp_path, folder, "neither a file nor a folder")


def test_anothers_images_under_an_own_name_are_stopped(scene: Scene, tmp_path: Path) -> None:
    parts, stolen = stage.unpack(scene.pictures), stage.unpack(scene.honest)
    parts[stage.PART] = stolen[stage.PART]
    stopped(scene, tmp_path, stage.repack(parts, tmp_path / "b.zip"), "these are the images of 'honest', byte for byte")


def test_anothers_code_under_an_own_name_is_stopped(scene: Scene, tmp_path: Path) -> None:
    parts = stage.unpack(scene.honest)
    renamed("mine")(parts)
    parts["source/submission.yaml"] = parts["source/submission.yaml"].replace(b"name: honest", b"name: mine")
    parts = {name: data for name, data in parts.items() if not name.startswith("rows/")}
    path = stage.repack(parts, tmp_path / "b.zip", submission="mine")
    stopped(scene, tmp_path, path, "byte for byte")


def test_the_same_bundle_again_is_stopped(scene: Scene, tmp_path: Path) -> None:
    stopped(scene, tmp_path, scene.honest, "is on the board already, with evidence 'regenerated'")


def _claims(scene: Scene, change: Callable[[dict[str, Any]], None]) -> Parts:
    """Return the honest bundle under another name and code, with its claims changed."""
    parts = stage.unpack(scene.honest)
    old, new = stage.ROW.format(name="honest"), stage.ROW.format(name="liar")
    row = json.loads(parts.pop(old))
    row["attack"] = "liar"
    change(row)
    parts[new] = json.dumps(row).encode()
    parts["source/attack.py"] = stage.SIGN.replace("eps / 2", "eps / 4").encode()
    text = parts["source/submission.yaml"].decode()
    parts["source/submission.yaml"] = text.replace("name: honest", "name: liar").encode()
    del parts[stage.PART]
    return parts


def _all_wrong(row: dict[str, Any]) -> None:
    for outcome in row["outcomes"].values():
        outcome["adv"] = b64encode(zlib.compress(b"\x63\x00" * 20)).decode()


def _bomb(row: dict[str, Any]) -> None:
    row["outcomes"]["digits-nin"]["adv"] = b64encode(zlib.compress(bytes(30_000_000))).decode()


def _set(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda row: row.update(changes)


CLAIMS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "other numbers than measured": (_all_wrong, r"claims that .* is wrong on 100.0 % .* measured on the same images it is"),
    "a bomb of predictions": (_bomb, "not of the 20 images"),
    "a target that the suite does not have": (
        lambda row: row["outcomes"].update({"easy": row["outcomes"]["digits-nin"]}),
        "the suite has no target 'easy'",
    ),
    "the row of another attack": (_set(attack="mim"), "the row of something else"),
    "a better tier of evidence": (_set(evidence="regenerated"), "the row of something else"),
    "other targets": (_set(suite_digest="0" * 64), "its targets or images are others"),
    "a budget of its own": (_set(max_level=99), "budget|claims"),
    "no outcomes": (lambda row: row.pop("outcomes"), "not a row"),
}


@pytest.mark.parametrize(("change", "reason"), [pytest.param(*case, id=name) for name, case in CLAIMS.items()])
def test_hostile_claims_are_stopped(scene: Scene, tmp_path: Path, change: Any, reason: str) -> None:
    path = stage.repack(_claims(scene, change), tmp_path / "b.zip", submission="liar")
    evidence = "claimed" if "budget" in reason else None
    stopped(scene, tmp_path, path, reason, evidence=evidence)


CODE: dict[str, tuple[str, str]] = {
    "breaks the budget by one level": ("return (x + eps + 1 / 255).clamp(0, 1)", "differs from the clean one by 33 levels"),
    "returns NaN": ("return x / 0 * 0", "not finite"),
    "returns infinity": ("return x + float('inf')", "not finite"),
    "returns bytes instead of [0, 1]": ("return x * 255", "images lie in"),
    "returns doubles": ("return x.double()", "the images are F64, they must be F32"),
    "returns one image": ("return x[:1]", r"the images are \[1, 1, 16, 16\]"),
    "returns the images in another order": ("return x.flip(0)", "not in the suite's order|differs from the clean"),
    "returns the clean images": ("return x", "the images are the clean ones"),
    "crashes half-way": (
        "if int(rng.indices[0]) >= 10: raise ValueError('half-way')\n    return (x + eps).clamp(0, 1)",
        "images 10 to 19, seed 0: it raised ValueError: half-way",
    ),
    "makes other images than the bundle has": ("return (x + 1 / 255).clamp(0, 1)", "not what its code makes here"),
}


@pytest.mark.parametrize(("body", "reason"), [pytest.param(*case, id=name) for name, case in CODE.items()])
def test_hostile_code_is_stopped_by_the_trusted_side(
    scene: Scene, tmp_path: Path, body: str, reason: str
) -> None:
    parts = stage.unpack(scene.honest)
    parts["source/attack.py"] = f"def attack(model, x, y, *, eps, steps, rng):\n    {body}\n".encode()
    parts["source/submission.yaml"] = parts["source/submission.yaml"].replace(b"name: honest", b"name: hostile")
    parts = {name: data for name, data in parts.items() if not name.startswith("rows/")}
    stopped(scene, tmp_path, stage.repack(parts, tmp_path / "b.zip", submission="hostile"), reason)


def test_there_are_enough_hostile_submissions() -> None:
    assert len({**IMAGES, **WORDS, **ARCHIVES, **CLAIMS, **CODE}) >= 60
