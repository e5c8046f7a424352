import sys

import pytest
import torch

from tests.zoo.quant.nets import images, quantized, spec, tiny
from zoo import quant
from zoo.errors import UserError
from zoo.quant.pack import pack_codes, unpack_codes


@pytest.mark.parametrize("bits", [1, 2, 3, 5, 8, 9])
@pytest.mark.parametrize("count", [1, 7, 64, 1001])
def test_codes_survive_packing(bits, count):
    codes = torch.randint(2**bits, (count,), generator=torch.Generator().manual_seed(bits))
    packed = pack_codes(codes, bits)
    assert packed.numel() == -(-count * bits // 8)
    assert torch.equal(unpack_codes(packed, bits, count).long(), codes)


def test_packing_works_across_chunks(monkeypatch):
    monkeypatch.setattr(sys.modules["zoo.quant.pack"], "_CHUNK", 16)
    codes = torch.randint(8, (100,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(unpack_codes(pack_codes(codes, 3), 3, 100).long(), codes)


METHODS = [("apot", bits) for bits in (2, 3, 4, 5, 6)] + [("uniform", bits) for bits in (2, 3, 8)]


@pytest.mark.parametrize(("method", "bits"), METHODS)
def test_logits_after_unpacking_are_bit_identical(method, bits):
    net = quantized(method, bits, bits)
    tensors, meta = quant.pack(net)
    assert tensors["expand.weight_codes"].numel() == 12 * 8 * 9 * bits // 8
    twin = quant.quantize(tiny(9), spec(method, bits, bits))
    quant.unpack(twin, tensors, meta)
    for state in ("wa", "w"):
        quant.set_state(net, state)
        quant.set_state(twin, state)
        assert torch.equal(net(images()), twin(images()))


def test_unpacked_weights_cannot_be_switched_off_packed_again_or_trained():
    twin = quant.quantize(tiny(), spec())
    quant.unpack(twin, *quant.pack(quantized()))
    assert quant.states(twin) == ("w", "wa")
    for state in ("fp", "a"):
        with pytest.raises(UserError, match="packed=False"):
            quant.set_state(twin, state)
    with pytest.raises(UserError, match="cannot be packed again"):
        quant.pack(twin)
    assert not quant.latent_weight(twin.expand).requires_grad
    with quant.frozen(twin):
        twin(images())


def test_released_edge_rounding_packs_exactly():
    net = quantized()
    quant.weight_quantizers(net)["stem"].largest_positive.fill_(True)
    with torch.no_grad():
        quant.latent_weight(net.stem)[0, 0, 0, 0] = -3 * quant.latent_weight(net.stem).max()
    twin = quant.quantize(tiny(), spec())
    quant.unpack(twin, *quant.pack(net))
    assert torch.equal(net(images()), twin(images()))


def test_packing_needs_finite_quantised_weights():
    with pytest.raises(UserError, match="packed=False"):
        quant.pack(tiny())
    net = quantized()
    with torch.no_grad():
        quant.latent_weight(net.expand)[0] = float("nan")
    with pytest.raises(UserError, match="'expand'"):
        quant.pack(net)


@pytest.mark.parametrize("change", ["missing", "extra", "short", "codes gone"])
def test_misfitting_tensors_are_refused_and_change_nothing(change):
    tensors, meta = quant.pack(quantized())
    if change == "missing":
        del tensors["bn1.weight"]
    elif change == "extra":
        tensors["stray"] = torch.zeros(1)
    elif change == "short":
        tensors["expand.weight_codes"] = tensors["expand.weight_codes"][:-1]
    else:
        del tensors["expand.weight_codes"]
    twin = quant.quantize(tiny(9), spec())
    before = {k: v.clone() for k, v in twin.state_dict().items()}
    with pytest.raises(UserError):
        quant.unpack(twin, tensors, meta)
    after = twin.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[k], v) for k, v in before.items())
