"""The exercises of notebooks 05 to 10, each with its reference and its typical mistakes."""

from math import erf, sqrt
from typing import ClassVar

import numpy as np
import torch
from scipy.special import logsumexp
from scipy.stats import kendalltau, spearmanr

from hmode.course.checking import exercise


@exercise("05.1", stars=2, minutes=15)
class rank_agreement:
    def inputs(rng):
        for rows in (6, 12):
            a = rng.exponential(20, rows)
            yield a, a + rng.exponential(15, rows)

    def right(a, b):
        return spearmanr(a, b).statistic

    mistakes: ClassVar = {
        "the values were correlated; correlate their ranks": (lambda a, b: np.corrcoef(a, b)[0, 1]),
        "argsort once gives the order, not the ranks; sort the order once more": (
            lambda a, b: np.corrcoef(a.argsort(), b.argsort())[0, 1]
        ),
        "this is Kendall's tau, which counts pairs; asked is Spearman's correlation": (
            lambda a, b: kendalltau(a, b).statistic
        ),
    }


def holm_by_hand(p, level, *, stop=True, back=True):
    order = np.argsort(p, kind="stable")
    passes = p[order] < level / np.arange(len(p), 0, -1)
    passes = np.logical_and.accumulate(passes) if stop else passes
    if not back:
        return passes
    found = np.zeros(len(p), bool)
    found[order] = passes
    return found


@exercise("05.2", stars=3, minutes=20)
class holm:
    def inputs(rng):
        yield np.array([0.3, 0.015, 0.004, 0.9]), 0.05
        yield np.array([0.020, 0.021, 0.024]), 0.05
        yield rng.random(20) ** 3, 0.05

    right = holm_by_hand
    mistakes: ClassVar = {
        "this is Bonferroni's rule, the same limit for all; Holm's limit grows from rank to rank": (
            lambda p, level: p < level / len(p)
        ),
        "each was tested by itself, without a correction": lambda p, level: p < level,
        "after the first that fails all larger ones fail too": (
            lambda p, level: holm_by_hand(p, level, stop=False)
        ),
        "the answers stand in the order of the sorted values; put them back": (
            lambda p, level: holm_by_hand(p, level, back=False)
        ),
    }


@exercise("05.3", stars=2, minutes=15)
class margin_loss:
    def inputs(rng):
        for gap, margin in ((1, 2.0), (3, 0.0), (2, 0.5)):
            yield torch.tensor(10 * rng.random((5, 9))), gap, margin

    def right(x, gap, margin):
        return (x[:, gap:] - x[:, :-gap] - margin).clamp(min=0).sum(dim=1).mean()

    mistakes: ClassVar = {
        "the margin is forgiven: subtract it from the rise, do not add it": (
            lambda x, gap, margin: (x[:, gap:] - x[:, :-gap] + margin).clamp(min=0).sum(1).mean()
        ),
        "the margin belongs inside the hinge": (
            lambda x, gap, margin: (
                ((x[:, gap:] - x[:, :-gap]).clamp(min=0) - margin).sum(dim=1).mean()
            )
        ),
        "these are the falls; the loss adds up the rises": (
            lambda x, gap, margin: (x[:, :-gap] - x[:, gap:] - margin).clamp(min=0).sum(1).mean()
        ),
        "this is a mean over the pairs; a list's loss is their sum": (
            lambda x, gap, margin: (x[:, gap:] - x[:, :-gap] - margin).clamp(min=0).mean()
        ),
    }


def votes_of(best, side, experts=range(3)):
    """How many cells of each block are coloured by each expert: [experts, blocks]."""
    blocks = best.reshape(best.shape[0] // side, side, -1, side).transpose(0, 2, 1, 3)
    blocks = blocks.reshape(-1, side * side)
    return np.stack([(blocks == k).sum(axis=1) for k in experts])


def mean_of_blocks(best, side):
    votes = votes_of(best, side)
    some = votes.sum(axis=0) > 0
    return (votes.max(axis=0)[some] / votes.sum(axis=0)[some]).mean()


def with_white(best, side):
    votes = votes_of(best, side, range(-1, 3))
    return votes.max(axis=0).sum() / votes.sum()


@exercise("06.1", stars=3, minutes=20)
class block_agreement:
    def inputs(rng):
        for rows, columns, side in ((8, 8, 4), (12, 8, 4), (6, 10, 2)):
            yield rng.choice([-1, -1, 0, 0, 1, 2], (rows, columns)), side

    def right(best, side):
        return votes_of(best, side).max(axis=0).sum() / (best >= 0).sum()

    mistakes: ClassVar = {
        "white cells (-1) voted too": with_white,
        "divided by all cells; asked is the share of the coloured ones": (
            lambda best, side: votes_of(best, side).max(axis=0).sum() / best.size
        ),
        "a mean over blocks lets a block of one coloured cell count like a full one": (
            mean_of_blocks
        ),
        "one expert for the whole image; the block should choose": (
            lambda best, side: votes_of(best, side).sum(axis=1).max() / (best >= 0).sum()
        ),
    }


def shares(errors, counted):
    winner = errors.argmin(axis=0)[counted]
    return np.array([(winner == k).mean() for k in range(len(errors))])


@exercise("06.2", stars=2, minutes=15)
class best_shares:
    def inputs(rng):
        for experts, side in ((3, 8), (3, 20), (4, 12)):
            truth = rng.random((side, side)) ** 4
            yield truth + rng.normal(0, 0.1, (experts, side, side)), truth, 0.05

    def right(experts, truth, floor):
        return shares(np.abs(experts - truth), truth > floor)

    mistakes: ClassVar = {
        "the empty background took part: count only cells above the floor": (
            lambda experts, truth, floor: shares(np.abs(experts - truth), truth > -1)
        ),
        "the least signed error is the one farthest below; take sizes first": (
            lambda experts, truth, floor: shares(experts - truth, truth > floor)
        ),
        "divided by all cells: the shares of the coloured cells sum to one": (
            lambda experts, truth, floor: (
                shares(np.abs(experts - truth), truth > floor) * (truth > floor).mean()
            )
        ),
        "these are numbers of cells, not shares": (
            lambda experts, truth, floor: (
                shares(np.abs(experts - truth), truth > floor) * (truth > floor).sum()
            )
        ),
    }


TENTHS = np.array([(i, j, 10 - i - j) for i in range(11) for j in range(11 - i)]) / 10  # [66, 3]


def unconfined(errors):
    solved = np.linalg.solve(errors @ errors.T, np.ones(len(errors)))
    return (((solved / solved.sum()) @ errors) ** 2).sum()


@exercise("06.3", stars=3, minutes=25)
class best_mixture:
    def inputs(rng):
        for cells, bias in ((16, 0.0), (16, 1.0), (40, -0.5)):
            yield (rng.normal(0, 1, cells) + rng.normal(bias, [[0.3], [0.6], [1.0]], (3, cells)),)

    def right(errors):
        return ((TENTHS @ errors) ** 2).sum(axis=1).min()

    mistakes: ClassVar = {
        "this is the best expert alone; mix": lambda errors: (errors**2).sum(axis=1).min(),
        "each cell chose its own weights; the block has one set of them": (
            lambda errors: ((TENTHS @ errors) ** 2).min(axis=0).sum()
        ),
        "these weights are not confined to 0 to 1": unconfined,
        "this is the plain average": lambda errors: (errors.mean(axis=0) ** 2).sum(),
    }


@exercise("07.1", stars=2, minutes=15)
class disagreeing:
    def inputs(rng):
        for methods in (5, 12):
            a = rng.random(methods)
            yield a, a + rng.normal(0, 0.3, methods)

    def right(a, b):
        return (1 - kendalltau(a, b).statistic) / 2

    mistakes: ClassVar = {
        "this is the share of pairs that agree": lambda a, b: (1 + kendalltau(a, b).statistic) / 2,
        "this is tau itself; asked is the share of pairs": lambda a, b: kendalltau(a, b).statistic,
        "a method and itself are no pair: there are n (n - 1) / 2": (
            lambda a, b: (1 - kendalltau(a, b).statistic) / 2 * (len(a) - 1) / len(a)
        ),
        "this comes from Spearman's correlation, which does not count pairs": (
            lambda a, b: (1 - spearmanr(a, b).statistic) / 2
        ),
    }


def brightest(image):
    """Stands for a network: not a sum over pixels, so that where one cuts matters."""
    return float(image.sum(dim=0).max())


def uneven(image):
    return float(image.mean() ** 2 + image[0, 0, 0])


def tiles_of(image, height, width):
    return [
        image[:, top : top + height, left : left + width]
        for top in range(0, image.shape[1], height)
        for left in range(0, image.shape[2], width)
    ]


@exercise("07.2", stars=2, minutes=15)
class tile_sum:
    def inputs(rng):
        for count, height, width, tile in (
            (brightest, 8, 12, 4),
            (uneven, 12, 6, 2),
            (brightest, 32, 32, 16),
        ):
            yield count, torch.tensor(rng.random((3, height, width))), tile

    def right(count, image, tile):
        return sum(count(part) for part in tiles_of(image, tile, tile))

    mistakes: ClassVar = {
        "this is the count of the whole image": lambda count, image, tile: count(image),
        "tiles hold different people: add their counts, do not average": (
            lambda count, image, tile: np.mean([count(t) for t in tiles_of(image, tile, tile)])
        ),
        "these are strips over the whole width: cut the columns as well": (
            lambda count, image, tile: sum(count(t) for t in tiles_of(image, tile, image.shape[2]))
        ),
        "these are strips over the whole height: cut the rows as well": (
            lambda count, image, tile: sum(count(t) for t in tiles_of(image, image.shape[1], tile))
        ),
    }


def transported(a, b, cost, epsilon):
    """Sinkhorn's iteration in logarithms."""
    u, v = np.zeros(len(a)), np.zeros(len(b))
    for _ in range(500):
        v = np.log(b) - logsumexp(u[:, None] - cost / epsilon, axis=0)
        u = np.log(a) - logsumexp(v - cost / epsilon, axis=1)
    return np.exp(u[:, None] + v - cost / epsilon)


def in_plain_numbers(a, b, cost, epsilon, steps=500):
    kernel = np.exp(-cost / epsilon)
    u = np.ones(len(a))
    for _ in range(steps):
        v = b / (kernel.T @ u)
        u = a / (kernel @ v)
    return u[:, None] * kernel * v


@exercise("07.3", stars=3, minutes=30, tolerance=1e-4)
class transport_plan:
    def inputs(rng):
        place = 4.0 * np.arange(6)
        for shift, epsilon in ((0.0, 30.0), (1.0, 10.0), (200.0, 10.0)):
            a, b = (rng.random(6) + 0.2 for _ in range(2))
            cost = (place[:, None] - place - shift) ** 2
            yield a / a.sum(), b / b.sum(), cost, epsilon

    right = transported
    mistakes: ClassVar = {
        "people are sent as far as possible: the cost belongs in the exponent with a minus": (
            lambda a, b, cost, epsilon: transported(a, b, -cost, epsilon)
        ),
        "this plan does not look at the cost: it is the product of the two sums": (
            lambda a, b, cost, epsilon: np.outer(a, b)
        ),
        "exp(-C / ε) underflows to zero here, and the division by it fails: use logarithms": (
            in_plain_numbers
        ),
        "only one of the two sums is right: scale rows and columns in turn, many times": (
            lambda a, b, cost, epsilon: in_plain_numbers(a, b, cost, epsilon, steps=1)
        ),
    }


@exercise("08.1", stars=1, minutes=10)
class conv_cost:
    def inputs(rng):
        yield from ((64, 128, 3, 32), (512, 256, 1, 16), (3, 64, 3, 224))

    def right(inputs, outputs, kernel, side):
        weights = inputs * outputs * kernel**2
        return weights + outputs, weights * side**2

    mistakes: ClassVar = {
        "each output channel has a bias, which is a parameter too": (
            lambda i, o, k, side: (i * o * k**2, i * o * k**2 * side**2)
        ),
        "the kernel has two sides": lambda i, o, k, side: (i * o * k + o, i * o * k * side**2),
        "the weights are used again at every place of the output": (
            lambda i, o, k, side: (i * o * k**2 + o, i * o * k**2)
        ),
        "every output channel looks at every input channel": (
            lambda i, o, k, side: (o * k**2 + o, o * k**2 * side**2)
        ),
    }


@exercise("08.2", stars=2, minutes=15)
class memory_with_checkpoints:
    def inputs(rng):
        for blocks in (3, 5, 8):
            yield rng.integers(1, 20, blocks).tolist(), rng.integers(20, 90, blocks).tolist()

    def right(inputs, insides):
        return sum(inputs) + max(insides)

    mistakes: ClassVar = {
        "this is what is kept without checkpoints": lambda i, inside: sum(i) + sum(inside),
        "on the way back one block at a time has its inside again": lambda i, inside: sum(i),
        "the inputs of all blocks stay, not only that of the largest": (
            lambda i, inside: max(a + b for a, b in zip(i, inside, strict=True))
        ),
        "the insides of the blocks are not there at the same time: the largest decides": (
            lambda i, inside: sum(inside)
        ),
    }


@exercise("08.3", stars=1, minutes=5)
class crops_that_fit:
    def inputs(rng):
        yield from ((8, 1.9e9, 0.42e9, 0.2), (24, 1.3e9, 1.7e9, 0.1), (2, 1.9e9, 0.42e9, 0.2))

    def right(card, weights, kept, spare):
        return max(0, int(((1 - spare) * 1e9 * card - weights) // kept))

    mistakes: ClassVar = {
        "the share that is to be left free was filled": (
            lambda card, weights, kept, spare: max(0, int((1e9 * card - weights) // kept))
        ),
        "the weights take room too": (
            lambda card, weights, kept, spare: int((1 - spare) * 1e9 * card // kept)
        ),
        "there are no parts of a crop: round down": (
            lambda card, weights, kept, spare: ((1 - spare) * 1e9 * card - weights) / kept
        ),
        "where not even the weights fit, the answer is 0": (
            lambda card, weights, kept, spare: ((1 - spare) * 1e9 * card - weights) // kept
        ),
    }


@exercise("09.1", stars=2, minutes=15)
class broadcast_minimum:
    def inputs(rng):
        for batch, side in ((2, 3), (4, 6), (8, 1)):
            yield (torch.tensor(rng.random((batch, side, side))),)

    def right(targets):
        return targets.mean(dim=0).expand(len(targets), 1, -1, -1)

    mistakes: ClassVar = {
        "these are the targets: there the right loss is least, not the broadcast one": (
            lambda targets: targets[:, None]
        ),
        "the mean is over the batch at each place, not over the pixels of each map": (
            lambda targets: targets.mean((1, 2))[:, None, None, None].expand_as(targets[:, None])
        ),
        "the shape is that of the targets; the predictions have a channel, [B, 1, h, w]": (
            lambda targets: targets.mean(dim=0).expand(len(targets), -1, -1)
        ),
        "the squares are added, so the mean is what minimises; this is the median": (
            lambda targets: targets.quantile(0.5, dim=0).expand(len(targets), 1, -1, -1)
        ),
    }


@exercise("09.2", stars=1, minutes=10)
class share_inside:
    def inputs(rng):
        yield from ((15, 4.0), (7, 4.0), (25, 6.0))

    def right(window, sigma):
        return erf(window / 2 / (sigma * sqrt(2))) ** 2

    mistakes: ClassVar = {
        "this is the share of a row; the window is a square": (
            lambda window, sigma: erf(window / 2 / (sigma * sqrt(2)))
        ),
        "the window reaches half its width to either side": (
            lambda window, sigma: erf(window / (sigma * sqrt(2))) ** 2
        ),
        "erf is of x / (σ √2)": lambda window, sigma: erf(window / 2 / sigma) ** 2,
    }


@exercise("09.3", stars=2, minutes=10)
class chance_of_winning:
    def inputs(rng):
        yield from ((1,), (2,), (101,))

    def right(looks):
        return looks / (looks + 1)

    mistakes: ClassVar = {
        "this is the chance of the one that looks once": lambda looks: 1 / (looks + 1),
        "there are n + 1 numbers, the n looks and the single one": lambda looks: (
            (looks - 1) / looks
        ),
        "the looks are not independent races: all meet the same single number": (
            lambda looks: 1 - 0.5**looks
        ),
    }


@exercise("10.1", stars=1, minutes=5)
class mirrored_mean:
    def inputs(rng):
        for count in (uneven, lambda image: float((image[:, :2, :2] ** 2).sum())):
            yield count, torch.tensor(rng.random((3, 5, 7)))

    def right(count, image):
        return (count(image) + count(image.flip(-1))) / 2

    mistakes: ClassVar = {
        "turned upside down; a mirror exchanges left and right": (
            lambda count, image: (count(image) + count(image.flip(-2))) / 2
        ),
        "the colours were exchanged; a mirror exchanges left and right": (
            lambda count, image: (count(image) + count(image.flip(0))) / 2
        ),
        "both pictures hold the same people: take the mean, not the sum": (
            lambda count, image: count(image) + count(image.flip(-1))
        ),
        "this is the mirror image alone": lambda count, image: count(image.flip(-1)),
    }


@exercise("10.2", stars=1, minutes=5)
class chosen_error:
    def inputs(rng):
        yield {0.7: 14.0, 1.0: 11.0, 1.4: 16.0}, {0.7: 12.0, 1.0: 13.5, 1.4: 19.0}
        yield {0.5: 9.0, 1.0: 9.5, 2.0: 30.0}, {0.5: 8.5, 1.0: 7.0, 2.0: 33.0}

    def right(held_out, test):
        factor = min(held_out, key=held_out.get)
        return factor, test[factor]

    mistakes: ClassVar = {
        "chosen on the test images: the choice has seen the answers": (
            lambda held_out, test: (min(test, key=test.get), min(test.values()))
        ),
        "the error of the choice is a little flattered where it was chosen; report the test's": (
            lambda held_out, test: (min(held_out, key=held_out.get), min(held_out.values()))
        ),
        "this factor has the largest error": (
            lambda held_out, test: (
                max(held_out, key=held_out.get),
                test[max(held_out, key=held_out.get)],
            )
        ),
    }
