"""Muon for matrices, AdamW for everything else: fewer steps to the same loss on small models.

Source: K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024), with the scale of
"Muon is scalable for LLM training" (arXiv:2502.16982), section 2.2, which makes AdamW's learning rates fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum for the first group of parameters, AdamW for the second.

    Args:
        matrices: parameters of two dimensions inside the network, ``[out, in]``.
        others: embeddings, heads, norms and biases.
        lr: learning rate of both.
        momentum: of the matrices.
        betas, eps: of AdamW.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter],
        *,
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
    ) -> None:
        shared = {"lr": lr, "weight_decay": weight_decay}
        groups = [
            {"params": list(matrices), "is_matrix": True, "momentum": momentum, **shared},
            {"params": list(others), "is_matrix": False, "betas": betas, "eps": eps, **shared},
        ]
        super().__init__([group for group in groups if group["params"]], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters once."""
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                update = (self._matrix_update if group["is_matrix"] else self._adam_update)(parameter, group)
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"])
        return loss

    def _matrix_update(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
        ahead = parameter.grad.lerp(state["momentum"], group["momentum"])  # type: ignore[union-attr]
        return orthogonalized(ahead) * (0.2 * max(parameter.shape) ** 0.5)

    def _adam_update(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        steps = int(state["step"])
        state["mean"].lerp_(parameter.grad, 1 - beta1)
        state["square"].lerp_(parameter.grad.square(), 1 - beta2)  # type: ignore[union-attr]
        scale = (state["square"] / (1 - beta2**steps)).sqrt_().add_(group["eps"])
        return state["mean"] / (1 - beta1**steps) / scale


def orthogonalized(matrix: Tensor, *, steps: int = 5) -> Tensor:
    """Compute the nearest matrix with all singular values about 1, ``[out, in] -> [out, in]``.

    The iteration is a quintic polynomial whose coefficients push every singular value into about 0.7 ... 1.2.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    flat = matrix.float() if matrix.shape[0] <= matrix.shape[1] else matrix.float().T
    flat = flat / (flat.norm() + 1e-7)
    for _ in range(steps):
        gram = flat @ flat.T
        flat = a * flat + (b * gram + c * gram @ gram) @ flat
    return (flat if matrix.shape[0] <= matrix.shape[1] else flat.T).to(matrix.dtype)


def muon_for(model: nn.Module, head: nn.Module, *, lr: float, weight_decay: float, beta2: float) -> Muon:
    """Make the optimizer of a model's trained parameters: Muon for linear layers' matrices, AdamW for all others.

    Args:
        head: the language-model head, which counts as an embedding whether or not it is tied to one.
    """
    linear = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear) and m is not head}
    linear -= {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    trained = [p for p in model.parameters() if p.requires_grad]
    return Muon(
        [p for p in trained if id(p) in linear],
        [p for p in trained if id(p) not in linear],
        lr=lr,
        weight_decay=weight_decay,
        betas=(0.9, beta2),
    )
