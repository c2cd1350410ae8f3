"""CUDA graphs without a GPU: torch's operations, kept with the very tensors that they were given and gave.

Like a graph, that knows no Python: numbers that were computed there stay what they were.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from experiments import graphs, phases
from experiments.graphs import Recording

Result = TypeVar("Result")


def simulate(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, to the end of the test, recordings are simulated."""
    for module in (graphs, phases):
        monkeypatch.setattr(module, "GraphRecorder", Simulated)


class Operations(TorchDispatchMode):
    """What torch is asked to do, with the tensors it reads and writes; those from before are put back afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[bool, Any, Any, Any, Any]] = []
        self.before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = dict(zip((argument.name for argument in function._schema.arguments), args, strict=False)) | kwargs
        for argument in function._schema.arguments:
            if argument.alias_info is not None and argument.alias_info.is_write and argument.name in given:
                for tensor in tree_leaves(given[argument.name]):
                    self.before.setdefault(id(tensor), (tensor, tensor.detach().clone()))
        result = function(*args, **kwargs)
        self.done.append((torch.is_grad_enabled(), function, args, kwargs, result))
        return result

    def put_back(self) -> None:
        with torch.no_grad():
            for tensor, values in self.before.values():
                tensor.copy_(values)

    def replay(self) -> None:
        """Without autograd, whose mode some operations look at all the same."""
        with torch._C._AutoDispatchBelowAutograd():
            for graded, function, args, kwargs, result in self.done:
                with torch.set_grad_enabled(graded):
                    values = tree_leaves(function(*args, **kwargs))
                for place, value in zip(tree_leaves(result), values, strict=True):
                    if isinstance(place, Tensor) and place.data_ptr() != value.data_ptr():
                        place.copy_(value)


class Simulated:
    """A `GraphRecorder` without a GPU: like a graph, it knows tensors, and no Python."""

    def __init__(self, device: torch.device) -> None:
        pass

    def aside(self, work: Callable[[], Result]) -> Result:
        return work()

    def record(self, work: Callable[[], Result]) -> Recording[Result]:
        random = torch.get_rng_state()
        with Operations() as found:
            result = work()
        found.put_back()
        torch.set_rng_state(random)
        return Recording(found.replay, result)
