"""What both families put around and into their layers: residual connections, normalisation, first weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import CommonConfig

# In a decoding step of a small model, calls are what takes time: neither of these two makes one without need.


def dropout(x: Tensor, rate: float, training: bool) -> Tensor:
    """(…) → (…): Srivastava et al. 2014."""
    return F.dropout(x, rate) if training else x


class LayerNorm(nn.LayerNorm):
    """Ba et al. 2016, section 3; torch's kernel called directly, not by way of its `functional`."""

    def forward(self, input: Tensor) -> Tensor:
        """(…, H) → (…, H)."""
        return torch.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)


class Sublayer(nn.Module):
    """What stands around a layer: a residual connection, layer normalisation before or after, dropout.

    ``x = sublayer.add(x, layer(sublayer.read(x)))`` is LayerNorm(x + dropout(layer(x))) for "post" (Vaswani et al.
    2017, sections 3.1 and 5.4), x + dropout(layer(LayerNorm(x))) for "pre" (Xiong et al. 2020, section 3.1) and x +
    dropout(layer(x)) for "none"; without the residual connection, the same without ``x +``.
    """

    def __init__(self, config: CommonConfig) -> None:
        super().__init__()
        assert config.hidden_size is not None
        self.norm = nn.Identity() if config.norm == "none" else LayerNorm(config.hidden_size)
        self.norm_first = config.norm == "pre"
        self.residual = config.residual
        self.dropout = config.dropout

    def read(self, x: Tensor) -> Tensor:
        """(…, H) → (…, H): what the layer reads."""
        return self.norm(x) if self.norm_first else x

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """(…, H) of the stack and (…, H) that the layer made of it → (…, H)."""
        y = dropout(y, self.dropout, self.training)
        if self.residual:
            y = x + y
        return y if self.norm_first else self.norm(y)


def top_norm(config: CommonConfig) -> nn.Module:
    """Normalises what leaves a stack of sublayers, where these normalise only what layers read ("pre")."""
    assert config.hidden_size is not None
    return LayerNorm(config.hidden_size) if config.norm == "pre" else nn.Identity()


def autocasts(device: torch.device) -> bool:
    """Whether matrix products on the device are computed in another type than that of the weights."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)  # "meta" has no autocast


def initialise(module: nn.Module) -> None:
    """First weights of all layers in `module`, the same for both families.

    Linear layers: Glorot-uniform weights, zero biases (Glorot & Bengio 2010, equation 16). LSTMs, gate by gate:
    Glorot-uniform input weights, orthogonal recurrent weights (Saxe et al. 2014), zero biases but for the forget gates,
    which start open, with 1 (Jozefowicz et al. 2015, section 2.2). Weights on the device "meta" have no values.
    """
    if next(module.parameters()).is_meta:
        return
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.LSTM):
            for name, parameter in layer.named_parameters():
                for number, gate in enumerate(parameter.data.chunk(4)):  # in torch's order i, f, g, o
                    if name.startswith("weight_ih"):
                        nn.init.xavier_uniform_(gate)
                    elif name.startswith("weight_hh"):
                        nn.init.orthogonal_(gate)
                    else:
                        nn.init.constant_(gate, float(number == 1 and name.startswith("bias_ih")))


def stack(count: int, make: Callable[[], nn.Module], *, shared: bool) -> nn.ModuleList:
    """`count` layers on top of each other; where shared, one and the same layer so many times."""
    if shared and count:
        return nn.ModuleList([make()] * count)
    return nn.ModuleList(make() for _ in range(count))
