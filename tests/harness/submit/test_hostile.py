"""Hostile submissions: each is stopped with a clear reason, and the board has no trace of it."""

from __future__ import annotations

import json
import os
import stat
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.records.rows import Row, read_rows, write_row
from harness.sandbox import Limits
from harness.submit.add import add
from harness.submit.images import check_ids
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
    "ids in another order": (with_images(lambda x, ids: stage.encoded(x, ids[::-1])), "keep its order"),
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
    "a header of many objects": (with_images(lambda x, ids: _header("[" + "{}," * 30_000 + "{}]")), "its header nests too much"),
    "a second tensor": (with_images(lambda x, ids: stage.encoded(x, ids, key="weights")), "one tensor called 'images'"),
    "empty": (with_images(lambda x, ids: b""), "no safetensors file"),
}


def _author(name: str) -> Tamper:
    """Return a tampering that gives the author another name."""
    return with_yaml(lambda text: text.replace("A. Uthor", json.dumps(name, ensure_ascii=False)))


def _paper(address: str) -> Tamper:
    """Return a tampering that adds a paper."""
    return with_yaml(lambda text: text + f"paper: {json.dumps(address)}\n")


def _alias_bomb(text: str) -> str:
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)]
    return text + "\n".join(lines) + "\n"


WORDS: dict[str, tuple[Tamper, str]] = {
    "a YAML tag": (with_yaml(lambda t: t + "paper: !!python/object/apply:os.system [id]\n"), "could not determine a constructor"),
    "a YAML bomb": (with_yaml(_alias_bomb), "an alias"),
    "a nested YAML": (with_yaml(lambda t: t + "paper: " + "[" * 5000 + "]" * 5000), "nested too deeply|YAML"),
    "a key twice": (with_yaml(lambda t: t + "name: other\n"), "duplicate key 'name'"),
    "an unknown key": (with_yaml(lambda t: t + "score: 100\n"), "score: Extra inputs"),
    "a huge YAML": (with_yaml(lambda t: t + "#" * 300_000), "more than the 65536"),
    "binary YAML": (with_yaml(lambda t: t + "\x00"), "YAML|special characters"),
    "an author who steers the terminal": (with_yaml(lambda t: t.replace("A. Uthor", '"\\e[2J"')), "could steer or mislead"),
    "a title of HTML": (with_yaml(lambda t: t.replace("title: pictures", "title: <script>x</script>")), "LESS-THAN SIGN"),
    "a title that turns text around": (with_yaml(lambda t: t.replace("title: pictures", 'title: "a\\u202eb"')), "RIGHT-TO-LEFT"),
    "settings of the suite": (with_yaml(lambda t: t + "settings: {eps: 1.0}\n"), "settings name 'eps', which the suite decides"),
    "an author of two scripts": (_author("A. Uth\u043er"), "mixes scripts: LATIN .* CYRILLIC"),
    "an author who is not there": (_author("\u3164"), "HANGUL FILLER|letters in disguise"),
    "a blank of Braille": (_author("A\u2800B"), "BRAILLE PATTERN BLANK"),
    "marks upon marks": (_author("A" + "\u0335" * 9), "COMBINING SHORT STROKE OVERLAY"),
    "full-width letters": (_author("\uff21. Uthor"), "letters in disguise"),
    "mathematical letters": (_author("\U0001d400. Uthor"), "letters in disguise"),
    "joiners of no width": (_author("A\u200dB"), "ZERO WIDTH JOINER"),
    "letters that are tags": (_author("A\U000e0041"), "TAG LATIN CAPITAL LETTER A"),
    "a formula": (_author("=HYPERLINK(1)"), "EQUALS SIGN|begins with"),
    "a formula by a plus": (_author("+1"), "begins with"),
    "a formula by a minus": (_author("-1"), "begins with"),
    "a formula by an at": (_author("@SUM"), "begins with|COMMERCIAL AT"),
    "a picture": (_author("A \U0001f600"), "GRINNING FACE"),
    "a link of Markdown": (_author("a [b](c)"), "LEFT SQUARE BRACKET"),
    "emphasis of Markdown": (_author("a *b* _c_"), "ASTERISK"),
    "a cell of a table": (_author("a | b"), "VERTICAL LINE"),
    "an entity of HTML": (_author("a &lt; b #"), "NUMBER SIGN"),
    "blanks to hide behind": (_author("A  B"), "two in a row"),
    "a setting that turns text around": (with_yaml(lambda t: t + 'settings: {a: "x\\u202ey"}\n'), "RIGHT-TO-LEFT OVERRIDE"),
    "a setting that is data": (with_yaml(lambda t: t + f"settings: {{a: {10**300}}}\n"), "no place to keep data"),
    "settings without end": (
        with_yaml(lambda t: t + "settings: {" + ", ".join(f"a{i}: 1" for i in range(99)) + "}\n"),
        "at most 50|50 items",
    ),
    "a paper at another's": (_paper("https://arxiv.org@evil.org/x"), "paper"),
    "a paper in letters alike": (_paper("https://\u0430rxiv.org/x"), "paper"),
    "a paper in coded letters": (_paper("https://xn--80ak6aa92e.com/x"), "other letters"),
    "a paper that ends its link": (_paper("https://a.org/)](javascript:alert)"), "paper"),
    "a paper that is data": (_paper("data:text/html,x"), "paper"),
    "a licence that is a link": (with_yaml(lambda t: t.replace("MIT", '"MIT](javascript:x)"')), "license"),
    "costs of its own": (with_job(forwards=1, backwards=1), "forwards: extra inputs|forwards"),
    "walls of its own": (lambda parts: {"isolation": "namespaces"}, "isolation: extra inputs|isolation"),
    "evidence of its own": (lambda parts: {"evidence": "regenerated"}, "evidence"),
    "a bundle of the old kind": (lambda parts: {"format": 1}, "whose bundles brought rows"),
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


def _odd(**attributes: Any) -> zipfile.ZipInfo:
    """Return a member whose header says something odd."""
    info = zipfile.ZipInfo("images/odd.safetensors")
    for name, value in attributes.items():
        setattr(info, name, value)
    return info


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
    "a name with a line break": ([("images/a.safetensors\n", b"{}")], "has no place in a bundle"),
    "a part that nobody names": ([("images/a.safetensors", b"{}")], "is not named in the manifest"),
    "thousands of parts": ([(f"images/a{i}.safetensors", b"") for i in range(1100)], "more than 1000 parts"),
    "a row": ([("rows/digits-vgg--pictures--s0.json", b"{}")], "code or images, never rows"),
    "a claimed row": ([("rows/digits-vgg--pictures--s0--claimed.json", b"{}")], "code or images, never rows"),
    "clean predictions": ([("clean.json", b"{}")], "code or images, never rows"),
    "a chain": ([("chain.jsonl", b"{}")], "code or images, never rows"),
    "a board": ([("leaderboards/tiny/v1/rows/x.json", b"{}")], "code or images, never rows"),
    "a lock": ([(".lock", b"")], "has no place in a bundle"),
    "a workflow": ([(".github/workflows/x.yml", b"")], "has no place in a bundle"),
    "an unknown version of zip": ([(_odd(extract_version=63), b"x")], "needs version 6.3 of zip"),
    "a made-up version of zip": ([(_odd(extract_version=255), b"x")], "needs version 25.5 of zip|neither a folder nor a zip"),
    "an odd method of compression": ([(_odd(compress_type=zipfile.ZIP_LZMA), b"x")], "needs version|packed by method"),
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
    path = _zip(tmp_path / "b.zip", [(f"images/a{i}.safetensors", b"") for i in range(9000)], stage.unpack(scene.pictures))
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
    path = stage.repack(parts, tmp_path / "b.zip", submission="mine")
    stopped(scene, tmp_path, path, "this is the code of 'honest'")


def test_anothers_code_with_other_comments_and_layout_is_stopped(scene: Scene, tmp_path: Path) -> None:
    parts = stage.unpack(scene.honest)
    code = '"""My own idea."""\n\n' + parts.pop("source/attack.py").decode().replace("    z = (", "    # mine\n    z   =  (")
    parts |= {"source/attack.py": code.encode(), "source/more.py": b"# nothing\n"}
    del parts["source/more.py"]
    parts["source/submission.yaml"] = parts["source/submission.yaml"].replace(b"name: honest", b"name: mine")
    stopped(scene, tmp_path, stage.repack(parts, tmp_path / "b.zip", submission="mine"), "this is the code of 'honest'")


def test_the_same_bundle_again_is_stopped(scene: Scene, tmp_path: Path) -> None:
    stopped(scene, tmp_path, scene.honest, "is on the board already, with evidence 'regenerated'")


CODE: dict[str, tuple[str, str]] = {
    "breaks the budget by one level": ("return (x + eps + 1 / 255).clamp(0, 1)", "differs from the clean one by 33 levels"),
    "returns NaN": ("return x / 0 * 0", "not finite"),
    "returns infinity": ("return x + float('inf')", "not finite"),
    "returns bytes instead of [0, 1]": ("return x * 255", "images lie in"),
    "returns doubles": ("return x.double()", "the images are F64, they must be F32"),
    "returns one image": ("return x[:1]", r"the images are \[1, 1, 16, 16\]"),
    "returns the images in another order": ("return x.flip(0)", "not in the suite's order|differs from the clean"),
    "returns the clean images": ("return x", "the images are the clean ones"),
    "raises what steers the terminal": ("raise ValueError('\\x1b[31m' + chr(0x5d0) + chr(0x202e) + 'x')", "it raised ValueError"),
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
    stopped(scene, tmp_path, stage.repack(parts, tmp_path / "b.zip", submission="hostile"), reason)


def test_there_are_enough_hostile_submissions() -> None:
    assert len({**IMAGES, **WORDS, **ARCHIVES, **CODE}) >= 60


def test_a_zip64_archive_is_stopped(scene: Scene, tmp_path: Path) -> None:
    path, data = tmp_path / "b.zip", scene.pictures.read_bytes()
    end = data.rfind(b"PK\x05\x06")
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, end, 1)
    record = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, 10, 10)
    path.write_bytes(data[:end] + record + locator + data[end:])
    stopped(scene, tmp_path, path, "a zip64 archive")


def test_a_zip_of_several_disks_is_stopped(scene: Scene, tmp_path: Path) -> None:
    path, data = tmp_path / "b.zip", bytearray(scene.pictures.read_bytes())
    data[data.rfind(b"PK\x05\x06") + 4] = 3
    path.write_bytes(bytes(data))
    stopped(scene, tmp_path, path, "one of several disks")


def test_a_manifest_that_says_a_key_twice_is_stopped(scene: Scene, tmp_path: Path) -> None:
    parts = stage.unpack(scene.pictures)
    parts["manifest.json"] = parts["manifest.json"].replace(b'"format": 2', b'"format": 2, "format": 2', 1)
    stopped(scene, tmp_path, _zip(tmp_path / "b.zip", [], parts), "a key occurs twice")


def test_keys_without_end_take_little_memory(scene: Scene, tmp_path: Path) -> None:
    parts = stage.unpack(scene.pictures)
    for size, reason in ((1_000_000, "a key occurs twice"), (60_000_000, "unpacks to more than")):
        parts["manifest.json"] = b"{" + b'"parts":{},' * (size // 11) + b'"a":1}'
        path = _zip(tmp_path / f"{size}.zip", [], parts)
        tracemalloc.start()
        stopped(scene, tmp_path / str(size), path, reason)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 150 * 2**20, peak


def test_ids_without_end_take_little_time() -> None:
    ids = [f"image-{i}" for i in range(100_000)]
    began = time.perf_counter()
    for found, reason in ((ids[:-1] + ids[:1], "occurs twice"), (ids[::-1], "belongs"), ([*ids[1:], "x"], "is no image")):
        with pytest.raises(UserError, match=reason):
            check_ids(found, ids, "x")
    assert time.perf_counter() - began < 5


def test_a_hard_link_in_a_folder_is_stopped(scene: Scene, tmp_path: Path) -> None:
    folder = _unzipped(scene, tmp_path)
    os.link(folder / stage.PART, tmp_path / "other-name")
    stopped(scene, tmp_path, folder, "hard links")


@pytest.mark.parametrize("sizes", [(70_000,), (40_000, 40_000)])
def test_more_code_than_an_attack_takes_is_stopped(scene: Scene, tmp_path: Path, sizes: tuple[int, ...]) -> None:
    parts = stage.unpack(scene.honest)
    for n, size in enumerate(sizes):
        parts[f"source/more{n}.py"] = b"#" * size
    stopped(scene, tmp_path, stage.repack(parts, tmp_path / "b.zip"), "more than the 65536")


def test_a_suite_that_is_a_file_is_not_read_because_a_bundle_says_so(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stage.suite(tmp_path)
    path = stage.repack(stage.unpack(scene.pictures), tmp_path / "b.zip", suite="tiny.yaml")
    with pytest.raises(UserError, match="not one of ours"):
        add(path, tmp_path / "boards")


def test_somebody_who_is_faster_keeps_the_name(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boards = scene.copy_board(tmp_path)
    (row,) = read_rows(boards / "tiny" / "v1")

    def slow(*arguments: Any) -> list[Row]:
        made = rows_of(*arguments)
        other = {"attack": "pictures", "images_sha256": "0" * 64}
        write_row(boards / "tiny" / "v1", row.model_copy(update=other))
        return made

    from harness.submit import add as module

    rows_of = module._rows  # type: ignore[attr-defined]
    monkeypatch.setattr("harness.submit.add._rows", slow)
    with pytest.raises(UserError, match="on this board with other code"):
        add(scene.pictures, boards, suite=scene.suite)
