"""Input embeddings: token ids → vectors. The same for both families."""

from __future__ import annotations

import math

from torch import Tensor, nn


class TokenEmbedding(nn.Embedding):
    """A learned vector for each symbol, scaled by √size (Vaswani et al. 2017, section 3.4).

    Initialised with standard deviation 1/√size, so that what leaves it has variance one.
    """

    def reset_parameters(self) -> None:
        """Draws the weights anew."""
        nn.init.normal_(self.weight, std=self.embedding_dim**-0.5)

    def forward(self, input: Tensor) -> Tensor:
        """(…) token ids → (…, size)."""
        return super().forward(input) * math.sqrt(self.embedding_dim)
