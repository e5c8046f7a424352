import torch

from tests.zoo.quant.nets import images, spec, tiny
from zoo import quant
from zoo.quant.bench import step_cost


def test_step_cost_measures_both_and_leaves_the_network_alone():
    net = tiny()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    cost = step_cost(net, spec(), images(), rounds=3)
    assert min(cost.full, cost.quantized, cost.ratio) > 0
    assert not quant.is_quantized(net)
    assert all(p.requires_grad for p in net.parameters())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
