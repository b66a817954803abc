"""Counting networks: the paper's with all variants, and two rivals."""

import torch
from torch.overrides import TorchFunctionMode

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


class _NothingDrawn(TorchFunctionMode):
    """Draws no initial weights: on "meta" that would import PyTorch's compiler, two seconds."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in (torch.nn.init.normal_, torch.Tensor.normal_, torch.Tensor.uniform_):
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


def outline(config: dict) -> CountingNetwork:
    """The network of a `model.config` on "meta": shapes and names, for weights that are read."""
    with torch.device("meta"), _NothingDrawn():
        return build_model(config)


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
    "outline",
]
