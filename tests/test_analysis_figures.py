"""What figures draw, number by number, and what they say in words and ticks."""

from pathlib import Path

import example_runs
import ledger_runs
import numpy as np
import pandas as pd
import pytest
import tracked_runs as truth
from ledger_runs import Point, around, run_rows, table, task_rows
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis import (
    claims,
    drawing,
    figures,
    growth,
    overview,
    plots,
    sweep_figures,
)
from analysis.attention_maps import AttentionMap
from analysis.claims import Verdict, processing
from experiments import schema as s


@pytest.mark.parametrize(
    ("places", "ticks"),
    [
        (range(2, 17), list(range(2, 17, 2))),  # no room for fifteen
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


def lines(figure: Figure, title: str, color: str) -> list[tuple[list[float], list[float]]]:
    """Data of the drawn lines of one colour in the panels with this title."""
    panels = [ax for ax in figure.axes if ax.get_title(loc="left") == title]
    assert panels
    return [
        (np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist())
        for ax in panels
        for line in ax.lines
        if line.get_color() == color and np.size(line.get_xdata()) > 0
    ]


def exponent(number: str) -> str:
    return rf"$\mathregular{{n^{{{number}}}}}$"


def test_scores_are_drawn_where_they_were_measured(known: pd.DataFrame) -> None:
    figure = figures.score_by_axis(known)
    assert figure is not None
    distance, pairs = lines(figure, truth.RECALL, s.MODEL_COLORS["lstm"])
    assert distance[0] == [1, 4, 16, 64]
    assert distance[1][-1] == pytest.approx(25)
    assert pairs == ([2, 8], pytest.approx([100, 62]))
    inside, outside = lines(figure, truth.PARITY, s.MODEL_COLORS["transformer"])
    assert inside == ([10, 20], pytest.approx([100, 72]))
    assert outside == ([30, 40], pytest.approx([72, 51]))
    parity = next(ax for ax in figure.axes if ax.get_title(loc="left") == truth.PARITY)
    styles = [line.get_linestyle() for line in parity.lines if line.get_color() == s.MODEL_COLORS["transformer"]]
    assert styles == ["-", "--"]
    chance = [np.asarray(line.get_ydata())[0] for line in parity.lines if line.get_linestyle() == ":"]
    assert chance == [50]
    g2p = next(ax for ax in figure.axes if ax.get_title(loc="left") == truth.G2P)
    assert not any(line.get_linestyle() == ":" for line in g2p.lines)  # its chance is unknown


def test_the_map_of_tasks_names_every_row(known: pd.DataFrame) -> None:
    """Level, and in several lines where the name is long; also where there are two maps, or a single task."""
    name = "text_pairs(train=a_name_of_a_file.tsv, tokenisation=words, data=123456)"
    for runs in (known, known[known["task"] == truth.PARITY].assign(task=name)):
        figure = overview.heat_map(runs)
        assert figure is not None
        figure.canvas.draw()
        labels = figure.axes[0].get_yticklabels()
        tasks = list(dict.fromkeys(overview.task_scores(runs)["task"]))
        assert [label.get_text().replace("\n", " ") for label in labels] == tasks
        assert {label.get_rotation() for label in labels} == {0}
        assert max(len(line) for label in labels for line in label.get_text().split("\n")) <= 42


def test_the_map_of_tasks_shows_what_is_right(known: pd.DataFrame) -> None:
    """Means over seeds in per cent, of an error rate 100 minus it; nothing where nothing was measured."""
    figure = overview.heat_map(known)
    assert figure is not None
    inside, outside = figure.axes
    assert [text.get_text() for text in inside.get_xticklabels()] == ["LSTM", "LSTM + attention", "Transformer"]
    assert [text.get_text() for text in inside.texts] == ["62", "96", "99", "87", "93", "91", "99", "72"]
    assert [text.get_position()[0] for text in inside.texts] == [0.5, 1.5, 2.5, 0.5, 1.5, 2.5, 0.5, 2.5]
    assert [(text.get_text(), text.get_position()) for text in outside.texts] == [
        ("96", (0.5, 2.5)),
        ("51", (2.5, 2.5)),
    ]


def points(ax: Axes, color: str) -> list[tuple[list[float], list[float], float]]:
    """Places and size of the markers of one colour."""
    return [
        (np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist(), line.get_markersize())
        for line in ax.lines
        if line.get_color() == color and np.size(line.get_xdata()) > 0
    ]


def test_scores_against_what_training_cost(known: pd.DataFrame) -> None:
    figure = overview.pareto(known)
    assert figure is not None
    panels = {ax.get_title(loc="left"): ax for ax in figure.axes}
    seeds, mean = points(panels[truth.G2P], s.MODEL_COLORS["lstm"])
    cost = known[(known["metric"] == s.TRAIN_SECONDS) & (known["task"] == truth.G2P) & (known["model"] == "lstm")]
    last = cost.groupby("seed")["value"].max().tolist()
    assert seeds[:2] == (last, pytest.approx([12, 14]))
    assert mean[:2] == ([np.mean(last)], pytest.approx([13]))
    assert mean[2] > seeds[2]
    (front,) = (line for line in panels[truth.G2P].lines if line.get_drawstyle() == "steps-post")
    best = np.asarray(front.get_ydata())
    assert best[-1] == pytest.approx(7)  # of error rates the least
    assert (np.diff(best) < 0).all()


def test_every_claim_is_drawn_with_its_number() -> None:
    """In the unit of its panel: the ends of the interval, and a ring where it is undecided."""
    gap = {"lstm": (0.5, 0.52, 0.51, 0.49, 0.5), "lstm_attention": (0.9,) * 5, "transformer": (0.95,) * 5}
    laws = {model: {s.TRAIN_STEP_SECONDS: (1e-3, power)} for model, power in (("lstm", 0.5), ("transformer", 0.3))}
    more = ledger_runs.table(ledger_runs.task_rows("gap", gap), ledger_runs.sweep_rows(laws, tokens=None, grid="long"))
    entries = claims.ledger(pd.concat([example_runs.store(evaluations=2), more]))
    figure = overview.forest(entries)
    assert figure is not None
    drawn = {}
    for ax in figure.axes:
        for place, name in enumerate(ax.get_yticklabels()):
            own = [line for line in ax.lines if np.asarray(line.get_ydata()).tolist() in ([place], [place, place])]
            drawn[name.get_text().split("  ")[0]] = (
                [x for line in own if np.size(line.get_xdata()) == 2 for x in np.asarray(line.get_xdata()).tolist()],
                [x for line in own if np.size(line.get_xdata()) == 1 for x in np.asarray(line.get_xdata()).tolist()],
                any(line.get_markerfacecolor() == "none" for line in own if line.get_marker() == "o"),
                {str(line.get_color()) for line in own},
            )
    measured = {one.claim.id: one for one in entries if one.measured}
    assert set(drawn) == set(measured) > {"1.1", "2.1", "3.1", "4.1"}
    assert {ax.get_xscale() for ax in figure.axes} == {"linear", "log"}
    assert Verdict.UNDECIDED in {one.verdict for one in measured.values()}
    for id_, (ends, estimate, hollow, colors) in drawn.items():
        record = claims.as_record(measured[id_])
        assert estimate == pytest.approx([record["effect"]])
        assert ends == pytest.approx([record["low"], record["high"]] if record["low"] is not None else [])
        assert hollow == (record["verdict"] == "undecided")
        assert colors == {overview.VERDICT_COLORS[measured[id_].verdict]}


def test_chance_is_of_token_accuracy_only(known: pd.DataFrame) -> None:
    figure = figures.score_by_axis(known.assign(chance=0.1))
    assert figure is not None
    dotted = {ax.get_title(loc="left") for ax in figure.axes for line in ax.lines if line.get_linestyle() == ":"}
    assert dotted == {truth.RECALL, truth.PARITY}


def test_learning_against_steps_and_against_seconds(known: pd.DataFrame) -> None:
    by_step, by_seconds = figures.learning_by_step(known), figures.learning_by_seconds(known)
    assert by_step is not None
    assert by_seconds is not None
    *seeds, mean = lines(by_step, truth.RECALL, s.MODEL_COLORS["lstm"])
    assert len(seeds) == 2
    assert mean == ([100, 200, 300], pytest.approx([62 / 3, 124 / 3, 62]))
    assert lines(by_seconds, truth.RECALL, s.MODEL_COLORS["lstm"])[-1][0] == [10, 20, 30]
    by_flops = figures.learning_by_flops(example_runs.store(seeds=2, evaluations=2))
    assert by_flops is not None
    assert lines(by_flops, "needle", s.MODEL_COLORS["lstm"])[-1][0] == [0.5e12, 1e12]


def test_costs_and_their_exponents(known: pd.DataFrame) -> None:
    figure = sweep_figures.cost_by_length(known)
    assert figure is not None
    drawn, fitted = lines(figure, "training step", s.MODEL_COLORS["lstm"])
    assert drawn == (list(truth.LENGTHS), pytest.approx([0.1 * n**0.9 for n in truth.LENGTHS]))
    assert fitted == ([32, 512], pytest.approx([0.1 * n**0.9 for n in (32, 512)]))
    step = next(ax for ax in figure.axes if ax.get_title(loc="left") == "training step")
    assert {text.get_text() for text in step.texts} == {exponent("0.90"), exponent("0.25"), "100"}
    (ring,) = [line for line in step.lines if line.get_marker() == "o" and len(np.asarray(line.get_xdata())) == 1]
    assert np.asarray(ring.get_xdata()) == pytest.approx(truth.CROSSOVER)
    assert np.asarray(ring.get_ydata()) == pytest.approx(0.1 * truth.CROSSOVER**0.9)
    low = min(np.asarray(path.vertices)[:, 1].min() for band in step.collections for path in band.get_paths())
    assert low == pytest.approx(0.9 * 0.1 * 32**0.9)  # one seed: the band is the quartiles
    memory = next(ax for ax in figure.axes if ax.get_title(loc="left") == "peak memory of training")
    assert {text.get_text() for text in memory.texts} == {exponent("1.00"), exponent("1.50"), exponent("2.00"), "50"}


def test_the_exponents_of_the_figure_are_those_of_the_sentences() -> None:
    """Of seeds that differ much, of which the law of the means is another."""
    laws = {model: {s.TRAIN_STEP_SECONDS: (1e-3, e)} for model, e in (("lstm", 0.9), ("transformer", 0.4))}
    noisy = ledger_runs.table(ledger_runs.sweep_rows(laws, seeds=3, noise=1.0))
    figure = sweep_figures.cost_by_length(noisy)
    assert figure is not None
    drawn = {text.get_text() for text in figure.axes[0].texts}
    stated = growth.growth(noisy).query("what == 'exponent' and cost == 'training time'")["estimate"]
    assert len(stated) == 2
    assert {exponent(f"{one:.2f}") for one in stated} <= drawn
    sentence = next(processing.growth(noisy)).sentence
    assert all(f"to the power {one:.2f}" in sentence or f"and {one:.2f}" in sentence for one in stated), sentence


def test_a_cost_below_the_resolution_of_its_measurement_has_no_panel() -> None:
    laws = {"lstm": {s.TRAIN_STEP_SECONDS: (1e-3, 0.9), s.PEAK_MEMORY: (0.0, 1.0)}}
    figure = sweep_figures.cost_by_length(ledger_runs.table(ledger_runs.sweep_rows(laws)))
    assert figure is not None
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["training step"]


def test_the_interval_of_a_crossover_is_drawn() -> None:
    runs_of_five = example_runs.store(evaluations=2)
    figure = sweep_figures.cost_by_length(runs_of_five)
    assert figure is not None
    step = next(ax for ax in figure.axes if ax.get_title(loc="left") == "training step")
    found = growth.growth(runs_of_five).query("what == 'crossover' and cost == 'training time' and model == 'lstm'")
    turn = found.dropna(subset="estimate").iloc[0]
    bars = [np.asarray(line.get_xdata()).tolist() for line in step.lines if line.get_color() == drawing.INK]
    assert [turn["low"], turn["high"]] in [pytest.approx(bar) for bar in bars if len(bar) == 2]


def test_a_dollar_of_the_users_is_no_mathematics(tmp_path: Path) -> None:
    """In symbols, and in the labels of tasks, categories, models and hardware: such text is drawn as it stands."""
    sign = r"$\foo$"
    task, model = f"own(source={sign})", f"lstm(x={sign})"
    name = s.metric(s.TEST, s.TOKEN_ACCURACY)
    points: list[Point] = [(name, None, 0.5), (s.of_category(name, "type", sign), None, 0.5), (s.TRAIN_SECONDS, 1, 9.0)]
    points += [(s.metric(s.TEST, s.TOKEN_ACCURACY, s.DISTANCE), at, 0.5) for at in (1, 2)]
    learnt = run_rows(s.LEARN, task, model, 0, points)
    laws = {model: {s.TRAIN_STEP_SECONDS: (1e-3, 1.0)}}
    runs_of_both = ledger_runs.table(learnt, ledger_runs.sweep_rows(laws, seeds=2, hardware=sign))
    weights = np.array([[0.9, 0.1], [0.25, 0.75]])
    maps = [AttentionMap("g", task, model, 0, "r", 0, ("$$", sign), ("$$", "a"), weights)]
    for plot in (*plots.PLOTS, plots.attention(maps)):
        figure = plot.draw(runs_of_both)
        if figure is not None:
            drawing.save(figure, [tmp_path / f"{plot.name}.svg"])
    drawn = {file.stem for file in tmp_path.iterdir()}
    assert drawn == {"attention", "tasks", "categories", "scores", "cost", "pareto"}


def test_nothing_to_draw_is_no_figure(known: pd.DataFrame) -> None:
    failed = known[known["status"] == "FAILED"]
    assert [plot.draw(failed) for plot in plots.PLOTS] == [None] * len(plots.PLOTS)
    learnt = known[known["kind"] == s.LEARN]
    assert sweep_figures.cost_by_length(learnt) is None


def test_figures_leave_no_trace_in_pyplot(known: pd.DataFrame) -> None:
    from matplotlib import pyplot as plt

    figures.score_by_axis(known)
    assert plt.get_fignums() == []


def test_colours_are_fixed_by_model() -> None:
    look = drawing.look(["transformer", "lstm", "transformer(layers=4)", "lstm_attention(heads=2)", "hybrid"])
    assert look.color["transformer"] == s.MODEL_COLORS["transformer"]
    assert look.color["lstm_attention(heads=2)"] == s.MODEL_COLORS["lstm_attention"]  # the only one of its family
    assert look.color["transformer(layers=4)"] == s.OTHER_COLORS[0]
    assert look.color["hybrid"] == s.OTHER_COLORS[1]
    assert len(set(look.marker.values())) == 5
    assert drawing.look(["lstm"]).color["lstm"] == look.color["lstm"]


def test_every_plain_model_has_a_colour_and_a_marker_of_its_own() -> None:
    look = drawing.look(s.MODEL_COLORS)
    assert look.color == s.MODEL_COLORS
    assert len(set(look.color.values())) == len(set(look.marker.values())) == 5
    assert not set(s.OTHER_COLORS) & set(look.color.values())


# --- of a grid of ablations -------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def ablated() -> pd.DataFrame:
    return truth.ablated()


def markers(figure: Figure, title: str) -> dict[tuple[float, float], str]:
    """Place → "filled" or "hollow" and the marker, of every marker in a panel of the forest plot."""
    ax = next(ax for ax in figure.axes if ax.get_title(loc="left") == title)
    return {
        (round(float(np.asarray(line.get_xdata())[0]), 6), round(float(np.asarray(line.get_ydata())[0]), 6)): (
            f"{'hollow' if line.get_markerfacecolor() == 'none' else 'filled'} {line.get_marker()}"
        )
        for line in ax.lines
        if line.get_marker() != "None"
    }


def test_the_forest_plot(ablated: pd.DataFrame) -> None:
    figure = figures.components(ablated)
    assert figure is not None
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["LSTM + attention (layers=2)", "Transformer"]
    lstm, transformer = figure.axes
    names = [text.get_text() for text in transformer.get_yticklabels()]
    assert names == ["positions=none", "layers=4, norm=post (1 of 3 tasks)", "num_heads=1"]
    assert transformer.get_ylim()[0] > transformer.get_ylim()[1]  # the first on top
    assert lstm.get_xlim() == transformer.get_xlim()
    drawn = markers(figure, "Transformer")
    # positions=none: recall and parity; the pooled number, 25 points as on G2P; addition; parity out of range.
    assert drawn[10, 0] == drawn[40, 0] == "filled o"
    assert drawn[25, 0] == "filled D"
    assert drawn[60, 0] == "filled x"
    assert drawn[-20, 0.36] == "hollow D"
    assert drawn[3, 1] == "filled D"
    assert (10, 1) not in drawn
    (low, high), *_ = [
        sorted(np.asarray(line.get_xdata()).tolist())
        for line in transformer.lines
        if np.size(line.get_xdata()) == 2 and np.asarray(line.get_ydata()).tolist() == [1, 1]
    ]
    assert (low, high) == pytest.approx((3 - 0.92, 3 + 0.92))
    (margin,) = transformer.patches
    assert isinstance(margin, Rectangle)
    assert (margin.get_x(), margin.get_width()) == (-5, 10)
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert said[1:] == ["out of range", "one task", "a task on which the full model is not trained", "±5 points"]


def test_the_forest_plot_leaves_out_what_there_is_not(ablated: pd.DataFrame) -> None:
    figure = figures.components(ablated[(ablated["task"] == truth.G2P) & ~(ablated["metric"] == "longer/wer")])
    assert figure is not None
    assert [text.get_text() for text in figure.legends[0].get_texts()][1:] == ["one task", "±5 points"]
    assert set(markers(figure, "Transformer")) == {(25, 0), (3, 1), (1, 2)}
    assert figure.axes[1].get_ylim() == (2.5, -0.5)  # one lane a row
