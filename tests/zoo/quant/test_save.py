import pytest
import torch

from tests.zoo.quant.nets import images, quantized, spec, tiny
from zoo import quant
from zoo._compat import ensure_torchvision
from zoo.errors import UserError


@pytest.mark.parametrize("packed", [False, True])
def test_round_trip_keeps_logits_and_metadata(tmp_path, packed):
    net = quantized()
    path = tmp_path / "deep" / "net.safetensors"
    quant.save(net, path, packed=packed, extra={"log": "two epochs"})
    assert [p.name for p in path.parent.iterdir()] == ["net.safetensors"]
    twin = quant.quantize(tiny(7), spec())
    meta = quant.load_into(twin, path)
    assert torch.equal(net(images()), twin(images()))
    assert meta["log"] == quant.read_metadata(path)["log"] == "two epochs"


def test_loading_does_not_initialise_again(tmp_path):
    net = quantized()
    with torch.no_grad():
        net.expand.input_quantizer.alpha.fill_(0.123)
    quant.save(net, tmp_path / "a.safetensors", packed=False)
    twin = quant.quantize(tiny(7), spec())
    quant.load_into(twin, tmp_path / "a.safetensors")
    twin.train()(images())
    assert twin.expand.input_quantizer.alpha.item() == pytest.approx(0.123)
    assert twin.bottleneck.input_quantizer.flags() == (True, True)


def test_latent_weights_are_kept_unless_packed(tmp_path):
    net = quantized()
    quant.save(net, tmp_path / "a.safetensors", packed=False)
    twin = quant.quantize(tiny(7), spec())
    quant.load_into(twin, tmp_path / "a.safetensors")
    assert torch.equal(quant.latent_weight(net.expand), quant.latent_weight(twin.expand))
    assert quant.states(twin) == quant.STATES


def test_full_precision_nets_are_saved_too(tmp_path):
    quant.save(tiny(), tmp_path / "a.safetensors", packed=False)
    twin = tiny(5)
    quant.load_into(twin, tmp_path / "a.safetensors")
    assert torch.equal(tiny()(images()), twin(images()))


def test_misfits_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    quant.save(quantized(), path, packed=False)
    with pytest.raises(UserError, match="not in the model"):
        quant.load_into(tiny(), path)
    quant.save(tiny(), path, packed=False)
    with pytest.raises(UserError, match="missing"):
        quant.load_into(quantized(), path)
    quant.save(quantized(), path, packed=True)
    with pytest.raises(UserError, match="other layers"):
        quant.load_into(tiny(), path)


def test_foreign_damaged_and_missing_files_are_refused(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "a.safetensors"
    with pytest.raises(UserError, match="no weights"):
        quant.load_into(tiny(), path)
    save_file(tiny().state_dict(), path)
    with pytest.raises(UserError, match="format"):
        quant.load_into(tiny(), path)
    quant.save(tiny(), path, packed=False)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="whole"):
        quant.load_into(tiny(), path)


def test_nan_is_not_saved(tmp_path):
    net = tiny()
    with torch.no_grad():
        net.head.weight[0] = float("nan")
    with pytest.raises(UserError, match="NaN"):
        quant.save(net, tmp_path / "a.safetensors", packed=False)
    assert not list(tmp_path.iterdir())


def test_two_bit_resnet34_is_a_fourteenth_of_its_float_file(tmp_path):
    ensure_torchvision()
    import timm

    net = timm.create_model("resnet34", num_classes=1000).eval()
    quant.save(net, tmp_path / "float.safetensors", packed=False)
    quant.quantize(net, spec())
    quant.calibrate(net, torch.randn(2, 3, 32, 32))
    quant.save(net, tmp_path / "packed.safetensors", packed=True)
    size = {p.stem: p.stat().st_size for p in tmp_path.iterdir()}
    assert size["packed"] * 14 <= size["float"]
