"""Counting networks: the paper's with all variants, and two rivals."""

from hmode.errors import InputError
from hmode.fast.folded import for_inference
from hmode.method.network import EncoderDecoder, MultiScaleNetwork
from hmode.method.prediction import Prediction
from hmode.models.mixture import Baseline, Concat, HMoDE
from hmode.models.network import CountingNetwork
from hmode.models.official import load_official
from hmode.models.rivals import CSRNet, DMCount

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
