"""Counting networks."""

from hmode.errors import InputError
from hmode.models.backbone import EncoderDecoder, MultiScaleNetwork
from hmode.models.counter import CountingNetwork
from hmode.models.csrnet import CSRNet
from hmode.models.dmcount import DMCount
from hmode.models.folded import for_inference
from hmode.models.mixture import Baseline, Concat, HMoDE
from hmode.models.official import load_official
from hmode.models.prediction import Prediction

MODELS = {model.__name__: model for model in (Baseline, Concat, HMoDE, CSRNet, DMCount)}


def build_model(config: dict, **more) -> CountingNetwork:
    """The network that a `model.config` describes, newly initialised."""
    config = dict(config)
    name = config.pop("model", None)
    if name not in MODELS:
        raise InputError(f"model is {name!r}, expected one of {sorted(MODELS)}")
    try:
        return MODELS[name](**config, **more)
    except InputError:
        raise
    except (TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise InputError(f"model {name!r} does not take these settings: {error}") from None


__all__ = [
    "MODELS",
    "Baseline",
    "CSRNet",
    "Concat",
    "CountingNetwork",
    "DMCount",
    "EncoderDecoder",
    "HMoDE",
    "MultiScaleNetwork",
    "Prediction",
    "build_model",
    "for_inference",
    "load_official",
]
