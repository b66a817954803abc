"""What speaks against the counts of a network: that it was hardly trained, that it was trained on
drawings, or that it counts more than it has ever seen."""

from dataclasses import dataclass
from pathlib import Path

from hmode.counting import Count
from hmode.data.registry import DRAWN
from hmode.errors import InputError
from hmode.runs import RunFolder, read_json

FEW = 1000  # crops: less is a try


@dataclass(frozen=True)
class Doubts:
    """Doubts about a network.

    Attributes:
        always: those that concern every count, in words.
        densest: people per pixel in the densest training image; None where that is not known.
    """

    always: tuple[str, ...] = ()
    densest: float | None = None

    def of(self, counted: Count) -> str:
        """All that concern a count, in words; "" without any."""
        height, width = counted.size
        beyond = self.densest is not None and counted.count > self.densest * height * width
        return "; ".join([*self.always, *["denser than any training image"] * beyond])


def doubts(run_dir: str | Path) -> Doubts:
    """The doubts about a run's network.

    Raises:
        InputError: the run's files cannot be read.
    """
    folder = RunFolder(run_dir)
    config = folder.config()
    train, schedule = config.get("train") or {}, config.get("schedule") or {}
    images = train.get("selected", train.get("images", train.get("length")))
    images = len(images) if isinstance(images, list) else images
    always, epochs = [], schedule.get("epochs")
    if isinstance(images, int) and isinstance(epochs, int) and images * epochs < FEW:
        always.append(f"trained on {images * epochs} crops only")
    if train.get("name") in DRAWN:
        always.append("trained on drawings")
    path = folder.path / "result.json"
    result = read_json(path) if path.is_file() else {}
    if not isinstance(result, dict):
        raise InputError(f"{path}: not a run's result, expected an object")
    densest = result.get("densest")
    return Doubts(tuple(always), densest if isinstance(densest, (int, float)) else None)
