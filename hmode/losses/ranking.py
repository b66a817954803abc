"""GRL, the global ranking loss that REL is compared with (Table IX).

Yang et al. ("Weakly-supervised crowd counting learns from sorting rather than locations", ECCV
2020) teach a network to sort the images of a batch by their crowds, through the differentiable
relaxation of sorting of Grover et al. (NeuralSort, ICLR 2019).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from hmode.errors import InputError


def ranking_loss(counts: Tensor, true: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Cross entropy of the predicted with the true ranking of a batch of images.

    The paper follows Yang et al. without details. Here: each row of the permutation matrices is a
    distribution over the images that may hold this rank, and the loss is the mean over ranks of
    the rows' cross entropy, less that of the true row with itself, so that it is zero at its best.
    Counts are divided by the mean true count (of at least one person), which makes the loss the
    same for sparse and dense crowds. True counts are rounded to whole people; images that tie
    share their ranks evenly, and the loss then asks for equal predictions. Where several processes
    train together, each ranks its own share of the batch.

    Args:
        counts: `[B]`, predicted people in each image.
        true: `[B]`, people in each image; carries no gradient.
        temperature: of the predicted permutation, in mean true counts. The smaller, the harder.

    Returns:
        A scalar of at least 0, in nats; zero for a batch of one.

    Raises:
        InputError: the counts are not two vectors of one length, or the temperature is not
            positive.
    """
    if counts.ndim != 1 or counts.shape != true.shape:
        raise InputError(
            f"counts have shape {list(counts.shape)} and true {list(true.shape)}, expected [B] both"
        )
    true = true.detach().round()
    mean = true.mean().clamp(min=1.0)
    truth = permutation(true)  # [B, B]
    log_soft = log_soft_permutation(counts / mean, temperature)
    return F.kl_div(log_soft, truth.to(log_soft.dtype), reduction="batchmean")


def permutation(scores: Tensor) -> Tensor:
    """The matrix that sorts `[n]` in descending order, `[n, n]`: rank → share of each item.

    Items that tie share their ranks evenly; without ties it is a permutation matrix.
    """
    ranked = scores.sort(descending=True).values
    same = (scores == ranked[:, None]).float()
    return same / same.sum(dim=1, keepdim=True)


def log_soft_permutation(scores: Tensor, temperature: float) -> Tensor:
    """The logarithm of NeuralSort's relaxation of `permutation` (Grover et al., eq. 5).

    Row k of the relaxed matrix is softmax(((n + 1 - 2k) s - A 1) / temperature), with
    A_ij = |s_i - s_j|; its rows sum to one.

    Raises:
        InputError: the temperature is not positive.
    """
    if not temperature > 0:
        raise InputError(f"temperature is {temperature!r}, expected a positive number")
    n = len(scores)
    distances = (scores[:, None] - scores).abs().sum(dim=1)  # [n]
    factors = n - 1 - 2 * torch.arange(n, device=scores.device, dtype=scores.dtype)
    logits = factors[:, None] * scores - distances  # [rank, item]
    return (logits / temperature).log_softmax(dim=1)
