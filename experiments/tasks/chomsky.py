"""What the fifteen tasks of Delétang et al. 2023 (Neural networks and the Chomsky hierarchy, ICLR) share.

They are trained on lengths up to 40 and scored on longer ones, up to 500, length by length. Here they are sequence to
sequence: the source is the string, and the target the answer, without the padding of the publication; it ends with the
end of sequence where its length varies with the length of the string. What the publication calls length is that of the
string here too. `experiments.tasks.strings.Reverse` is the fifteenth.
"""

from __future__ import annotations

from typing import ClassVar

from experiments.tasks.lengths import LengthTask
from experiments.tasks.synthetic import Size, Sizes

MODULUS = 5  # of all arithmetic, as published
TABLE = "Delétang et al. 2023, Neural networks and the Chomsky hierarchy, table 1 and appendix A.1"


class ChomskyTask(LengthTask):
    """Lengths as published, a few of the longer ones.

    Attributes:
        min_length, max_length: in training, uniform.
        longer_lengths: evaluated beyond training.
    """

    reference: ClassVar[str] = TABLE

    min_length: Size = 1
    max_length: Size = 40
    longer_lengths: Sizes = (50, 75, 100, 150, 200, 300, 400, 500)
