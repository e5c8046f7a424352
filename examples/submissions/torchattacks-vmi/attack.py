"""VMI-FGSM of the package torchattacks, unchanged; each of its iterations makes N + 1 forward passes."""

from harness.attacks.adapters import TorchAttack

attack = TorchAttack("VMIFGSM", (("N", 5), ("forwards", 6)))
