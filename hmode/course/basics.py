"""The exercises of notebooks 00 to 04, each with its reference and its typical mistakes."""

from typing import ClassVar

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.distance import cdist
from scipy.stats import binom, hypergeom

from hmode.course.checking import exercise
from hmode.density import local_counts


def crowds(rng, images):
    """True counts of some images and a network's, `[n]` each."""
    true = rng.integers(20, 300, images).astype(float)
    return true, true * rng.uniform(0.5, 1.6, images) + rng.uniform(0, 20, images)


@exercise("00.1", stars=1, minutes=5)
class mean_wins:
    def inputs(rng):
        for images in (6, 40):
            true, predicted = crowds(rng, images)
            yield true, predicted, true.mean()
        yield np.array([10.0, 10.0]), np.array([20.0, 0.0]), 20.0

    def right(true, predicted, mean):
        return abs(true - mean) < abs(true - predicted)

    mistakes: ClassVar = {
        "it is the other way round: these are the images where the network is closer": (
            lambda true, predicted, mean: abs(true - mean) > abs(true - predicted)
        ),
        "errors were compared with their sign; how far off is a matter of size": (
            lambda true, predicted, mean: true - mean < true - predicted
        ),
        "a tie was counted as a win": (
            lambda true, predicted, mean: abs(true - mean) <= abs(true - predicted)
        ),
    }


@exercise("00.2", stars=2, minutes=10)
class best_factor:
    def inputs(rng):
        for images in (8, 30):
            yield *crowds(rng, images), np.linspace(0.5, 2.0, 61)

    def right(true, predicted, factors):
        return min(factors, key=lambda f: np.abs(true - f * predicted).mean())

    mistakes: ClassVar = {
        "this is the place of the best factor in the list, not the factor": (
            lambda true, predicted, factors: (
                np.abs(true - np.outer(factors, predicted)).mean(axis=1).argmin()
            )
        ),
        "this factor has the largest error": (
            lambda true, predicted, factors: max(
                factors, key=lambda f: np.abs(true - f * predicted).mean()
            )
        ),
        "this factor makes the sums equal: it removes the bias, but not the mean absolute error": (
            lambda true, predicted, factors: min(
                factors, key=lambda f: abs((true - f * predicted).sum())
            )
        ),
        "this factor makes the squared error least, where the absolute one was asked for": (
            lambda true, predicted, factors: min(
                factors, key=lambda f: ((true - f * predicted) ** 2).sum()
            )
        ),
    }


def reflected_by(mode):
    def row(column, length, sigma):
        dots = np.zeros(length)
        dots[column] = 1.0
        return gaussian_filter1d(dots, sigma, mode=mode, truncate=8)

    return row


def normalised_row(column, length, sigma):
    bell = np.exp(-0.5 * ((np.arange(length) - column) / sigma) ** 2)
    return bell / bell.sum()


@exercise("01.1", stars=1, minutes=10, tolerance=1e-4)
class reflected:
    def inputs(rng):
        yield from ((2, 64, 4.0), (0, 64, 4.0), (60, 64, 3.0), (5, 32, 2.5))

    right = reflected_by("reflect")
    mistakes: ClassVar = {
        "what leaves the frame is lost: the row does not sum to one": reflected_by("constant"),
        "mirrored at the centre of the outermost pixel; the frame ends at the pixel's edge": (
            reflected_by("mirror")
        ),
        "normalised inside the frame, not mirrored": normalised_row,
        "what leaves on one side comes in on the other: wrapped, not mirrored": (
            reflected_by("wrap")
        ),
    }


@exercise("01.2", stars=2, minutes=15, tolerance=1e-5)
class shaken:
    def inputs(rng):
        for side, region in ((16, 4), (32, 8), (32, 16)):
            before, after = rng.random((2, side, side)) ** 3
            yield torch.tensor(before), torch.tensor(after), region

    def right(before, after, region):
        return local_counts(after - before, region).abs().sum() / before.sum()

    mistakes: ClassVar = {
        "single pixels were compared: sum each region first": (
            lambda before, after, region: (after - before).abs().sum() / before.sum()
        ),
        "too much and too little cancel: take the size of each region's difference first": (
            lambda before, after, region: (after - before).sum().abs() / before.sum()
        ),
        "this is a mean over regions; divide the sum by the people": (
            lambda before, after, region: local_counts(after - before, region).abs().mean()
        ),
        "this is the sum of the differences; divide it by the people": (
            lambda before, after, region: local_counts(after - before, region).abs().sum()
        ),
    }


def nearest(points):
    distance = cdist(points, points)
    np.fill_diagonal(distance, np.inf)
    return distance.min(axis=1)


@exercise("01.3", stars=2, minutes=15)
class share_merged:
    def inputs(rng):
        for people, sigma in ((12, 2.0), (60, 2.0), (40, 1.0)):
            yield 60 * rng.random((people, 2)), sigma

    def right(points, sigma):
        return (nearest(points) <= 2 * sigma).mean()

    mistakes: ClassVar = {
        "each head found itself, at distance 0": lambda points, sigma: 1.0,
        "the limit is 2σ, not σ": lambda points, sigma: (nearest(points) <= sigma).mean(),
        "this is the share of the pairs; asked was that of the heads": (
            lambda points, sigma: (
                ((cdist(points, points) <= 2 * sigma).sum() - len(points))
                / (len(points) * (len(points) - 1))
            )
        ),
        "this is the share of heads that stand apart": (
            lambda points, sigma: (nearest(points) > 2 * sigma).mean()
        ),
    }


@exercise("02.1", stars=1, minutes=10)
class oracle_mae:
    def inputs(rng):
        for images in (5, 50):
            true = rng.integers(20, 300, images).astype(float)
            yield true[:, None] + rng.normal(0, 30, (images, 3)) + rng.normal(0, 10, 3), true

    def right(by_map, true):
        return np.abs(by_map - true[:, None]).min(axis=1).mean()

    mistakes: ClassVar = {
        "the least signed error is the one farthest below; take sizes first": (
            lambda by_map, true: (by_map - true[:, None]).min(axis=1).mean()
        ),
        "this is the best single expert; the oracle chooses anew for each image": (
            lambda by_map, true: np.abs(by_map - true[:, None]).mean(axis=0).min()
        ),
        "this is the error of the experts' average": (
            lambda by_map, true: np.abs(by_map.mean(axis=1) - true).mean()
        ),
        "this oracle chooses the worst expert": (
            lambda by_map, true: np.abs(by_map - true[:, None]).max(axis=1).mean()
        ),
    }


def weights_of_cells(cells, factor, align_corners):
    """By hand: how much of each output pixel comes from each cell."""
    out = np.arange(cells * factor)
    at = out * (cells - 1) / (cells * factor - 1) if align_corners else (out + 0.5) / factor - 0.5
    at = at.clip(0, cells - 1)
    return np.clip(1 - np.abs(at[:, None] - np.arange(cells)), 0, None).sum(axis=0)


@exercise("02.2", stars=2, minutes=15, tolerance=1e-4)
class cell_weights:
    def inputs(rng):
        yield from ((4, 4, True), (4, 4, False), (6, 2, True), (3, 8, True))

    right = weights_of_cells
    mistakes: ClassVar = {
        "the two settings of align_corners are exchanged": (
            lambda cells, factor, align: weights_of_cells(cells, factor, not align)
        ),
        "divided by the factor: asked is the sum over the upsampled row": (
            lambda cells, factor, align: weights_of_cells(cells, factor, align) / factor
        ),
        "a weight for each pixel of the upsampled row; asked is one for each cell": (
            lambda cells, factor, align: np.ones(cells * factor)
        ),
    }


def seen_by(layers, *, first=False, strides=True):
    """Receptive field; `first` lets a layer's own stride count for its kernel."""
    field, jump = 1, 1
    for kernel, stride in layers:
        jump *= stride if first and strides else 1
        field += (kernel - 1) * jump
        jump *= stride if strides and not first else 1
    return field


@exercise("02.3", stars=2, minutes=15)
class receptive_field:
    def inputs(rng):
        block = [(3, 1), (3, 1), (2, 2)]
        yield (block,)
        yield (block + [(5, 2), (3, 1)],)
        yield (block * 2 + [(3, 1), (3, 1), (3, 1), (2, 2)] * 2 + [(3, 1)] * 3,)

    right = seen_by
    mistakes: ClassVar = {
        "strides were forgotten: a step in a deep map is several pixels of the image": (
            lambda layers: seen_by(layers, strides=False)
        ),
        "a layer's own stride acts on the layers after it, not on its own kernel": (
            lambda layers: seen_by(layers, first=True)
        ),
        "this is the stride of the output, not how much one of its cells sees": (
            lambda layers: np.prod([stride for _, stride in layers])
        ),
        "a kernel of k adds k - 1 steps, not k": (
            lambda layers: (
                1 + sum(k * np.prod([s for _, s in layers[:i]]) for i, (k, _) in enumerate(layers))
            )
        ),
    }


@exercise("03.1", stars=2, minutes=15)
class least_error:
    def inputs(rng):
        for pairs, experts in ((8, 2), (30, 3), (10, 5)):
            yield (rng.normal(0, 1, (pairs, experts)) + 0.5,)

    def right(errors):
        low, high = errors.min(axis=1), errors.max(axis=1)
        return np.where((low <= 0) & (high >= 0), 0.0, np.minimum(abs(low), abs(high)))

    mistakes: ClassVar = {
        "this is the better expert alone; between errors of opposite sign a mixture can reach 0": (
            lambda errors: np.abs(errors).min(axis=1)
        ),
        "this is the error of the plain average": lambda errors: np.abs(errors.mean(axis=1)),
        "weights outside 0 to 1 could always reach 0; a softmax has none": (
            lambda errors: np.zeros(len(errors))
        ),
        "this is the average of the errors' sizes": lambda errors: np.abs(errors).mean(axis=1),
    }


def one_hot(gate, dim):
    return torch.zeros_like(gate).scatter_(dim, gate.argmax(dim=dim, keepdim=True), 1.0)


@exercise("03.2", stars=1, minutes=10)
class harden:
    def inputs(rng):
        yield torch.tensor(rng.normal(size=(3, 3, 5, 4))).softmax(dim=1), 1
        yield torch.tensor(rng.normal(size=(3, 6, 6))).softmax(dim=0), 0
        yield torch.tensor(rng.normal(size=(2, 7, 3))).softmax(dim=2), 2

    right = one_hot
    mistakes: ClassVar = {
        "the largest along the last dimension was taken, whatever `dim` is": (
            lambda gate, dim: one_hot(gate, -1)
        ),
        "in a group of three the largest weight may be below one half": (
            lambda gate, dim: (gate > 0.5).double()
        ),
        "these are the numbers of the largest; asked are weights, 1 for it and 0 for the others": (
            lambda gate, dim: gate.argmax(dim=dim)
        ),
        "the largest keeps its soft weight; it should take all, 1": (
            lambda gate, dim: gate * one_hot(gate, dim)
        ),
    }


@exercise("03.3", stars=3, minutes=20)
class gate_gradient:
    def inputs(rng):
        for experts in (2, 3, 5):
            yield torch.tensor(rng.normal(size=experts)), torch.tensor(rng.random(experts))

    def right(logits, experts):
        logits = logits.clone().requires_grad_()
        (logits.softmax(dim=0) * experts).sum().backward()
        return logits.grad

    mistakes: ClassVar = {
        "raising one logit lowers the other weights too: the group's value must be subtracted": (
            lambda logits, experts: logits.softmax(0) * experts
        ),
        "an expert that weighs little moves the group little: its weight is missing": (
            lambda logits, experts: experts - logits.softmax(0) @ experts
        ),
        "p (1 - p) e is only the expert's own part; the others' weights change as well": (
            lambda logits, experts: logits.softmax(0) * (1 - logits.softmax(0)) * experts
        ),
        "the sign is turned round": (
            lambda logits, experts: logits.softmax(0) * (logits.softmax(0) @ experts - experts)
        ),
    }


def rises(x, gap):
    return np.maximum(x[gap:] - x[:-gap], 0).sum()


def ranked(true, predicted):
    return predicted[np.argsort(-true, kind="stable")]


@exercise("04.1", stars=2, minutes=15)
class relative_loss:
    def inputs(rng):
        dealt = rng.permutation(9)
        yield np.arange(9.0, 0, -1)[dealt], np.array([8.0, 9, 4, 7, 3, 5, 2, 1, 6])[dealt], 3
        for regions, sublists in ((9, 3), (9, 2), (12, 4)):
            true = 10 * rng.random(regions)
            yield true, true + rng.normal(0, 3, regions), sublists

    def right(true, predicted, sublists):
        return rises(ranked(true, predicted), sublists)

    mistakes: ClassVar = {
        "ranked by the predicted counts nothing can ever rise; rank by the true ones": (
            lambda true, predicted, sublists: rises(ranked(predicted, predicted), sublists)
        ),
        "turned round: the list begins with the most crowded region, and rises add up, not falls": (
            lambda true, predicted, sublists: rises(ranked(-true, predicted), sublists)
        ),
        "neighbours were compared; with n sub-lists it is each count and the n-th after it": (
            lambda true, predicted, sublists: rises(ranked(true, predicted), 1)
        ),
        "the list was cut into pieces; it is dealt like cards, every n-th to the same sub-list": (
            lambda true, predicted, sublists: sum(
                rises(part, 1) for part in np.split(ranked(true, predicted), sublists)
            )
        ),
        "the list is not sorted by the true counts": (
            lambda true, predicted, sublists: rises(predicted, sublists)
        ),
    }


def pushes(x, sublists, up=1.0, down=1.0):
    """+1 for the one that rose, -1 for the one before it, over all rises."""
    rose = (x[sublists:] > x[:-sublists]).astype(float)
    gradient = np.zeros(len(x))
    gradient[sublists:] += up * rose
    gradient[:-sublists] -= down * rose
    return gradient


@exercise("04.2", stars=2, minutes=15)
class relative_gradient:
    def inputs(rng):
        for regions, sublists in ((9, 3), (12, 2), (7, 1)):
            yield 10 * rng.random(regions), sublists

    def right(x, sublists):
        x = torch.tensor(x, requires_grad=True)
        torch.relu(x[sublists:] - x[:-sublists]).sum().backward()
        return x.grad

    mistakes: ClassVar = {
        "the sign is turned round: the loss grows with the count that rose": (
            lambda x, sublists: -pushes(x, sublists)
        ),
        "only the counts that rose are pushed; each rise also has the one before it": (
            lambda x, sublists: pushes(x, sublists, down=0)
        ),
        "only the counts before a rise are pushed; each rise also has the one that rose": (
            lambda x, sublists: pushes(x, sublists, up=0)
        ),
        "neighbours were compared; with n sub-lists it is each count and the n-th after it": (
            lambda x, sublists: pushes(x, 1)
        ),
        "the hinge's slope is 1 however large the rise is": (
            lambda x, sublists: (
                np.pad(np.maximum(x[sublists:] - x[:-sublists], 0), (sublists, 0))
                - np.pad(np.maximum(x[sublists:] - x[:-sublists], 0), (0, sublists))
            )
        ),
    }


@exercise("04.3", stars=3, minutes=20)
class chance_of_a_pair:
    def inputs(rng):
        yield from ((60, 64, 9), (40, 64, 9), (52, 64, 6), (63, 64, 9))

    def right(empty, regions, chosen):
        return hypergeom(regions, regions - empty, chosen).sf(1)

    mistakes: ClassVar = {
        "no region is chosen twice: draw without putting back": (
            lambda empty, regions, chosen: binom(chosen, 1 - empty / regions).sf(1)
        ),
        "one region with people is no pair: at least two are needed": (
            lambda empty, regions, chosen: hypergeom(regions, regions - empty, chosen).sf(0)
        ),
        "this is the chance that there is no pair": (
            lambda empty, regions, chosen: hypergeom(regions, regions - empty, chosen).cdf(1)
        ),
        "more than two regions with people hold a pair as well": (
            lambda empty, regions, chosen: hypergeom(regions, regions - empty, chosen).pmf(2)
        ),
    }
