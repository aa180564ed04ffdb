"""Small models, and the way from any user's callable to a seeded module.

A model in a plan is a *factory*: a callable that returns a ``torch.nn.Module``, taking the shape of one example and the
number of classes, or nothing. ``functools.partial(models.mlp, hidden=(200, 200))`` configures one.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from fedpriv.errors import ConfigurationError
from fedpriv.learning import _check
from fedpriv.learning.vector import Layout, flatten, load

if TYPE_CHECKING:
    import torch

__all__ = [
    "MIXING_REMEDY",
    "Factory",
    "bag_of_words",
    "build",
    "cnn",
    "describe",
    "flatten",
    "load",
    "logistic",
    "mixes_examples",
    "mlp",
]

Factory: TypeAlias = "Callable[..., torch.nn.Module]"
"""``(shape, classes) -> Module``, or ``() -> Module``."""

MIXING_REMEDY = "Replace BatchNorm by torch.nn.GroupNorm, which normalises each example by itself."
"""What to do about the layers that :func:`mixes_examples` names."""


def logistic(shape: Sequence[int], classes: int) -> torch.nn.Module:
    """Multinomial logistic regression: ``[b, *shape]`` → logits ``[b, classes]``."""
    return mlp(shape, classes, hidden=())


def mlp(shape: Sequence[int], classes: int, *, hidden: Sequence[int] = (64,)) -> torch.nn.Module:
    """Fully connected layers with ReLU between them: ``[b, *shape]`` → logits ``[b, classes]``.

    Args:
        shape: of one example.
        classes: number of classes.
        hidden: width of each hidden layer.
    """
    from torch import nn

    return nn.Sequential(nn.Flatten(), *_dense(math.prod(shape), hidden, classes))


def cnn(
    shape: Sequence[int],
    classes: int,
    *,
    channels: Sequence[int] = (16, 32),
    hidden: Sequence[int] = (64,),
    groups: int | None = None,
) -> torch.nn.Module:
    """Blocks of 3×3 convolution, ReLU and 2×2 max pooling, then dense layers; no layer mixes examples.

    With the defaults: 105,866 parameters for ``[1, 28, 28]`` and ten classes, 23,946 for ``[1, 14, 14]``.

    Args:
        shape: ``(channels, height, width)`` of one example.
        classes: number of classes.
        channels: of each block; every block halves height and width.
        hidden: width of each dense layer before the last.
        groups: GroupNorm groups after each convolution; None: no normalisation.

    Raises:
        ConfigurationError: not an image, too small for its blocks, or channels that the groups do not divide.
    """
    from torch import nn

    if len(shape) != 3 or min(shape[1:]) < 2 ** len(channels):
        raise ConfigurationError(
            f"A cnn of {len(channels)} blocks takes images (channels, height, width) of {2 ** len(channels)} or more "
            "pixels a side.",
            value=tuple(shape),
            remedy="Reshape the data to such images, use fewer blocks, or use models.mlp.",
        )
    if groups is not None and any(width % groups for width in channels):
        raise ConfigurationError(
            f"groups={groups} divides the channels of every block.",
            value=tuple(channels),
            remedy="Use a common divisor, e.g. 8.",
        )
    depth, height, width = shape
    layers: list[nn.Module] = []
    for wide in channels:
        layers.append(nn.Conv2d(depth, wide, kernel_size=3, padding=1))
        if groups is not None:
            layers.append(nn.GroupNorm(groups, wide))
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
        depth, height, width = wide, height // 2, width // 2
    return nn.Sequential(*layers, nn.Flatten(), *_dense(depth * height * width, hidden, classes))


def bag_of_words(shape: Sequence[int], classes: int, *, vocabulary: int, width: int = 32) -> torch.nn.Module:
    """Mean of word embeddings, then a dense layer: token numbers ``[b, tokens]`` → logits ``[b, classes]``.

    Args:
        shape: ``(tokens,)`` of one example; its x holds whole numbers 0 … vocabulary − 1.
        classes: number of classes.
        vocabulary: number of tokens.
        width: of an embedding.
    """
    from torch import nn

    from fedpriv.learning.layers import Tokens

    for name, value in (("classes", classes), ("vocabulary", vocabulary), ("width", width)):
        _check.count(name, value)
    return nn.Sequential(Tokens(), nn.EmbeddingBag(vocabulary, width, mode="mean"), nn.Linear(width, classes))


def _dense(inputs: int, hidden: Sequence[int], classes: int) -> list[torch.nn.Module]:
    from torch import nn

    _check.count("classes", classes)
    layers: list[nn.Module] = []
    for width in hidden:
        _check.count("the width of a hidden layer", width)
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    return [*layers, nn.Linear(inputs, classes)]


def build(factory: Factory, shape: Sequence[int], classes: int, seed: int) -> torch.nn.Module:
    """A module of the factory's architecture, the same for the same seed.

    The initialisation draws from torch's CPU generator, seeded here; the caller's generator is left as it was. The
    module is the caller's own: a factory that returns one module again and again is never trained through.

    Args:
        factory: called with ``(shape, classes)`` if it requires two positional arguments, without any if it requires
            none.
        shape: of one example, without the batch axis.
        classes: number of classes.
        seed: any integer of 64 bits.

    Raises:
        ConfigurationError: not a callable of that kind; what it returned is no ``torch.nn.Module``, has no trainable
            parameter, or has parameters that :func:`flatten` refuses.
    """
    import torch

    arguments = (tuple(shape), classes) if _takes_shape(factory) else ()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        module = factory(*arguments)
        if not isinstance(module, torch.nn.Module):
            raise ConfigurationError(
                f"A model factory returns a torch.nn.Module; {describe(factory)} did not.",
                value=type(module).__name__,
                remedy="Return the module from the callable.",
            )
        module = copy.deepcopy(module)
    Layout(module)
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise ConfigurationError(
            "A model has at least one trainable parameter.",
            value=describe(factory),
            remedy="Set requires_grad on the parameters to train.",
        )
    return module


def _takes_shape(factory: Factory) -> bool:
    """Whether it requires (shape, classes) rather than nothing."""
    import torch

    if isinstance(factory, torch.nn.Module) or not callable(factory):
        raise ConfigurationError(
            "A plan's model is a callable that returns a torch.nn.Module.",
            value=type(factory).__name__,
            remedy="Pass the class or a function: model=lambda: MyNet().",
        )
    try:
        parameters = list(inspect.signature(factory).parameters.values())
    except (ValueError, TypeError):
        parameters = []  # a callable written in C that does not say
    required = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(required) not in (0, 2) or any(p.kind is p.KEYWORD_ONLY for p in required):
        raise ConfigurationError(
            f"The model {describe(factory)} requires two positional arguments (shape, classes), or none.",
            value=[p.name for p in required],
            remedy="Bind the others: functools.partial(factory, width=64).",
        )
    return len(required) == 2


def mixes_examples(module: torch.nn.Module) -> list[str]:
    """The names of layers whose output for one example depends on others, as ``"3 (BatchNorm2d)"``.

    These are BatchNorm in every form, and InstanceNorm with running statistics. Per-example clipping is meaningless
    with them; the remedy is :data:`MIXING_REMEDY`.

    Does not hide: a layer of the user's own that mixes examples; only torch's are known here.
    """
    from torch.nn.modules.batchnorm import _BatchNorm
    from torch.nn.modules.instancenorm import _InstanceNorm

    return [
        f"{name or 'the model'} ({type(layer).__name__})"
        for name, layer in module.named_modules()
        if isinstance(layer, _BatchNorm) or (isinstance(layer, _InstanceNorm) and layer.track_running_stats)
    ]


def describe(factory: Any) -> str:
    """A name of a model factory for files, the same in every process: ``fedpriv.learning.models.mlp(hidden=(64,))``.

    Two lambdas of one module share a name; give a function a name of its own where plans must be told apart.
    """
    if isinstance(factory, functools.partial):
        given = [_argument(value) for value in factory.args]
        given += [f"{name}={_argument(value)}" for name, value in sorted(factory.keywords.items())]
        return f"{describe(factory.func)}({', '.join(given)})"
    named = factory if hasattr(factory, "__qualname__") else type(factory)
    name = f"{named.__module__}.{named.__qualname__}"
    if dataclasses.is_dataclass(factory) and not isinstance(factory, type):
        settings = (f"{item.name}={_argument(getattr(factory, item.name))}" for item in dataclasses.fields(factory))
        return f"{name}({', '.join(settings)})"
    return name


def _argument(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_argument, value))}{',' if len(value) == 1 else ''})"
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    return describe(value)
