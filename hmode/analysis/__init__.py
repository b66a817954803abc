"""Beyond the paper: how much a gate could still gain, and what the best scale follows.

With `predict` from `hmode.evaluation`:

    views = [view(sample, predict(model, sample)) for sample in test]
    oracle_errors(views)
    best = [best_scale(v.experts, v.truth) for v in views]
    scale_information(best, [v.proxies["perspective"] for v in views], rng=np.random.default_rng(0))
"""

from hmode.analysis.gates import gate_use
from hmode.analysis.gradients import gradient_norms
from hmode.analysis.information import (
    Information,
    mutual_information,
    quantile_bins,
    scale_information,
)
from hmode.analysis.oracle import best_choice, best_mixture, best_scale, oracle_errors
from hmode.analysis.order import order_errors, wrong_pairs
from hmode.analysis.scales import (
    Confusion,
    confusion,
    expert_weights,
    head_sizes,
    right_expert,
)
from hmode.analysis.views import View, map_names, view

__all__ = [
    "Confusion",
    "Information",
    "View",
    "best_choice",
    "best_mixture",
    "best_scale",
    "confusion",
    "expert_weights",
    "gate_use",
    "gradient_norms",
    "head_sizes",
    "map_names",
    "mutual_information",
    "oracle_errors",
    "order_errors",
    "quantile_bins",
    "right_expert",
    "scale_information",
    "view",
    "wrong_pairs",
]
