"""Which maps are mixed with which: the levels of a hierarchical mixture (section III-B, Fig. 3)."""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

from hmode.errors import InputError


class Level(NamedTuple):
    """One mixing level: groups of inputs, each mixed into one, and inputs that pass through.

    What it gives to the next level are the groups, then the passed inputs.
    """

    groups: tuple[tuple[int, ...], ...]
    passed: tuple[int, ...] = ()

    @property
    def outputs(self) -> int:
        """How many maps it gives to the next level."""
        return len(self.groups) + len(self.passed)

    def of(self, inputs: Sequence) -> tuple:
        """What it gives for these inputs, each group as the tuple of its members."""
        grouped = tuple(tuple(inputs[i] for i in group) for group in self.groups)
        return grouped + tuple(inputs[i] for i in self.passed)


def inner_levels(
    experts: int, group_size: int, depth: int, groups: Sequence[Sequence[int]] | None
) -> list[Level]:
    """The levels below gating net 2; arguments as those of `HMoDE`.

    With depth 1 there is no gating net 2, and the one level has one group, of all experts.

    Raises:
        InputError: a setting is out of its range, or settings contradict each other.
    """
    if depth == 1:
        if (group_size, groups) != (2, None):
            raise InputError(
                f"group_size is {group_size!r} and groups {groups!r}, but depth=1 has no groups: "
                "leave them at 2 and None"
            )
        return [Level((tuple(range(experts)),))]
    if group_size not in range(2, experts):
        raise InputError(f"group_size is {group_size!r}, expected 2 to experts - 1 = {experts - 1}")
    if groups is not None:
        if depth != 2:
            raise InputError(f"depth is {depth!r}, but groups are for depth=2")
        return [_chosen(experts, group_size, groups)]
    levels, inputs = [], experts
    for _ in range(depth - 1):
        levels.append(Level(tuple(combinations(range(inputs), group_size))))
        inputs = len(levels[-1].groups)
    return levels


def _chosen(experts: int, group_size: int, groups: Sequence[Sequence[int]]) -> Level:
    """The level of given groups; experts that are in none of them pass."""

    def fits(group) -> bool:
        return (
            isinstance(group, list | tuple)
            and all(isinstance(expert, int) and expert in range(experts) for expert in group)
            and len(group) == len(set(group)) == group_size
        )

    if not (isinstance(groups, list | tuple) and groups and all(fits(group) for group in groups)):
        raise InputError(
            f"groups is {groups!r}, expected a list of groups like [[0, 2]], each of "
            f"group_size={group_size} different experts from 0 to {experts - 1}"
        )
    if len({frozenset(group) for group in groups}) < len(groups):
        raise InputError(f"groups is {groups!r}, expected every group once")
    grouped = {expert for group in groups for expert in group}
    passed = tuple(expert for expert in range(experts) if expert not in grouped)
    return Level(tuple(map(tuple, groups)), passed)
