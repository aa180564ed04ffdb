"""How a gradient moves weights: decay, FedProx's pull, momentum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch


class Rule(Protocol):
    """What descriptions of local training have in common."""

    @property
    def learning_rate(self) -> float: ...
    @property
    def momentum(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def proximal(self) -> float: ...


class Steps:
    """The steps of a turn that starts at the broadcast.

    With g the gradient, v the velocity, zero at first, and w₀ the broadcast::

        v = momentum · v + g + weight_decay · w + proximal · (w − w₀)
        w = w − learning_rate · v

    Args:
        rule: its figures.
        weights: the trainable parameters; they are moved in place.
    """

    def __init__(self, rule: Rule, weights: Sequence[torch.Tensor]) -> None:
        self.rule, self.weights = rule, weights
        self.velocities = [torch.zeros_like(w) for w in weights] if rule.momentum else []
        self.anchors = [w.detach().clone() for w in weights] if rule.proximal else []

    @torch.no_grad()
    def take(self, gradients: Sequence[torch.Tensor]) -> None:
        """One step. Gradients are not changed: two weights may have the same tensor."""
        rule = self.rule
        for i, (w, gradient) in enumerate(zip(self.weights, gradients, strict=True)):
            g = gradient
            if rule.weight_decay:
                g = g.add(w, alpha=rule.weight_decay)
            if rule.proximal:
                g = g.add(w - self.anchors[i], alpha=rule.proximal)
            if rule.momentum:
                g = self.velocities[i].mul_(rule.momentum).add_(g)
            w.sub_(g, alpha=rule.learning_rate)
