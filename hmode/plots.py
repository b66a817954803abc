"""Pictures: each function draws on axes it is given, or makes a figure and returns it.

Density is drawn in "magma", gates and attention in "viridis", signed errors in "RdBu_r" around
zero. Each thing has one colour in all figures (`COLOURS`); what is none of them takes those of
`PALETTE` in turn, of which no thing has any.
"""

from base64 import b64encode
from collections.abc import Iterable, Sequence
from io import BytesIO

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
import torch.nn.functional as F
from IPython import get_ipython
from IPython.core.pylabtools import print_figure
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib_inline.backend_inline import set_matplotlib_formats
from PIL import Image

from hmode.counting import Count
from hmode.data import CrowdImage
from hmode.density import density_map
from hmode.method.mixture import Level
from hmode.metrics import Evaluation
from hmode.models import HMoDE

PALETTE = ("#332288", "#999933", "#44aa99", "#cc6677", "#aa4499", "#661100", "#ddcc77")

# What a colour means, in every figure. Experts are told apart under all common colour blindness,
# and so are the networks; `groups` share one.
COLOURS = {
    "E1": "#0173b2",
    "E2": "#029e73",
    "E3": "#de8f05",
    "E4": "#ca9161",
    "E5": "#fbafe4",
    "groups": "#cc78bc",
    "final": "#d55e00",
    "truth": "#222222",
    "head": "#ece133",
    "mean": "#949494",
    "Baseline": "#6f6f6f",
    "HMoDE": "#882255",
    "HMoDE+REL": "#56b4e9",
}
SHOWN_DPI, SHOWN_PIXELS = 120, 860  # of a figure in a notebook: sharp, and yet small in the file
JPEG_SHARE = 0.75  # of these pixels where there are photographs


def colours(names: Iterable[str]) -> list:
    """A colour for each name: that of `COLOURS`, or the palette's by its place."""
    return [COLOURS.get(name, PALETTE[i % len(PALETTE)]) for i, name in enumerate(names)]


def subplots(*grid: int, figsize: tuple[float, float], **options) -> tuple[Figure, Axes]:
    """As pyplot's, but pyplot does not know the figure: what sliders draw while another cell runs
    is not shown, drawn on or closed by that cell."""
    figure = Figure(figsize=figsize)
    return figure, figure.subplots(*grid, **options)


def use_style() -> None:
    """The look of all figures: seaborn's "ticks" theme, text of at least 9 pt.

    Inside a notebook figures are kept as PNG of 128 colours, or, where they hold photographs and
    it is smaller, as JPEG.
    """
    sns.set_theme(
        context="notebook",
        style="ticks",
        palette=PALETTE,
        rc={
            "figure.dpi": 75,
            "figure.constrained_layout.use": True,
            "axes.titlesize": 10,
            "figure.titlesize": 11,
            "axes.labelsize": 10,
            "xtick.labelsize": 9,
            "ytick.labelsize": 9,
            "legend.fontsize": 9,
            "legend.frameon": False,
            "image.interpolation": "nearest",
            "svg.fonttype": "none",
        },
    )
    shell = get_ipython()
    if shell is not None:
        set_matplotlib_formats("png")
        formats = shell.display_formatter.formatters
        formats["image/png"].for_type(Figure, _as_png)
        formats["image/jpeg"].for_type(Figure, lambda fig: fig.__dict__.pop("_jpeg", None))


def _as_png(figure: Figure) -> str | None:
    """A figure in base64; None where a JPEG is smaller, which is left with the figure."""
    dpi = min(SHOWN_DPI, SHOWN_PIXELS / figure.get_figwidth())
    shown = Image.open(BytesIO(print_figure(figure, fmt="png", dpi=dpi))).convert("RGB")
    png = _encoded(shown.quantize(128, dither=Image.Dither.NONE), "png")
    if any(ax.images for ax in figure.axes):
        size = [round(JPEG_SHARE * side) for side in shown.size]
        smaller = shown.resize(size, Image.Resampling.LANCZOS)
        jpeg = _encoded(smaller, "jpeg", quality=70, progressive=True)
        if len(jpeg) < len(png):
            figure._jpeg = jpeg
            return None
    return png


def _encoded(picture: Image.Image, kind: str, **options) -> str:
    file = BytesIO()
    picture.save(file, kind, optimize=True, **options)
    return b64encode(file.getvalue()).decode("ascii")


def show_image(ax: Axes, sample: CrowdImage, *, points: bool = False, title: str | None = None):
    """A photograph, with its heads as dots if wanted."""
    height, width = sample.size
    ax.imshow(sample.image.permute(1, 2, 0).numpy(), extent=(0, width, height, 0))
    if points:
        ax.scatter(
            *sample.points.T.numpy(),
            s=9,
            color=COLOURS["head"],
            edgecolor="black",
            linewidth=0.4,
            label="head",
        )
    ax.set(xlim=(0, width), ylim=(height, 0), xticks=[])
    ax.yaxis.set_visible(False)  # to measure an empty axis is most of a figure's layout
    known = f"{sample.count} people" if sample.annotated else "not annotated"
    ax.set_title(title or f"{sample.name}: {known}")


def show_map(
    ax: Axes,
    values,
    *,
    title: str,
    label: str | None = "people per pixel",
    cmap: str = "magma",
    vmin: float | None = 0,
    vmax: float | None = None,
):
    """A map `[h, w]` with its colour bar; `label` None leaves the bar out. Returns the image."""
    shown = ax.imshow(np.asarray(values), cmap=cmap, vmin=vmin, vmax=vmax)
    ax.set(xticks=[], title=title)
    ax.yaxis.set_visible(False)
    if label:
        ax.figure.colorbar(shown, ax=ax, shrink=0.8, label=label)
    return shown


def show_weights(ax: Axes, values, *, title: str):
    """Weights `[h, w]` on a scale of their own, whose ends stand below; alike ones look so."""
    low, high = float(values.min()), float(values.max())
    middle, reach = (low + high) / 2, max(high - low, 0.1) / 2
    shown = show_map(ax, values, title=title, cmap="viridis", label=None)
    shown.set_clim(middle - reach, middle + reach)
    digits = 2 if high - low > 0.02 else 4
    ax.set_xlabel(f"{low:.{digits}f} (dark) to {high:.{digits}f}", fontsize=9)
    return shown


def show_categories(ax: Axes, categories, names: Sequence[str], *, title: str):
    """A map of whole numbers 0 … len(names)-1, each in the colour of its name ("E1 (1/4)": that of
    E1), with a legend; negative cells stay white."""
    palette = colours(name.split(" ")[0] for name in names)
    shown = np.ma.masked_less(np.asarray(categories), 0)
    ax.imshow(shown, cmap=ListedColormap(palette), vmin=-0.5, vmax=len(names) - 0.5)
    ax.legend(
        handles=[Patch(color=c, label=n) for c, n in zip(palette, names, strict=True)],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.02),
        ncols=len(names),
        frameon=False,
    )
    ax.set(xticks=[], yticks=[], title=title)


def sheet(samples: Sequence[CrowdImage], *, columns: int = 4, points: bool = False) -> Figure:
    """A contact sheet of annotated images."""
    rows = -(-len(samples) // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(3 * columns, 3.2 * rows), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for ax, sample in zip(axes.flat, samples, strict=False):
        show_image(ax, sample, points=points)
    return fig


def training_curves(histories: dict[str, list[dict]], *, mean_mae: float | None = None) -> Figure:
    """Training loss (L_Des) and validation MAE against the epoch, one line a network."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 2.9))
    for (name, history), colour in zip(histories.items(), colours(histories), strict=True):
        epochs = [row["epoch"] for row in history]
        left.plot(epochs, [row["density"] for row in history], color=colour, label=name)
        chosen = [(row["epoch"], row["val_mae"]) for row in history if row["val_mae"] is not None]
        right.plot(*zip(*chosen, strict=True), "o-", markersize=5, color=colour)
    if mean_mae is not None:
        rival = {"color": COLOURS["mean"], "linestyle": "--", "label": "always the mean count"}
        right.axhline(mean_mae, **rival)
    left.set(xlabel="epoch", ylabel="density loss, all maps", yscale="log", title="training crops")
    right.set(xlabel="epoch", ylabel="MAE (people)", title="held-out images (dots: counted)")
    plain_log(left.yaxis)
    right.set_ylim(bottom=0)
    for ax in (left, right):
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    fig.legend(loc="outside lower center", ncols=len(histories) + 1)
    sns.despine(fig)
    return fig


def plain_log(axis) -> None:
    """A logarithmic axis with a few plain numbers, also where it spans less than a decade."""
    low, high = axis.get_view_interval()
    narrow = high < 8 * low
    axis.set_major_locator(MaxNLocator(4) if narrow else LogLocator(subs=(1, 2, 5), numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_locator(NullLocator())


def counts_scatter(evaluations: dict[str, Evaluation]) -> Figure:
    """Predicted against annotated counts with the identity line, one panel a network."""
    fig, axes = plt.subplots(
        1,
        len(evaluations),
        figsize=(3.4 * len(evaluations), 3.7),
        squeeze=False,
        sharex=True,
        sharey=True,
    )
    seen = np.concatenate([[*e.true, *e.predicted] for e in evaluations.values()])
    span = {"bottom": max(seen.min(), 1) * 0.8, "top": max(seen.max(), 2) * 1.25}
    palette = colours(evaluations)
    for ax, (name, each), colour in zip(axes.flat, evaluations.items(), palette, strict=True):
        show_counts(ax, each, **span, colour=colour)
        ax.set_title(f"{name}: MAE {each.mae:.1f}")
        ax.label_outer()
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    sns.despine(fig)
    return fig


def show_counts(
    ax: Axes, evaluation: Evaluation, *, top: float, bottom: float = 1, colour=PALETTE[0]
):
    """Predicted against annotated counts, from `bottom` to `top`, and the identity line."""
    span = bottom, top
    ax.plot(span, span, color=COLOURS["truth"], linewidth=1, label="exact")
    ax.scatter(
        np.maximum(evaluation.true, 1),
        np.maximum(evaluation.predicted, 1),
        s=18,
        alpha=0.7,
        color=colour,
        label="test image",
    )
    ax.set(
        xscale="log",
        yscale="log",
        xlim=span,
        ylim=span,
        xlabel="annotated people",
        ylabel="predicted people",
        aspect="equal",
    )
    for axis in (ax.xaxis, ax.yaxis):
        plain_log(axis)


def inside(pixels, counted: Count, weights, *, points=None, title: str = "") -> Figure:
    """A counted picture with what is inside: experts, their weights in the final map, that map.

    Args:
        pixels: uint8 `[3, H, W]`, what was counted.
        counted: of `hmode.count`.
        weights: `[K, h, w]`, of `hmode.analysis.expert_weights`.
        points: `[N, 2]` of the heads in pixels, where they are known: the truth is drawn beside,
            on the same scale.
        title: above all.
    """
    prediction, (height, width) = counted.prediction, counted.picture
    experts = (prediction.experts[0] / prediction.scale).numpy()
    density, (rows, columns) = counted.density.numpy(), (3, max(3, len(experts)))
    tall = 1.0 + rows * (4.8 / columns * height / width + 0.25)
    fig, axes = subplots(rows, columns, figsize=(6.2, tall))
    for ax in (*axes[0], *axes[1:, len(experts) :].flat):
        ax.axis("off")
    axes[0, 0].imshow(np.asarray(pixels).transpose(1, 2, 0), extent=(0, width, height, 0))
    axes[0, 0].set_title("picture")
    shown, top = {"label": None}, float(np.quantile(density, 0.998))
    if points is not None:
        axes[0, 0].scatter(*np.asarray(points).T, s=5, color=COLOURS["head"], linewidth=0)
        truth = _true_density(points, counted)
        top = float(np.quantile(truth, 0.998))
        show_map(axes[0, 2], truth, title=f"truth: {len(points)}", vmax=top, **shown)
    show_map(axes[0, 1], density, title=f"final: {counted.count:.0f}", vmax=top, **shown)
    for k, (upper, lower) in enumerate(axes[1:, : len(experts)].T):
        name = f"E{k + 1}"
        image = show_map(
            upper, experts[k], title=f"{name}: {counted.experts[k]:.0f}", vmax=top, **shown
        )
        show_weights(lower, weights[k], title=f"weight of {name}: {weights[k].mean():.2f}")
    fig.colorbar(image, ax=axes[:2], label="people per pixel", aspect=30, format="%.3g")
    fig.suptitle(title)
    return fig


def _true_density(points, counted: Count) -> np.ndarray:
    """The density map of heads, given in the picture's pixels, on the grid of a count."""
    shrunk = np.asarray(points) * np.divide(counted.size, counted.picture)[::-1]
    full = density_map(torch.as_tensor(shrunk, dtype=torch.float32), counted.size)
    return F.avg_pool2d(full[None], counted.prediction.stride, ceil_mode=True)[0].numpy()


def mixture_diagram(ax: Axes, model: HMoDE, *, title: str) -> None:
    """What a network mixes with what (Fig. 3 of the paper), drawn from the network itself.

    A column a level, from the experts to the final map. What arrives on full lines is weighed, by
    gates whose `gating` stands above; dashed lines pass a map on as it is.
    """
    columns, lines = [[f"E{k + 1}" for k in range(model.config["experts"])]], []
    levels = [*model.levels]
    if model.gate2 is not None:
        levels.append(Level((tuple(range(levels[-1].outputs)),)))
    for level in levels:
        groups = [f"Gr{i + 1}" for i in range(len(level.groups))]
        groups = ["Eout"] if level is levels[-1] else groups
        column = len(columns)
        lines += [(column, k, i, "-") for i, group in enumerate(level.groups) for k in group]
        lines += [(column, k, len(groups) + i, "--") for i, k in enumerate(level.passed)]
        columns.append(groups + [columns[-1][k] for k in level.passed])
    tallest = max(map(len, columns))

    def place(column: int, i: int) -> tuple[float, float]:
        return column, ((len(columns[column]) - 1) / 2 - i) / tallest

    for column, start, end, style in lines:
        label = columns[column - 1][start]
        colour = COLOURS["groups"] if label not in columns[0] else COLOURS[label]
        ends = zip(place(column - 1, start), place(column, end), strict=True)
        ax.plot(*ends, style, color=colour, zorder=1)
    box = {"boxstyle": "round", "facecolor": "white", "edgecolor": "0.4"}
    for column, labels in enumerate(columns):
        for i, label in enumerate(labels):
            ax.text(*place(column, i), label, ha="center", va="center", fontsize=9, bbox=box)
        if column:
            above = f"level {column}:\n{model.config['gating']} weights"
            ax.text(column - 0.5, 0.58, above, ha="center", va="center", fontsize=9)
    ax.set(xlim=(-0.3, len(levels) + 0.3), ylim=(-0.5, 0.7), title=title)
    ax.axis("off")


def dot_table(tables: dict, *, published: str = "sha", live: dict[str, float] | None = None):
    """A table of the paper as dots: errors, a panel a data set, and differences to the default.

    Args:
        tables: rows of the same table from `hmode.results.tables.stored`, as DataFrames, by
            "profile/data set".
        published: which data set's published MAE to show, where there are any.
        live: MAE by experiment of runs just made, marked beside the last table's.
    """
    from hmode.paper.said import place_name  # knows runs, which other plots do without

    rows = [*tables.values()][-1]
    places, printed = np.arange(len(rows)), _column(rows, f"paper_{published}_mae")
    panels = [published] if np.isfinite(printed).any() else []  # Fig. 6, the code: nothing printed
    panels = [*dict.fromkeys([*panels, *(name.split("/")[-1] for name in tables)]), "difference"]
    size = (7.5, 0.36 * len(rows) + 1.7)
    figure, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False)
    by_panel = dict(zip(panels, axes[0], strict=True))
    if published in by_panel:
        ax, label = by_panel[published], "the paper"
        ax.plot(printed, places - 0.25, "s", markersize=5, color=COLOURS["truth"], label=label)
    for i, (name, each) in enumerate(tables.items()):
        at = places + 0.22 * (i - (len(tables) - 1) / 2)
        colour = STORED.get(name.split("/")[0], PALETTE[(4 + i) % len(PALETTE)])
        _show_errors(by_panel[name.split("/")[-1]], each, at, colour=colour, label=place_name(name))
        _show_differences(by_panel["difference"], each, at, colour=colour)
    if live:
        marks = [live.get(experiment, np.nan) for experiment in rows["experiment"]]
        axes[0, -2].plot(marks, at, "x", color="black", label="just now", zorder=4)
    for name, ax in by_panel.items():
        ours = [_column(each, "mae") for key, each in tables.items() if key.split("/")[-1] == name]
        if ours:
            for place in np.flatnonzero(np.isnan(ours).all(axis=0)):
                where = {"transform": ax.get_yaxis_transform(), "ha": "right", "va": "center"}
                ax.text(0.98, place, "not run", fontsize=9, color="0.4", **where)
        ax.set(title=TITLES.get(name, name), xlabel="MAE, people")
        ax.grid(axis="x", alpha=0.3)
    by_panel["difference"].axvline(0, color="0.7", linewidth=1)
    usual = [*rows["title"][_column(rows, "verdict") == "default"], "the default"][0]
    by_panel["difference"].set(title=f"difference to\n{usual}", xlabel="% of its MAE (95 %)")
    axes[0, 0].set_yticks(places, rows["title"])
    axes[0, 0].set_ylim(len(rows) - 0.5, -0.5)
    handles = {}
    for ax in axes[0]:
        handles |= dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(
        handles.values(), handles, loc="outside lower center", ncol=len(handles), frameon=False
    )
    sns.despine(figure)
    return figure


# Stored results keep their colour whichever of them a table has.
STORED = {"full": PALETTE[1], "paper": PALETTE[2], "small": PALETTE[3]}
TITLES = {"sha": "ShanghaiTech A", "shb": "ShanghaiTech B", "synthetic": "the drawn crowd"}


def _show_errors(ax: Axes, rows, at: np.ndarray, *, colour, label: str):
    """Means over seeds as dots, ± 1 sd as bars, each seed as a faint dot."""
    mean, spread = _column(rows, "mae"), _column(rows, "mae_sd")
    ax.plot(mean, at, "o", markersize=5, color=colour, label=label)
    ax.hlines(at, mean - spread, mean + spread, color=colour)
    for place, seeds in zip(at, rows.get("by_seed", []), strict=False):
        ax.plot(seeds, [place] * len(seeds), ".", markersize=4, color=colour, alpha=0.5)


def _show_differences(ax: Axes, rows, at: np.ndarray, *, colour):
    """In % of the default's MAE, with intervals; hollow without one."""
    verdicts, unit = _column(rows, "verdict"), _column(rows, "mae") / 100
    default = unit[verdicts == "default"]
    if not len(default):
        return
    change, low, high = (_column(rows, key) / default[0] for key in ("difference", "low", "high"))
    sure = np.isfinite(low)
    ax.plot(change[sure], at[sure], "o", markersize=5, color=colour)
    ax.plot(change[~sure], at[~sure], "o", markersize=5, color=colour, fillstyle="none")
    ax.hlines(at, low, high, color=colour)


def _column(rows, name: str) -> np.ndarray:
    """A column of a table, empty where it has none."""
    return rows[name].to_numpy() if name in rows else np.full(len(rows), np.nan)
