"""Pictures: each function draws on axes it is given, or makes a figure and returns it.

Density is drawn in "magma", gates and attention in "viridis", signed errors in "RdBu_r" around
zero, and categories in seaborn's "colorblind" palette.
"""

from base64 import b64encode
from collections.abc import Sequence
from io import BytesIO

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from IPython import get_ipython
from IPython.core.pylabtools import print_figure
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib_inline.backend_inline import set_matplotlib_formats
from PIL import Image

from hmode.data import CrowdImage
from hmode.method.mixture import Level
from hmode.metrics import Evaluation
from hmode.models import HMoDE

PALETTE = sns.color_palette("colorblind")


def use_style() -> None:
    """The look of all figures: seaborn's "ticks" theme, readable text.

    Inside a notebook figures with images are kept as JPEG, others as PNG of 256 colours: as PNG
    photographs would make it huge, and as JPEG drawings take twice the room and blur.
    """
    sns.set_theme(
        context="notebook",
        style="ticks",
        palette=PALETTE,
        rc={
            "figure.dpi": 75,
            "figure.constrained_layout.use": True,
            "axes.titlesize": 11,
            "axes.labelsize": 10,
            "xtick.labelsize": 9,
            "ytick.labelsize": 9,
            "legend.fontsize": 9,
            "image.interpolation": "nearest",
        },
    )
    shell = get_ipython()
    if shell is not None:
        set_matplotlib_formats(
            "jpeg", pil_kwargs={"quality": 75, "optimize": True, "progressive": True}
        )
        formats = shell.display_formatter.formatters
        as_jpeg = formats["image/jpeg"].lookup_by_type(Figure)
        formats["image/jpeg"].for_type(Figure, lambda fig: as_jpeg(fig) if _images(fig) else None)
        formats["image/png"].for_type(Figure, lambda fig: None if _images(fig) else _as_png(fig))


def _images(figure: Figure) -> bool:
    return any(ax.images for ax in figure.axes)


def _as_png(figure: Figure) -> str:
    """A figure as PNG of 256 colours, in base64."""
    png = Image.open(BytesIO(print_figure(figure, fmt="png"))).convert("RGB").quantize(256)
    small = BytesIO()
    png.save(small, "png", optimize=True)
    return b64encode(small.getvalue()).decode("ascii")


def show_image(ax: Axes, sample: CrowdImage, *, points: bool = False, title: str | None = None):
    """A photograph, with its heads as dots if wanted."""
    height, width = sample.size
    ax.imshow(sample.image.permute(1, 2, 0).numpy(), extent=(0, width, height, 0))
    if points:
        ax.scatter(
            *sample.points.T.numpy(),
            s=9,
            color=PALETTE[1],
            edgecolor="white",
            linewidth=0.4,
            label="head",
        )
    ax.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
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
    ax.set(xticks=[], yticks=[], title=title)
    if label:
        ax.figure.colorbar(shown, ax=ax, shrink=0.8, label=label)
    return shown


def show_weights(ax: Axes, values, *, title: str):
    """A map of weights `[h, w]` on a scale of its own, whose ends stand below it."""
    low, high = float(values.min()), float(values.max())
    shown = show_map(ax, values, title=title, cmap="viridis", vmin=low, vmax=high, label=None)
    ax.set_xlabel(f"{low:.2f} (dark) to {high:.2f}", fontsize=9)
    return shown


def show_categories(ax: Axes, categories, names: Sequence[str], *, title: str):
    """A map of whole numbers 0 … len(names)-1 in colour-blind-safe colours, with a legend;
    negative cells stay white."""
    colours = PALETTE[: len(names)]
    shown = np.ma.masked_less(np.asarray(categories), 0)
    ax.imshow(shown, cmap=ListedColormap(colours), vmin=-0.5, vmax=len(names) - 0.5)
    ax.legend(
        handles=[Patch(color=c, label=n) for c, n in zip(colours, names, strict=True)],
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
    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
    for (name, history), colour in zip(histories.items(), PALETTE, strict=False):
        epochs = [row["epoch"] for row in history]
        left.plot(epochs, [row["density"] for row in history], color=colour, label=name)
        chosen = [(row["epoch"], row["val_mae"]) for row in history if row["val_mae"] is not None]
        right.plot(*zip(*chosen, strict=True), "o-", markersize=4, color=colour, label=name)
    left.set(xlabel="epoch", ylabel="density loss, all maps", yscale="log", title="training loss")
    right.set(xlabel="epoch", ylabel="MAE (people)", title="held-out tenth of the training images")
    if mean_mae is not None:
        right.axhline(mean_mae, color="grey", linestyle="--", label="always the mean count")
    left.legend()
    right.legend()
    sns.despine(fig)
    return fig


def counts_scatter(evaluations: dict[str, Evaluation]) -> Figure:
    """Predicted against annotated counts with the identity line, one panel a network."""
    fig, axes = plt.subplots(
        1,
        len(evaluations),
        figsize=(4 * len(evaluations), 4),
        squeeze=False,
        sharex=True,
        sharey=True,
    )
    top = max(max(e.true.max(), e.predicted.max()) for e in evaluations.values()) * 1.15
    for ax, (name, each), colour in zip(axes.flat, evaluations.items(), PALETTE, strict=False):
        show_counts(ax, each, top=top, colour=colour)
        ax.set_title(f"{name}: MAE {each.mae:.1f}")
        ax.label_outer()
    axes[0, 0].legend()
    sns.despine(fig)
    return fig


def show_counts(ax: Axes, evaluation: Evaluation, *, top: float, colour=PALETTE[0]):
    """Predicted against annotated counts, up to `top`, and the identity line."""
    ax.plot([1, top], [1, top], color="grey", linewidth=1, label="exact")
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
        xlabel="annotated people (at least 1)",
        ylabel="predicted people (at least 1)",
        aspect="equal",
    )


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
        colour = PALETTE[int(label[1:]) - 1] if label in columns[0] else "0.4"
        ends = zip(place(column - 1, start), place(column, end), strict=True)
        ax.plot(*ends, style, color=colour, zorder=1)
    box = {"boxstyle": "round", "facecolor": "white", "edgecolor": "0.4"}
    for column, labels in enumerate(columns):
        for i, label in enumerate(labels):
            ax.text(*place(column, i), label, ha="center", va="center", fontsize=9, bbox=box)
        if column:
            above = f"level {column}:\n{model.config['gating']} weights"
            ax.text(column - 0.5, 0.58, above, ha="center", va="center", fontsize=8)
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
    rows = [*tables.values()][-1]
    places, printed = np.arange(len(rows)), _column(rows, f"paper_{published}_mae")
    panels = [published] if np.isfinite(printed).any() else []  # Fig. 6, the code: nothing printed
    panels = [*dict.fromkeys([*panels, *(name.split("/")[-1] for name in tables)]), "difference"]
    size = (7.6, 0.36 * len(rows) + 1.7)
    figure, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False)
    by_panel = dict(zip(panels, axes[0], strict=True))
    if published in by_panel:
        ax, label = by_panel[published], "the paper"
        ax.plot(printed, places - 0.25, "s", markersize=5, color=PALETTE[0], label=label)
    for i, (name, each) in enumerate(tables.items()):
        at = places + 0.22 * (i - (len(tables) - 1) / 2)
        _show_errors(by_panel[name.split("/")[-1]], each, at, colour=PALETTE[i + 1], label=name)
        _show_differences(by_panel["difference"], each, at, colour=PALETTE[i + 1])
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
    by_panel["difference"].set(title="difference to the default", xlabel="% of its MAE (95 %)")
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
