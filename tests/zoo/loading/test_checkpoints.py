import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from zoo import archs, quant
from zoo._compat import ensure_torchvision
from zoo.errors import UserError
from zoo.loading import checkpoints
from zoo.loading.checkpoints import KEYMAPS, read_foreign, read_tensors
from zoo.registry.entry import QuantSpec

SHARED = Path(os.environ.get("ZOO_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))
needs_shared = pytest.mark.skipif(
    not (SHARED / "weights").is_dir(), reason="the sample weights are not on this machine"
)


def cifar_test_images():
    import pyarrow.parquet as pq
    from PIL import Image

    table = pq.read_table(SHARED / "cifar10-head" / "plain_text" / "test-00000-of-00001.parquet")
    pixels = [np.asarray(Image.open(io.BytesIO(row["bytes"]))) for row in table["img"].to_pylist()]
    x = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
    return x, torch.tensor(table["label"].to_pylist())


def accuracy(net, mean, std, shifts=1):
    """Accuracy in percent, the mean over input shifts below 1/2000.

    A low-bit net turns differences of rounding size into changed predictions, four or five of these 423 images in either
    direction; the mean over shifts far below one grey level measures the net rather than the rounding.
    """
    x, y = cifar_test_images()
    draw = torch.Generator().manual_seed(0)
    right = []
    for turn in range(shifts):
        moved = torch.tensor(mean) + (torch.rand(3, generator=draw) - 0.5) * 1e-3 * (turn > 0)
        inputs = (x - moved.view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
        with quant.frozen(net), torch.no_grad():
            right.append(torch.cat([net(part).argmax(1) for part in inputs.split(141)]) == y)
    return 100 * torch.stack(right).float().mean().item()


@needs_shared
@pytest.mark.parametrize(("bits", "low", "high"), [(2, 90, 92), (4, 92, 94)])
def test_the_apot_authors_nets_reach_their_accuracy(bits, low, high):
    net = archs.create("resnet20", 10, shortcut="B").eval()
    quant.quantize(net, QuantSpec(method="apot", w_bits=bits, a_bits=bits))
    state = read_foreign(SHARED / "weights" / f"apot-resnet20-{bits}bit.pth.tar", "apot-cifar")
    net.load_state_dict(state, strict=True)
    reached = accuracy(net, (0.491, 0.482, 0.447), (0.247, 0.243, 0.262), shifts=8)
    assert low <= reached <= high, reached


@needs_shared
@pytest.mark.parametrize(
    ("name", "file", "low"), [("resnet20", "resnet20-12fca82f.th", 91), ("resnet32", "resnet32-d509ac18.th", 92)]
)
def test_option_a_resnets_reach_their_accuracy(name, file, low):
    net = archs.create(name, 10, shortcut="A").eval()
    net.load_state_dict(read_foreign(SHARED / "weights" / file, "akamaster"), strict=True)
    assert low <= accuracy(net, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) <= low + 2


def released_layout(net: nn.Module) -> dict[str, torch.Tensor]:
    """Rename a quantised net's tensors as the APoT authors' code does."""
    foreign = {}
    for key, value in net.state_dict().items():
        key = key.replace("parametrizations.weight.original", "weight")
        key = key.replace("parametrizations.weight.0.alpha", "weight_quant.wgt_alpha")
        key = key.replace("input_quantizer.alpha", "act_alpha")
        if not key.endswith(("calibrated", "signed", "largest_positive")):
            foreign[f"module.{key}"] = value
    return foreign


def test_apot_map_gives_a_strictly_loading_calibrated_net(tmp_path):
    spec = QuantSpec(method="apot", w_bits=3, a_bits=3)
    net = quant.quantize(archs.create("resnet20", 10, shortcut="B"), spec)
    torch.save({"epoch": 3, "state_dict": released_layout(net)}, tmp_path / "a.pth.tar")
    twin = quant.quantize(archs.create("resnet20", 10, shortcut="B"), spec).eval()
    twin.load_state_dict(read_foreign(tmp_path / "a.pth.tar", "apot-cifar"), strict=True)
    twin(torch.rand(1, 3, 32, 32))
    assert torch.equal(quant.latent_weight(twin.layer2[0].conv1), quant.latent_weight(net.layer2[0].conv1))
    assert bool(quant.weight_quantizers(twin)["fc"].largest_positive)


def test_akamaster_map_renames_the_classifier_and_adds_batch_counts(tmp_path):
    net = archs.create("resnet20", 10, shortcut="A")
    foreign = {f"module.{k}".replace("module.fc", "module.linear"): v for k, v in net.state_dict().items()}
    foreign = {k: v for k, v in foreign.items() if not k.endswith("num_batches_tracked")}
    torch.save({"state_dict": foreign, "best_prec1": 91.0}, tmp_path / "a.th")
    archs.create("resnet20", 10, shortcut="A").load_state_dict(
        read_foreign(tmp_path / "a.th", "akamaster"), strict=True
    )


def test_torchvision_vgg_computes_the_same_in_timm(tmp_path):
    ensure_torchvision()
    import timm
    import torchvision

    vgg = torchvision.models.vgg
    with torch.device("meta"):
        source = vgg.VGG(vgg.make_layers(vgg.cfgs["A"]), num_classes=7)
    # Narrow linear layers keep this fast; the map works by name and reads the width from the file.
    source.classifier[0], source.classifier[3], source.classifier[6] = (
        nn.Linear(25088, 16),
        nn.Linear(16, 16),
        nn.Linear(16, 7),
    )
    source.features = vgg.make_layers(vgg.cfgs["A"])
    source.eval()
    with torch.device("meta"):
        target = timm.create_model("vgg11", num_classes=7)
        target.pre_logits.fc1, target.pre_logits.fc2 = nn.Conv2d(512, 16, 7), nn.Conv2d(16, 16, 1)
        target.head.fc = nn.Linear(16, 7)
    target.to_empty(device="cpu").eval()
    torch.save({f"module.model.{k}": v for k, v in source.state_dict().items()}, tmp_path / "a.pt")
    target.load_state_dict(read_foreign(tmp_path / "a.pt", "robustness+torchvision-vgg"), strict=True)
    x = torch.rand(1, 3, 224, 224)
    torch.testing.assert_close(source(x), target(x))


def test_robustness_map_takes_the_network_alone(tmp_path):
    net = nn.Linear(2, 3)
    foreign = {f"module.model.{k}": v for k, v in net.state_dict().items()}
    foreign |= {f"module.attacker.model.{k}": v for k, v in net.state_dict().items()}
    foreign["module.normalizer.new_mean"] = torch.zeros(3)
    torch.save({"model": foreign, "epoch": 1}, tmp_path / "a.ckpt")
    nn.Linear(2, 3).load_state_dict(read_foreign(tmp_path / "a.ckpt", "robustness"), strict=True)


def test_torchvision_inception_drops_the_auxiliary_head():
    mapped = KEYMAPS["torchvision-inception"]({"AuxLogits.fc.weight": torch.zeros(1), "fc.weight": torch.zeros(2)})
    assert list(mapped) == ["fc.weight"]


class Payload:
    def __reduce__(self):
        return (print, ("run",))


def test_pickles_are_not_run(tmp_path, capsys):
    torch.save({"state_dict": {}, "args": Payload()}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="not run here"):
        read_tensors(tmp_path / "a.pt")
    array = np.empty((), dtype=object)
    array[()] = {"layer": {"weights": Payload()}}
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(UserError, match="print"):
        read_tensors(tmp_path / "a.npy")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {"a": 1}}, {0: torch.zeros(1)}])
def test_files_without_a_state_dict_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UserError, match="no state dict"):
        read_tensors(tmp_path / "a.pt")


def test_broken_files_and_unknown_maps_are_refused(tmp_path):
    (tmp_path / "a.pt").write_bytes(pickle.dumps(3, protocol=2)[:2])
    with pytest.raises(UserError, match=r"a\.pt"):
        read_tensors(tmp_path / "a.pt")
    with pytest.raises(UserError, match="did you mean 'robustness'"):
        read_foreign(tmp_path / "a.pt", "robustnes")
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(UserError, match=r"a\.npy"):
        read_tensors(tmp_path / "a.npy")


def npy(content):
    array = np.empty((), dtype=object)
    array[()] = content
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


HEADER = b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'
CLAIMS = {
    "safetensors without its tensors": len(HEADER).to_bytes(8, "little") + HEADER,
    "safetensors of another length": (20).to_bytes(8, "little") + b"{" + b"x" * 40,
    "pickle that takes from an empty stack": b"\x80\x02s.",
    "pickle that recalls what it never kept": b"\x80\x02h\x07.",
    "pickle with a string that is no text": b"\x80\x02X\x02\x00\x00\x00\xff\xfe.",
    "pickle of a name alone": b"\x80\x02cos\nsystem\n.",
    "text": b"version https://git-lfs.github.com/spec/v1\n",
    "empty": b"",
    "npy of no version": b"\x93NUMPY\x09\x09",
    "npy with half a header": npy({})[:40],
    "npy with half a pickle": npy({"layer": {"weights": np.zeros(3)}})[:-20],
    "npy with a list for an array": npy({"layer": {"weights": [1, 2]}}),
    "npy with a number for an array": npy({"layer": {"weights": 3}}),
    "npy of strings": npy({"layer": {"weights": np.array(["a"])}}),
    "npy with numbers for names": npy({1: {2: np.zeros(3)}}),
    "npy with names that are no text": npy({b"\xff": {"weights": np.zeros(3)}}),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_file_that_is_not_what_it_claims_ends_in_one_sentence(tmp_path, claim):
    (tmp_path / "file").write_bytes(CLAIMS[claim])
    with pytest.raises(UserError, match="file") as caught:
        read_tensors(tmp_path / "file")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("keymap", "state"),
    [
        ("torchvision-vgg", {"classifier.0.weight": torch.zeros(3, 5)}),
        ("torchvision-vgg", {"classifier.3.weight": torch.zeros(())}),
        ("tf-inception-v3", {"InceptionV3/Conv2d_1a_3x3/weights": torch.zeros(1)}),
    ],
)
def test_a_map_that_does_not_fit_the_file_ends_in_one_sentence(tmp_path, keymap, state):
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(UserError, match="keymap"):
        read_foreign(tmp_path / "a.pt", keymap)


def test_efficientnet_lites_blocks_are_counted_by_stage() -> None:
    keys = {
        "_conv_stem.weight": "conv_stem.weight",
        "_bn0.running_var": "bn1.running_var",
        "_bn1.bias": "bn2.bias",
        "_fc.bias": "classifier.bias",
        "_blocks.0._depthwise_conv.weight": "blocks.0.0.conv_dw.weight",
        "_blocks.0._project_conv.weight": "blocks.0.0.conv_pw.weight",
        "_blocks.2._expand_conv.weight": "blocks.1.1.conv_pw.weight",
        "_blocks.2._bn2.weight": "blocks.1.1.bn3.weight",
        "_blocks.15._project_conv.weight": "blocks.6.0.conv_pwl.weight",
    }
    state = {key: torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last) for key in keys}
    found = checkpoints.efficientnet_lite(state)
    assert list(found) == list(keys.values()) and all(value.is_contiguous() for value in found.values())
    longer = checkpoints.efficientnet_lite({"_blocks.20._bn0.bias": torch.zeros(1), "_blocks.3._bn0.bias": torch.zeros(1)})
    assert list(longer) == ["blocks.6.0.bn1.bias", "blocks.1.2.bn1.bias"]
