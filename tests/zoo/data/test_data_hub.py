"""Data sets arrive as pinned, with 0-based labels, from the Hub, archives, folders and parquet files."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tests.hub_server import TOKEN, serve
from zoo import registry
from zoo._compat import ensure_torchvision
from zoo.data import hub as hub_sets
from zoo.data import imagenet, load, local, training
from zoo.data.hub import File, Pinned
from zoo.data.images import read_labels
from zoo.errors import UserError
from zoo.evaluate import images as evaluated_images
from zoo.recipes.augment import augment

SHARED = Path(os.environ.get("ZOO_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))


def pixels(seed: int, width: int = 8, height: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(seed: int, width: int = 8, height: int = 8) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels(seed, width, height)).save(out, "PNG")
    return out.getvalue()


def parquet(labels: list[int], image: str = "img", **size: int) -> bytes:
    rows = [{image: {"bytes": png(i, **size), "path": None}, "label": label} for i, label in enumerate(labels)]
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


def archive(table: str, names: list[str]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("data/labels.csv", table)
        for i, name in enumerate(names):
            file.writestr(name, png(i))
    return out.getvalue()


@pytest.fixture(autouse=True)
def fresh():
    yield
    for cached in (hub_sets.load, imagenet.prepared, local.load):
        cached.cache_clear()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "ZOO_IMAGENET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    with serve(tmp_path / "hub") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def publish(hub, monkeypatch, name: str, content: dict[str, bytes], *, pin: bool = True, gated: bool = False, **settings):
    """Serve files as the named data set, in place of the real one."""
    revision = hub.add("o/data", content, kind="datasets", gated=gated)
    files = tuple(File(p, hashlib.sha256(c).hexdigest() if pin else None, len(c) if pin else None) for p, c in content.items())
    real = hub_sets.SETS[name]
    pinned = Pinned("o/data", revision, {"test": files}, **{"classes": real.classes, "side": real.side, **settings})
    monkeypatch.setitem(hub_sets.SETS, name, pinned)


def test_cifar10_comes_from_parquet_once(hub, monkeypatch):
    publish(hub, monkeypatch, "cifar10", {"plain_text/test.parquet": parquet([3, 0, 9])})
    data = load("cifar10", "test")
    assert data.images.shape == (3, 3, 8, 8) and data.labels.tolist() == [3, 0, 9]
    assert (data.images[1].permute(1, 2, 0).numpy() == pixels(1)).all()
    assert data.ids == ("cifar10-test-00000", "cifar10-test-00001", "cifar10-test-00002")
    hub_sets.load.cache_clear()
    hub.requests.clear()
    assert load("cifar10", "test").digest == data.digest and hub.requests == []
    with pytest.raises(UserError, match="no split 'valid', only 'test'"):
        load("cifar10", "valid")


def test_one_altered_byte_of_a_data_set_is_found(hub, monkeypatch):
    publish(hub, monkeypatch, "cifar10", {"test.parquet": parquet([3])})
    hub.fail("alter", after=200)
    with pytest.raises(UserError, match="its sha256 is"):
        load("cifar10", "test")


@pytest.mark.parametrize("labels", [[1, 10], [-1, 3], [3, 99]])
def test_labels_must_be_zero_based(hub, monkeypatch, labels):
    publish(hub, monkeypatch, "cifar10", {"test.parquet": parquet(labels)})
    with pytest.raises(UserError, match=r"count from 1|are counted 0, 1, 2"):
        load("cifar10", "test")


def test_the_compatible_images_come_from_a_zip(hub, monkeypatch, tmp_path):
    names = ["data/images/a.png", "data/images/b.png", "__MACOSX/._a.png"]
    content = {"data.zip": archive("filename,label\nb.png,999\na.png,0\n", names)}
    publish(hub, monkeypatch, "imagenet-compatible", content, side=None)
    data = load("imagenet-compatible")
    assert data.ids == ("b", "a") and data.labels.tolist() == [999, 0]
    assert (data.images[0].permute(1, 2, 0).numpy() == pixels(1)).all()


@pytest.mark.parametrize(
    ("table", "names", "message"),
    [
        ("filename,label\na.png,1000\n", ["a.png"], "count from 1"),
        ("filename,label\nc.png,1\n", ["a.png"], "names 'c.png'"),
        ("filename,label\na.png,cat\n", ["a.png"], "line 2"),
        ("name,class\na.png,1\n", ["a.png"], "expected columns"),
        ("filename,label\n", ["a.png"], "no images"),
    ],
)
def test_a_wrong_archive_is_refused(hub, monkeypatch, table, names, message):
    publish(hub, monkeypatch, "imagenet-compatible", {"data.zip": archive(table, names)})
    with pytest.raises(UserError, match=message):
        load("imagenet-compatible")


def test_true_labels_of_the_nips_set_are_shifted():
    text = "ImageId,URL,TrueLabel,TargetClass\n0c7ac4,http://x,306,779\n"
    assert read_labels(text, "dev.csv") == [("0c7ac4", 305)]


def test_imagenet_is_gated_and_its_hashes_are_recorded(hub, monkeypatch):
    shards = {f"data/v{i}.parquet": parquet([i, 5], image="image", width=300, height=260) for i in range(2)}
    publish(hub, monkeypatch, "imagenet", shards, pin=False, gated=True)
    with pytest.raises(UserError, match="gated"):
        load("imagenet")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    data = load("imagenet")
    assert data.images.shape == (4, 3, 224, 224) and data.labels.tolist() == [0, 5, 1, 5]
    hub.requests.clear()
    imagenet.prepared.cache_clear()
    assert load("imagenet").digest == data.digest and hub.requests == []
    assert load("imagenet-299").images.shape == (4, 3, 299, 299) and hub.requests == []
    for blob in (Path(os.environ["ZOO_CACHE"]) / "blobs").glob("*"):
        blob.unlink()
    hub.fail("alter", after=100)
    with pytest.raises(UserError, match="its sha256 is"):
        hub_sets.fetch("imagenet", "test")


def test_imagenet_from_a_folder_of_classes(tmp_path, monkeypatch):
    for label, wnid in enumerate(["n01440764", "n01443537", "n02999999"]):
        (tmp_path / "val" / wnid).mkdir(parents=True)
        (tmp_path / "val" / wnid / f"{label}.png").write_bytes(png(label, 512, 256))
    monkeypatch.setenv("ZOO_IMAGENET", str(tmp_path))
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    data = load("imagenet")
    assert data.labels.tolist() == [0, 1, 2] and data.ids[1] == "n01443537/1"
    assert (data.images[2].permute(1, 2, 0).numpy() == pixels(2, 512, 256)[16:240, 144:368]).all()  # 256 px high: only cropped
    with pytest.raises(UserError, match=r"there is no folder .*train"):
        training("imagenet")
    with pytest.raises(UserError, match="differ in shape"):
        load("imagenet", "train")


def test_imagenets_training_images_are_whole_rectangles(tmp_path, monkeypatch):
    """The paper's recipe crops them, not the squares in their middle; the shorter side is 256, resized as torchvision does."""
    shapes = [(512, 256), (300, 700), (256, 256), (401, 300)]
    for label, (width, height) in enumerate(shapes):
        (tmp_path / f"train/n{label}").mkdir(parents=True)
        (tmp_path / f"train/n{label}/a.png").write_bytes(png(label, width, height))
    monkeypatch.setenv("ZOO_IMAGENET", str(tmp_path))
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    data = training("imagenet")
    assert len(data) == 4 and data.labels.tolist() == [0, 1, 2, 3] and data.ids[3] == "n3/a"
    assert data.pictures.sides.tolist() == [[256, 512], [597, 256], [256, 256], [256, 342]]
    for place, (width, height) in enumerate(shapes):
        small = min(width, height)
        wanted = Image.fromarray(pixels(place, width, height))
        wanted = wanted.resize((int(256 * width / small), int(256 * height / small)), Image.Resampling.BILINEAR)
        assert (data.pictures.picture(place).permute(1, 2, 0).numpy() == np.asarray(wanted)).all()
    before = data.digest
    imagenet.training.cache_clear()
    assert training("imagenet").digest == before, "read from the file that was prepared"

    chosen, draws = torch.tensor([1, 0, 1]), torch.Generator().manual_seed(0)
    x = augment(data.batch(chosen), "resize-crop-flip", draws, 224)
    assert x.shape == (3, 3, 224, 224) and x.dtype == torch.float32 and float(x.max()) <= 1
    draws = torch.Generator().manual_seed(0)
    rooms = torch.tensor([[374, 33], [33, 289], [374, 33]])
    places, mirrored = torch.randint(2**48, (3, 2), generator=draws) % rooms, torch.rand(3, generator=draws) < 0.5
    for crop, picture, (top, left), flipped in zip(x, chosen, places.tolist(), mirrored, strict=True):
        wanted = data.pictures.picture(picture)[:, top : top + 224, left : left + 224].float() / 255
        assert torch.equal(crop, wanted.flip(-1) if flipped else wanted)
    assert augment(data.batch(chosen), "resize-crop-flip", draws, 299).shape == (3, 3, 299, 299)
    with pytest.raises(UserError, match="augment: crop-flip cannot handle"):
        augment(data.batch(chosen), "crop-flip", draws, 224)
    monkeypatch.delenv("ZOO_IMAGENET")
    imagenet.training.cache_clear()
    with pytest.raises(UserError, match="set ZOO_IMAGENET"):
        training("imagenet")


def test_a_network_is_evaluated_on_the_crop_that_its_claim_was_measured_on(tmp_path, monkeypatch):
    (tmp_path / "val/n01440764").mkdir(parents=True)
    (tmp_path / "val/n01440764/a.png").write_bytes(png(3, 512, 400))
    monkeypatch.setenv("ZOO_IMAGENET", str(tmp_path))
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    whole = Image.fromarray(pixels(3, 512, 400))

    def expected(side: int, height: int, method: Image.Resampling) -> np.ndarray:
        resized = whole.resize((int(512 * height / 400), height), method)
        left, top = round((resized.width - side) / 2), round((height - side) / 2)
        return np.asarray(resized.crop((left, top, left + side, top + side)))

    for name, side, height, method in [
        ("resnet18", 224, 256, Image.Resampling.BILINEAR),
        ("mobilenet-v2", 224, 256, Image.Resampling.BICUBIC),
        ("inception-v3", 299, 341, Image.Resampling.BICUBIC),
        ("inception-resnet-v2", 299, 333, Image.Resampling.BICUBIC),
    ]:
        seen = evaluated_images(registry.load()[name]).images[0].permute(1, 2, 0).numpy()
        assert (seen == expected(side, height, method)).all(), name


@pytest.mark.parametrize("width, height", [(301, 500), (517, 333), (256, 256), (640, 359), (375, 1024)])
def test_images_are_prepared_as_torchvision_does(width, height):
    """To the pixel: it cuts the longer side's fraction off, and rounds the place of the middle square."""
    ensure_torchvision()
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    image = Image.fromarray(pixels(1, width, height))
    for view in (imagenet.View(224, 256), imagenet.View(299, 341, "bicubic"), imagenet.View(225, 256)):
        theirs = Compose([Resize(view.resize, InterpolationMode(view.interpolation)), CenterCrop(view.side)])
        assert np.array_equal(np.asarray(imagenet._crop(view)(image)), np.asarray(theirs(image)))


def test_a_folder_with_a_table(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").write_bytes(png(0))
    (tmp_path / "b.png").write_bytes(png(1))
    (tmp_path / "labels.csv").write_text("filename,label\na.png,2\nb,0\n")
    data = load(f"folder:{tmp_path}")
    assert data.ids == ("a", "b") and data.labels.tolist() == [2, 0]
    (tmp_path / "c.png").write_bytes(png(2, 9, 8))
    (tmp_path / "labels.csv").write_text("filename,label\na.png,2\nc.png,0\n")
    local.load.cache_clear()
    with pytest.raises(UserError, match="c is 8x9, a is 8x8"):
        load(f"folder:{tmp_path}")


def test_a_table_cannot_reach_outside_its_folder(tmp_path):
    (tmp_path / "secret.png").write_bytes(png(0))
    (tmp_path / "set").mkdir()
    (tmp_path / "set/labels.csv").write_text("filename,label\n../secret.png,0\n")
    with pytest.raises(UserError, match="not an image in"):
        load(f"folder:{tmp_path / 'set'}")


@pytest.mark.parametrize("content", [b"not an image", b""])
def test_what_is_no_image_is_named(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    (tmp_path / "labels.csv").write_text("filename,label\na.png,0\n")
    with pytest.raises(UserError, match="a: not an image"):
        load(f"folder:{tmp_path}")


def test_parquet_files_of_ones_own(tmp_path):
    (tmp_path / "test-0.parquet").write_bytes(parquet([1, 2], image="image"))
    assert load(f"parquet:{tmp_path}").labels.tolist() == [1, 2]
    assert load(f"parquet:{tmp_path / 'test-0.parquet'}").ids == ("test-00000", "test-00001")
    with pytest.raises(UserError, match="none called train"):
        load(f"parquet:{tmp_path}", "train")
    (tmp_path / "train.parquet").write_bytes(b"nothing")
    with pytest.raises(UserError, match="not a parquet file"):
        load(f"parquet:{tmp_path}", "train")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the sample data are not on this machine")
@pytest.mark.parametrize(
    ("name", "count", "side", "classes"), [("cifar10-head", 423, 32, 10), ("imagenet-compatible-100", 100, 299, 1000)]
)
def test_real_parquet_files_are_read(name, count, side, classes):
    data = load(f"parquet:{SHARED / name}")
    assert data.images.shape == (count, 3, side, side) and data.labels.min() >= 0 and data.labels.max() < classes
    assert data.images.float().std() > 30
