"""What figures say in words and ticks: which side of a claim's effect is whose, and where scores were measured."""

import numpy as np
import pandas as pd
import pytest
from ledger_runs import around, table, task_rows
from matplotlib.figure import Figure

from analysis import claims, drawing, overview


@pytest.mark.parametrize(
    ("places", "ticks"),
    [
        (
            range(2, 17),
            list(range(2, 17, 2)),
        ),  # fifteen would not have room; an axis of multiples of 3 has none of them
        ([2, 4, 6, 8, 10, 12, 14, 16], [2, 4, 6, 8, 10, 12, 14, 16]),
        ([2, 3, 4, 8, 12, 14], [2, 4, 8, 12, 14]),
        ([5], [5]),
    ],
)
def test_ticks_of_scores_stand_where_they_were_measured(places: list[int], ticks: list[int]) -> None:
    ax = Figure().subplots()
    ax.plot(list(places), [0.5] * len(list(places)), "o")
    drawing.scale_x(ax, pd.Series([float(place) for place in places]), logarithmic=False)
    np.testing.assert_array_equal(ax.get_xticks(), ticks)


def test_the_claims_say_of_what_their_effects_are_and_for_whom() -> None:
    scores = {"lstm": around(0.5), "lstm_attention": around(0.9, shift=1), "transformer": around(0.98, shift=3)}
    entries = claims.ledger(table(task_rows("recall", scores, hardest=scores, measures="distance=distance")))
    figure = overview.forest(entries)
    assert figure is not None
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == [
        "points of accuracy: right of zero the Transformer is ahead, left of it the LSTM",
        "%: right of the line attention closes more than half of the gap",
    ]
    labels = [tick.get_text() for ax in figure.axes for tick in ax.get_yticklabels()]
    assert labels == [
        "2.1  distance in range\nlead of the Transformer",
        "3.1  share of the gap that added attention closes\nshare of the gap closed",
    ]
    shown = claims.as_table(entries)
    of = dict(
        zip([row[0] for row in shown.rows], [row[shown.header.index("effect of")] for row in shown.rows], strict=True)
    )
    assert of["1.1"] == "exponent of the LSTM minus the Transformer's"
    assert (
        of["1.3"] == "exponent of the Transformer minus the LSTM's"
    )  # the other way round: it is this that is to grow
    assert (of["1.2"], of["4.1"]) == ("LSTM / Transformer", "Transformer / LSTM")
    assert all(claims.as_record(one)["effect_of"] == of[one.claim.id] for one in entries)
