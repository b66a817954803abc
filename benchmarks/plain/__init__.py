"""The same computations as hmode's in their plain form, written from the published descriptions.

One Gaussian filter per head, one full-size map per output, a loop per image, map and region,
torch's defaults: what a careful script does that was never made fast. Nothing here uses hmode's
fast forms; the networks and the containers of maps and crops are hmode's own.
"""

from benchmarks.plain.density import adaptive_sigmas, filtered, stamped, untruncated
from benchmarks.plain.losses import total_loss
from benchmarks.plain.training import PlainStep, count, targets

__all__ = [
    "PlainStep",
    "adaptive_sigmas",
    "count",
    "filtered",
    "stamped",
    "targets",
    "total_loss",
    "untruncated",
]
