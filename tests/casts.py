"""Casts of weights to bfloat16, counted: where they are made once, a second repetition has none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Casts(TorchDispatchMode):
    """Counts the tensors that are cast and that `weights` takes for such, by their shape."""

    def __init__(self, weights: Callable[[torch.Size], bool]) -> None:
        super().__init__()
        self.weights = weights
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.to.dtype):  # the latter in inference mode
            self.count += torch.bfloat16 in (*args, *(kwargs or {}).values()) and self.weights(args[0].shape)
        return func(*args, **(kwargs or {}))


def first_and_again(work: Callable[[], object], weights: Callable[[torch.Size], bool]) -> tuple[int, int]:
    """Casts in a repetition of some work, and in the one after it."""
    with Casts(weights) as first:
        work()
    with Casts(weights) as again:
        work()
    return first.count, again.count
