"""The attack on a smoothed classifier."""

import torch

from robustbench_dyn import ThreatModel
from robustbench_dyn.smoothing.eot import eot_pgd
from robustbench_dyn.threat_models import distance


def test_eot_pgd_takes_full_steps_along_tiny_gradients():
    x, y = torch.full((1, 3), 0.5), torch.tensor([0])

    def scores(x_adv, _step):
        return torch.stack([-1e-30 * x_adv.sum(dim=1), 1e-30 * x_adv.sum(dim=1)], dim=1)

    x_adv = eot_pgd(scores, x, y, ThreatModel("L2", 0.1))
    assert float(distance(x_adv, x, "L2")) > 0.09
