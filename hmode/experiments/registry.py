"""Every row of every table by name: each is the default with fields replaced.

A name is `table/row`. Rows that are the same run are one run: `canonical` gives its name. The
default is "hmode+rel", as in the paper; Tables IV to VII are about the network and train without
REL, and so do the rows of Table IX before REL is added.
"""

from dataclasses import asdict, dataclass, field, replace

from hmode.errors import InputError
from hmode.losses import SETTINGS
from hmode.profiles import Profile, Schedule


@dataclass(frozen=True)
class Experiment:
    """One row of a table: a network and what differs from the default losses.

    Attributes:
        title: as the paper prints it.
        model: arguments of `build_model`.
        loss: fields of `LossSettings` to replace.
        schedule: fields of `Schedule` to replace.
        effort: the profile's epochs are multiplied by it.
        rate: the profile's learning rate is multiplied by it.
        batch: crops a step, as a multiple of the profile's.
        large_crop: whether to train on the profile's large crops (Table II).
        watch_test: whether the test MAE is followed during training, where the profile's is.
    """

    title: str
    model: dict
    loss: dict = field(default_factory=dict)
    schedule: dict = field(default_factory=dict)
    effort: float = 1.0
    rate: float = 1.0
    batch: float = 1.0
    large_crop: bool = False
    watch_test: bool = True

    def settings(self, profile: Profile) -> Schedule:
        """The schedule of this experiment under a profile."""
        usual = profile.schedule
        epochs = max(1, round(self.effort * usual.epochs))
        share = epochs / usual.epochs
        halve_after = tuple(round(after * share) for after in usual.halve_after)
        crops = max(1, round(self.batch * usual.batch_size))
        changes = {"epochs": epochs, "halve_after": halve_after, "batch_size": crops}
        if self.rate != 1:
            changes["learning_rate"] = self.rate * usual.learning_rate
        if self.large_crop:
            changes["crop"] = profile.large_crop
        loss = replace(usual.loss, **self.loss)
        return replace(usual, **(changes | {"loss": loss} | self.schedule))


def _unlike_default(name: str) -> dict:
    """The fields of `LossSettings` that a named one replaces."""
    usual = asdict(SETTINGS["paper"])
    return {key: value for key, value in asdict(SETTINGS[name]).items() if value != usual[key]}


MEANS, PRINTED, OFFICIAL_LOSS, DM_COUNT = map(
    _unlike_default, ("means", "printed", "official", "dmcount")
)
NO_REL = {"relative_weight": 0.0}


def _rel(title: str, *losses: dict, of: str = "HMoDE", **network) -> Experiment:
    """HMoDE+REL with some settings of its losses and its network replaced."""
    return Experiment(
        title, {"model": of, **network}, {k: v for each in losses for k, v in each.items()}
    )


def _hmode(title: str, *losses: dict, **network) -> Experiment:
    """HMoDE without REL with some of its settings replaced."""
    return _rel(title, NO_REL, *losses, **network)


# The default has three names in the paper and many among its rows; it is trained once.
BASELINE, HMODE, HMODE_REL = "baseline", "hmode", "hmode+rel"

# Where the paper is silent: the baseline's loss is on its average and on each of its maps, like
# every other network's.
TABLE_1 = {
    BASELINE: _hmode("Baseline", of="Baseline"),
    HMODE: _hmode("HMoDE"),
    HMODE_REL: _rel("HMoDE+REL"),
}

# Ours* (crops of 512) against ours; under the other profiles, crops twice to four times as large.
TABLE_2 = {
    "patch-default": HMODE_REL,
    "patch-512": replace(_rel("Ours*, large crops"), large_crop=True),
}

TABLE_4 = {
    "average": BASELINE,
    "concat": _hmode("Concat", of="Concat"),
    "moe": _hmode("MoE", depth=1),
    "ord-13-2": _hmode("HMoDE-ord ((E1, E3), E2)", groups=[[0, 2]]),
    "ord-12-3": _hmode("HMoDE-ord ((E1, E2), E3)", groups=[[0, 1]]),
    "ord-1-23": _hmode("HMoDE-ord (E1, (E2, E3))", groups=[[1, 2]]),
    "iw": _hmode("HMoDE (w/ iw)", gating="image"),
    "phw": _hmode("HMoDE (w/ phw)", gating="hard"),
    "cg": _hmode("HMoDE (w/ cg)", gating="channel"),
    "no-attention": _hmode("HMoDE (w/o att)", attention=None),
    "no-importance": _hmode("HMoDE (w/o eim)", {"importance_weight": 0.0}),
    "hmode": HMODE,
}

DESIGNS = {"resblock": "ResBlock", "msblock": "MSBlock"}
TABLE_5 = {
    "conv2": HMODE,
    "conv4": _hmode("4*Conv", gate1="conv4"),
    "conv6": _hmode("6*Conv", gate1="conv6"),
    **{name: _hmode(title, gate1=name) for name, title in DESIGNS.items()},
}
TABLE_6 = {
    place: HMODE if place == "EB3" else _hmode(place, gate1_input=place)
    for place in ("EB1", "EB2", "EB3", "DB3", "DB2", "DB1")
}
TABLE_7 = {
    "conv3": HMODE,
    "conv6": _hmode("6*Conv", attention="conv6"),
    "conv9": _hmode("9*Conv", attention="conv9"),
    **{name: _hmode(title, attention=name) for name, title in DESIGNS.items()},
}

TABLE_8 = {
    "k3-n2-d2": HMODE_REL,
    "k4-n2-d2": _rel("Ours (K=4, N=2, D=2)", experts=4),
    "k4-n3-d2": _rel("Ours (K=4, N=3, D=2)", experts=4, group_size=3),
    "k3-n2-d3": _rel("Ours (K=3, N=2, D=3)", depth=3),
}

# The paper gives no weights for GRL and ALC; that of GRL matches its gradient to L_Des's.
TABLE_9 = {
    "hmode": HMODE,
    "grl": _hmode("+ GRL", {"ranking_weight": 0.01}),
    "alc": _hmode("+ ALC", {"local_weight": 1.0}),
    "double-branch": _rel("+ DB + REL", local_head=True),
    "one-branch": HMODE_REL,
    "random": _rel("+ REL (RR)", {"relative_mining": "random"}),
    "matryoshka": _rel("+ REL (MD)", {"relative_mining": "matryoshka"}),
    "hard": HMODE_REL,
}

# Both networks train with the schedule of all others, so that a row's difference is its loss; REL
# beside DM-Count's terms, which are in people, is a sum in people too.
DM_COUNT_REL = {"relative_weight": 0.01, "relative_reduction": "sum"}
TABLE_10 = {
    "csrnet": _hmode("CSRNet", of="CSRNet"),
    "csrnet+rel": _rel("CSRNet +REL", of="CSRNet"),
    "dm-count": _rel("DM-Count", DM_COUNT, of="DMCount"),
    "dm-count+rel": _rel("DM-Count +REL", DM_COUNT, DM_COUNT_REL, of="DMCount"),
}

TABLE_11 = {
    f"sublists-{n}": HMODE_REL if n == 3 else _rel(f"REL({n}s)", {"sublists": n})
    for n in range(1, 6)
}

FIG_6 = {
    f"w-{n}": HMODE_REL if n == 8 else _rel(f"w = 1/{n}", {"cells": n}) for n in (64, 32, 16, 8, 4)
} | {
    f"s-{n}": HMODE_REL if n == 9 else _rel(f"S = {n}", {"regions": n})
    for n in (3, 6, 9, 12, 21, 30)
}


def _trap(title: str, losses: dict, scale: float = 100.0) -> Experiment:
    """Short trainings of HMoDE+REL that differ in the scale of L_Des and REL only."""
    return replace(
        _rel(title, losses, density_scale=scale),
        schedule={"validate_every": 1, "average": 0.9},  # longer averages would lag behind
        effort=0.25,
        watch_test=False,
    )


TRAP = {
    "printed-1": _trap("as printed, scale 1", PRINTED, 1.0),
    "printed-100": _trap("as printed, scale 100", PRINTED),
    "sums-100": _trap("both sums, scale 100", {}),
    "means-100": _trap("both means, scale 100", MEANS),
}

# The paper against the released code, one difference at a time (`LossSettings`): its REL is
# commented out of the training, which is the row "hmode".
WINDOW = {"window": 15}
OFFICIAL = {
    "none": HMODE_REL,
    "means": _rel("means over pixels", MEANS),
    "all-pairs": _rel("REL over all pairs of a sub-list", {"relative_form": "official"}),
    "batch-importance": _rel("importance over the batch", {"importance_form": "official"}),
    "output-weights": _rel("outputs weighed 1, 2, 4", {"output_weights": "official"}),
    "window": replace(_rel("targets in 15 x 15 windows"), schedule=WINDOW),
    "no-rel": HMODE,
    "all": replace(_rel("all of them", OFFICIAL_LOSS), schedule=WINDOW),
    "all-no-rel": replace(_hmode("all of them, without REL", OFFICIAL_LOSS), schedule=WINDOW),
}

# Why gates gate or do not, one cause at a time, all without REL: what keeps gating net 1 even (the
# weight of L_Eim, 16,384 times as large beside means over crops of 128 x 128), how fast and how
# long it learns, how it starts, and what it sees.
FINAL = {"output_weights": "final"}
GATES = {
    "default": HMODE,
    "means": _hmode("means over pixels", MEANS),
    "importance-0": "table4/no-importance",
    "importance-100": _hmode("L_Eim x 100", {"importance_weight": 100.0}),
    "importance2": _hmode("L_Eim on gating net 2 too", {"importance2_weight": 1.0}),
    "importance2-1000": _hmode("L_Eim x 1000 on gating net 2", {"importance2_weight": 1000.0}),
    "rate-3": replace(_hmode("three times the rate"), rate=3.0),
    "rate-1-3": replace(_hmode("a third of the rate"), rate=1 / 3),
    "long": replace(_hmode("three times the steps"), effort=3.0),
    "he": _hmode("He's initial weights", gate_std=None),
    "no-relu": _hmode("no ReLU before the softmax", gate_relu=False),
    "final-only": _hmode("loss on the final map only", FINAL),
    "final-only-3": replace(_hmode("the same at three times the rate", FINAL), rate=3.0),
    "final-only-long": replace(
        _hmode("the same, three times the steps", FINAL), rate=3.0, effort=3.0
    ),
    "fine-input": "table6/DB1",
    "no-attention": "table4/no-attention",
}

# What makes trainings faster and might cost accuracy: how products are rounded (the default is that
# of the profile), and how many crops a step takes. The learning rate stays.
PRECISION = {
    "default": HMODE_REL,
    "float32": replace(_rel("float32 in full"), schedule={"precision": "no"}),
    "bf16": replace(_rel("bf16"), schedule={"precision": "bf16"}),
}
BATCH = {
    "1": HMODE_REL,
    "1-8": replace(_rel("an eighth of the crops a step"), batch=1 / 8),
    "1-2": replace(_rel("half the crops a step"), batch=1 / 2),
    "2": replace(_rel("twice the crops a step"), batch=2.0),
    "4": replace(_rel("four times the crops a step"), batch=4.0),
}

# Each row is an experiment of its own or the name of the one that it is.
TABLES: dict[str, dict[str, Experiment | str]] = {
    "table1": TABLE_1,
    "table2": TABLE_2,
    "table3": {"hmode+rel": HMODE_REL},
    "table4": TABLE_4,
    "table5": TABLE_5,
    "table6": TABLE_6,
    "table7": TABLE_7,
    "table8": TABLE_8,
    "table9": TABLE_9,
    "table10": TABLE_10,
    "table11": TABLE_11,
    "table12": {"hmode+rel": HMODE_REL},
    "fig6": FIG_6,
    "official": OFFICIAL,
    "gates": GATES,
    "precision": PRECISION,
    "batch": BATCH,
    "trap": TRAP,
}

EXPERIMENTS: dict[str, Experiment] = {
    row if table == "table1" else f"{table}/{row}": experiment
    for table, rows in TABLES.items()
    for row, experiment in rows.items()
    if isinstance(experiment, Experiment)
}
ALIASES: dict[str, str] = {
    f"{table}/{row}": same if isinstance(same, str) else row
    for table, rows in TABLES.items()
    for row, same in rows.items()
    if isinstance(same, str) or table == "table1"
}


def canonical(name: str) -> str:
    """The experiment that a row's name stands for.

    Raises:
        InputError: there is no such row.
    """
    name = ALIASES.get(name, name)
    if name not in EXPERIMENTS:
        table = name.split("/")[0]
        known = rows(table) if table in TABLES else sorted(EXPERIMENTS)
        raise InputError(f"experiment is {name!r}, expected one of {known}")
    return name


def rows(table: str) -> list[str]:
    """The names of a table's rows, in the paper's order; `canonical` says which run each is.

    Raises:
        InputError: there is no such table.
    """
    if table not in TABLES:
        raise InputError(f"table is {table!r}, expected one of {list(TABLES)}")
    return [f"{table}/{row}" for row in TABLES[table]]


def select(names: list[str]) -> list[str]:
    """Tables, rows and "all" → the experiments to train, each once, in order.

    Raises:
        InputError: a name is neither a table, nor a row, nor "all".
    """
    chosen = []
    for name in names:
        if name == "all":
            chosen += EXPERIMENTS
        elif name in TABLES:
            chosen += [canonical(row) for row in rows(name)]
        elif name in EXPERIMENTS or name in ALIASES:
            chosen.append(canonical(name))
        else:
            raise InputError(
                f"{name!r} is neither a table ({', '.join(TABLES)}) nor an experiment; "
                "hmode experiments prints them all"
            )
    return list(dict.fromkeys(chosen))
