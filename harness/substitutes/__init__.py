"""What images are made on: a network with its schedule of quantisation states, ensembles, and LGV's many weights.

It may import `attacks` (the protocol of a model), `zoo.quant` and `zoo.registry`. Begin with `network`; `ensembles` runs
several together or in turn, `lgv` walks one network through its snapshots.
"""

from harness.substitutes.ensembles import Combination, Ensemble, Rotation, Sampled, Softened, ensemble, mixture
from harness.substitutes.lgv import LGV, SNAPSHOT_BYTES
from harness.substitutes.network import Crafter, Every, Substitute, block_seed, substitute

__all__ = [
    "LGV",
    "SNAPSHOT_BYTES",
    "Combination",
    "Crafter",
    "Ensemble",
    "Every",
    "Rotation",
    "Sampled",
    "Softened",
    "Substitute",
    "block_seed",
    "ensemble",
    "mixture",
    "substitute",
]
