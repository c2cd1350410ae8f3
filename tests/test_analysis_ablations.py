from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tracked_runs as truth
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from analysis import ablations, variants
from experiments import config
from experiments import schema as s
from models.registry import MODELS

POSITIONS, HEADS = "transformer(positions=none)", "transformer(num_heads=1)"
NO_ATTENTION, NO_RESIDUAL = "lstm_attention(layers=2, attention=none)", "lstm_attention(layers=2, residual=False)"
TRANSFORMER_TASKS = (truth.RECALL, truth.PARITY, truth.G2P)  # not addition: the full model is not trained on it


# --- labels ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("label", "options"),
    [
        ("transformer", {}),
        ("transformer(layers=4)", {"layers": "4"}),
        (
            "lstm_attention(layers=2, residual=False, attention=none)",
            {"layers": "2", "residual": "False", "attention": "none"},
        ),
        ("m(sizes=(1, 2), name=a, b)", {"sizes": "(1, 2)", "name": "a, b"}),
        ("m(encoder={'layers': 2, 'x': [1, f(a=3)]}, x=1)", {"encoder": "{'layers': 2, 'x': [1, f(a=3)]}", "x": "1"}),
        ("m(inner=f(a=1, b=2), b=3)", {"inner": "f(a=1, b=2)", "b": "3"}),
        ("m(empty=, rule=a=b)", {"empty": "", "rule": "a=b"}),
    ],
)
def test_the_options_of_a_label(label: str, options: dict[str, str]) -> None:
    assert variants.options(label) == options
    assert list(variants.options(label)) == list(options)


@pytest.mark.parametrize("label", ["m(", "m()", "m(x)", "m(x=1", "m(4, x=1)"])
def test_what_is_no_label_is_refused(label: str) -> None:
    with pytest.raises(ValueError, match="is not the label of a model"):
        variants.options(label)


@dataclass(frozen=True)
class Options:
    first: Any = "registered"
    second: Any = "registered"
    third: Any = "registered"


WORDS = st.text("abcxyz_", min_size=1)
PLAIN = st.one_of(st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False), WORDS)
VALUES = st.one_of(PLAIN, st.tuples(PLAIN, PLAIN), st.dictionaries(WORDS, PLAIN), st.lists(PLAIN))


@given(st.builds(Options, VALUES, VALUES, VALUES))
def test_labels_are_read_as_they_are_made(made: Options) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(config.MODELS, "made_up", Options())
        label = config.NamedModel("made_up", made).label  # type: ignore[arg-type]
    assert variants.options(label) == {field.name: str(getattr(made, field.name)) for field in fields(made)}


def test_labels_of_real_models() -> None:
    registered = MODELS["transformer"]
    assert variants.options(config.NamedModel("transformer", registered).label) == {}
    label = config.NamedModel("transformer", replace(registered, layers=7, dropout=0.25)).label
    assert variants.options(label) == {"layers": "7", "dropout": "0.25"}


@pytest.mark.parametrize(
    ("full", "variant", "words"),
    [
        ("transformer", POSITIONS, "positions=none"),
        ("transformer(num_heads=8)", HEADS, "num_heads: 8 → 1"),
        ("lstm(layers=2)", "lstm(layers=2, residual=False)", "residual=False"),
        ("lstm(layers=2)", "lstm", "layers: 2 → default"),
        ("m(a=1, b=2, c=3)", "m(d=4, b=5, c=3)", "d=4, b: 2 → 5, a: 1 → default"),
    ],
)
def test_changes_in_words(full: str, variant: str, words: str) -> None:
    assert variants.change(full, variant) == words


@pytest.mark.parametrize(
    ("labels", "full"),
    [
        (["m(a=1)", "m(b=1)", "m", "m(c=1)"], "m"),
        (["m(layers=2)", "m(layers=2, a=1)", "m(layers=2, b=1)"], "m(layers=2)"),  # the plain one is not among them
        (["m(layers=2)", "m(layers=2, a=1)", "m(layers=2, b=1)", "m"], "m(layers=2)"),  # … or is no centre
        (["m(a=1)", "m"], "m"),  # of two, the one that states less
        (["m(a=1, b=1)", "m(c=1)"], "m(c=1)"),
        (["m(a=2)", "m(a=1)"], "m(a=1)"),  # the first in alphabetical order
        (["m(a=1, b=1)"], "m(a=1, b=1)"),
    ],
)
def test_the_full_model_is_the_centre_of_the_star(labels: list[str], full: str) -> None:
    assert variants.full_models(labels) == {"m": full}
    assert variants.full_models([*reversed(labels), *labels, "other(a=1)"]) == {"m": full, "other": "other(a=1)"}


def test_who_stands_side_by_side() -> None:
    def table(grid: str, labels: list[str], kind: str = s.LEARN) -> pd.DataFrame:
        return pd.DataFrame({"grid": grid, "kind": kind, "model": labels})

    six = ["m", *(f"m(a={i})" for i in range(5))]
    assert variants.side_by_side(table("g", six * 2))["model"].tolist() == six * 2
    seven = [*six, "n(a=1)"]
    assert variants.side_by_side(table("g", seven))["model"].tolist() == ["m", "n(a=1)"]
    both = pd.concat([table("g", seven), table("h", ["m(a=1)"]), table("h", ["n"] * 9, s.EFFICIENCY)])
    assert variants.side_by_side(both)[["grid", "model"]].to_numpy().tolist() == [
        ["g", "m"],
        ["g", "n(a=1)"],
        ["h", "m(a=1)"],
    ]
    assert variants.side_by_side(table("g", seven, s.EFFICIENCY)).empty


def test_a_model_without_variants_beside_it_is_called_after_its_family() -> None:
    def table(grid: str, kind: str, *labels: str) -> pd.DataFrame:
        return pd.DataFrame({"grid": grid, "kind": kind, "model": labels})

    every = pd.concat(
        [
            table("g", s.LEARN, "m(a=1)", "n", "n(b=2)", "m(a=1)"),
            table("g", s.EFFICIENCY, "n(b=2)"),
            table("h", s.LEARN, "m(a=2)", "n(b=2)"),
        ]
    )
    assert variants.simplified(every)["model"].tolist() == ["m", "n", "n(b=2)", "m", "n", "m", "n"]


# --- effects ---------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def ablated() -> pd.DataFrame:
    return truth.ablated()


@pytest.fixture(scope="module")
def effects(ablated: pd.DataFrame) -> pd.DataFrame:
    return ablations.effects(ablated)


def row(effects: pd.DataFrame, variant: str, task: str, split: str = s.TEST) -> pd.Series:
    found = effects[(effects["variant"] == variant) & (effects["task"] == task) & (effects["split"] == split)]
    assert len(found) == 1
    return found.iloc[0]


def test_whom_is_compared_with_whom(effects: pd.DataFrame) -> None:
    assert list(effects.columns) == list(ablations.COLUMNS)
    found = effects[["grid", "family", "reference", "variant", "change"]].drop_duplicates().to_numpy().tolist()
    lstm, transformer = "lstm_attention(layers=2)", "transformer"
    assert found == [
        ["ablated", "lstm_attention", lstm, NO_ATTENTION, "attention=none"],
        ["ablated", "lstm_attention", lstm, NO_RESIDUAL, "residual=False"],
        ["ablated", transformer, transformer, truth.POST, "layers=4, norm=post"],
        ["ablated", transformer, transformer, HEADS, "num_heads=1"],
        ["ablated", transformer, transformer, POSITIONS, "positions=none"],
    ]


@pytest.mark.parametrize("variant", truth.EFFECTS)
def test_effects_on_each_task(effects: pd.DataFrame, variant: str) -> None:
    full, known = truth.EFFECTS[variant]
    for task, split in truth.FULL[full]:
        found = row(effects, variant, task, split)
        assert found["trained"] == ((full, task) != ("transformer", truth.ADDITION))
        if (task, split) in known:
            effect, half = known[task, split], truth.HALF[task]
            numbers = [found["estimate"], found["low"], found["high"]]
            assert numbers == pytest.approx([effect, effect - half, effect + half])
            assert (found["n"], found["tasks"], found["of_tasks"]) == (2, 1, 1)
        else:  # failed, or failed a gate: missing, not zero
            assert found[["estimate", "low", "high"]].isna().all()
            assert (found["n"], found["tasks"], found["of_tasks"]) == (0, 0, 1)


LSTM_TASKS = (*TRANSFORMER_TASKS, truth.ADDITION)


@pytest.mark.parametrize(
    ("variant", "split", "tasks", "of_tasks"),
    [
        (POSITIONS, s.TEST, TRANSFORMER_TASKS, 3),
        (HEADS, s.TEST, TRANSFORMER_TASKS, 3),
        (truth.POST, s.TEST, (truth.G2P,), 3),
        (NO_ATTENTION, s.TEST, LSTM_TASKS, 4),
        (NO_RESIDUAL, s.TEST, LSTM_TASKS, 4),
        (POSITIONS, s.LONGER, (truth.PARITY,), 1),
        (NO_ATTENTION, s.LONGER, (truth.PARITY,), 1),
    ],
)
def test_effects_pooled(effects: pd.DataFrame, variant: str, split: str, tasks: tuple[str, ...], of_tasks: int) -> None:
    found = row(effects, variant, "", split)
    known = [truth.EFFECTS[variant][1][task, split] for task in tasks]
    assert found["estimate"] == pytest.approx(np.mean(known))
    assert (found["tasks"], found["of_tasks"], found["n"]) == (len(tasks), of_tasks, 2)
    # The standard error of a task is its wobble, each with one degree of freedom (Welch 1947).
    squares = [truth.WOBBLE[task] ** 2 for task in tasks]
    df = sum(squares) ** 2 / sum(square**2 for square in squares)
    half = stats.t.ppf(0.975, df) * np.sqrt(sum(squares)) / len(tasks)
    assert (found["low"], found["high"]) == pytest.approx((np.mean(known) - half, np.mean(known) + half))


def test_nothing_to_pool_is_missing(effects: pd.DataFrame) -> None:
    found = row(effects, truth.POST, "", s.LONGER)
    assert found[["estimate", "low", "high"]].isna().all()
    assert (found["tasks"], found["of_tasks"], found["n"]) == (0, 1, 0)


def test_scores_are_paired_by_seed(ablated: pd.DataFrame) -> None:
    lost = (ablated["model"] == POSITIONS) & (ablated["task"] == truth.RECALL) & (ablated["seed"] == 0)
    effects = ablations.effects(ablated[~lost])
    found = row(effects, POSITIONS, truth.RECALL)
    # Of seed 1 alone. Unpaired, seed 0 of the full model would count too, which is a point better.
    assert found["estimate"] == pytest.approx(0.10 + truth.WOBBLE[truth.RECALL])
    assert (found["n"], np.isnan(found["low"])) == (1, True)
    pooled = row(effects, POSITIONS, "")
    assert pooled["estimate"] == pytest.approx((0.10 + truth.WOBBLE[truth.RECALL] + 0.40 + 0.25) / 3)
    assert (pooled["n"], pooled["tasks"], np.isnan(pooled["low"])) == (1, 3, True)


@pytest.mark.parametrize(("score", "counts"), [(0.90, True), (0.8999, False)])
def test_the_edge_of_trained(ablated: pd.DataFrame, score: float, counts: bool) -> None:
    full = (ablated["model"] == "transformer") & (ablated["metric"] == "test/sequence_accuracy")
    moved = ablations.effects(ablated.assign(value=ablated["value"].where(~full, score)))
    assert row(moved, POSITIONS, truth.ADDITION)["trained"] == counts
    assert row(moved, POSITIONS, "")["of_tasks"] == 3 + counts


def test_error_rates_have_no_known_ceiling(ablated: pd.DataFrame) -> None:
    bad = ablations.effects(ablated.assign(value=ablated["value"].where(ablated["metric"] != "test/wer", 0.2)))
    found = bad[bad["task"] == truth.G2P]
    assert found["trained"].all()
    assert found["estimate"].tolist() == [0] * 5


def test_scores_in_other_units_are_pooled_apart(ablated: pd.DataFrame) -> None:
    renamed = ablated.assign(
        metric=ablated["metric"].str.replace("sequence_accuracy", "loss"),
        headline=ablated["headline"].replace("sequence_accuracy", "loss"),
    )
    effects = ablations.effects(renamed)
    pooled = effects[(effects["variant"] == POSITIONS) & (effects["task"] == "") & (effects["split"] == s.TEST)]
    # The accuracies and error rates, then the loss, of which less is better.
    assert dict(zip(pooled["headline"], pooled["estimate"], strict=True)) == pytest.approx(
        {"loss": -0.60, "token_accuracy, wer": 0.25}
    )
    table = {section.name: section.table for section in ablations.sections(effects)}["Transformer"]
    assert table.header[1] == "addition, nats per token"
    assert table.header[-3:] == ("pooled, test, nats per token", "pooled, test, points", "pooled, longer, points")
    cells = {cells[0]: cells for cells in table.rows}["positions=none"]
    assert cells[1] == "-0.600 [-0.605, -0.595]"
    assert cells[-2] == "+25.0 [+24.9, +25.1], 3 of 3 tasks"


def test_a_full_model_that_failed_leaves_nothing_to_compare(ablated: pd.DataFrame) -> None:
    status = ablated["status"].where(ablated["model"] != "transformer", s.FAILED)
    assert set(ablations.effects(ablated.assign(status=status))["family"]) == {"lstm_attention"}


def test_without_variants_there_are_no_effects(known: pd.DataFrame) -> None:
    assert ablations.effects(known).empty
    assert ablations.sections(ablations.effects(known)) == []


def test_each_grid_has_its_own_full_model(ablated: pd.DataFrame) -> None:
    small = ablated[ablated["model"].isin([HEADS, POSITIONS])].assign(grid="small", run_id=ablated["run_id"] + "x")
    effects = ablations.effects(pd.concat([ablated, small]))
    assert effects.groupby("grid")["reference"].unique().map(list).to_dict() == {
        "ablated": ["lstm_attention(layers=2)", "transformer"],
        "small": [HEADS],
    }
    own = effects[effects["grid"] == "small"]
    assert set(own["change"]) == {"positions=none, num_heads: 1 → default"}
    assert row(own, POSITIONS, truth.RECALL)["estimate"] == pytest.approx(0.10 - 0.01)
    assert [section.name for section in ablations.sections(effects)] == [
        "LSTM + attention (layers=2), grid ablated",
        "Transformer, grid ablated",
        "Transformer (num_heads=1), grid small",
    ]


# --- as a report shows them ------------------------------------------------------------------------------------------
def test_the_table_of_a_full_model(effects: pd.DataFrame) -> None:
    lstm, transformer = (section.table for section in ablations.sections(effects))
    tasks = ("associative_recall", "g2p(language=fre)", "running_parity, test", "running_parity, longer")
    pooled = ("pooled, test", "pooled, longer")
    assert lstm.header == ("changed", "addition", *tasks, *pooled)
    assert transformer.header == ("changed", "addition †", *tasks, *pooled)
    assert transformer.rows[0] == (
        "positions=none",
        "+60.0 [+59.5, +60.5]",
        "+10.0 [+9.0, +11.0]",
        "+25.0 [+24.1, +25.9]",
        "+40.0 [+39.0, +41.0]",
        "-20.0 [-21.0, -19.0]",
        "+25.0 [+24.9, +25.1], 3 of 3 tasks",
        "-20.0 [-21.0, -19.0], 1 of 1 task",
    )
    # By what is lost, the largest first.
    assert [cells[0] for cells in transformer.rows] == ["positions=none", "layers=4, norm=post", "num_heads=1"]
    assert transformer.rows[1][2:] == (
        *("–", "+3.0 [+2.1, +3.9]", "–", "–"),
        *("+3.0 [+2.1, +3.9], 1 of 3 tasks", "–, 0 of 1 task"),
    )


def test_splits_are_named_only_where_there_are_two(ablated: pd.DataFrame) -> None:
    effects = ablations.effects(ablated[ablated["task"] == truth.RECALL])
    (lstm, transformer) = (section.table for section in ablations.sections(effects))
    assert lstm.header == transformer.header == ("changed", "associative_recall", "pooled")


def test_what_was_lost_most_stands_first_and_what_is_missing_last(ablated: pd.DataFrame) -> None:
    effects = ablations.effects(ablated[ablated["task"] == truth.RECALL])
    transformer = effects[effects["family"] == "transformer"]
    assert list(ablations.by_effect(transformer)) == [POSITIONS, HEADS, truth.POST]


def test_components_beyond_and_inside_the_margin(effects: pd.DataFrame) -> None:
    lstm, transformer = (section.sentences for section in ablations.sections(effects))
    where = ", pooled over tasks, the whole interval lies"
    assert transformer == (
        f"In range{where} above 5 points for positions=none (+25.0 [+24.9, +25.1]).",
        f"In range{where} inside ±5 points for layers=4, norm=post (+3.0 [+2.1, +3.9], 1 of 3 tasks);"
        " num_heads=1 (+0.0 [-0.1, +0.1]).",
        f"Out of range{where} inside ±5 points for num_heads=1 (+0.0 [-1.0, +1.0]).",
        f"Out of range{where} below -5 points for positions=none (-20.0 [-21.0, -19.0]).",
    )
    # Out of range attention=none is at 4 to 6 points: neither beyond the margin nor inside it.
    assert not any("Out of range" in sentence and "attention=none" in sentence for sentence in lstm)


def test_one_seed_has_no_interval_to_speak_of(ablated: pd.DataFrame) -> None:
    sections = ablations.sections(ablations.effects(ablated[ablated["seed"] == 0]))
    assert [section.sentences for section in sections] == [(), ()]
    assert sections[1].table.rows[0][2] == "+9.9"
    assert sections[1].notes[0] == "Each number is of 1 seed."


def test_the_notes_below_the_table(ablated: pd.DataFrame, effects: pd.DataFrame) -> None:
    lstm, transformer = (section.notes for section in ablations.sections(effects))
    assert lstm == ("Each number is of 2 seeds.",)
    assert transformer[1:] == (
        "† In range the full model stays under 90 % of the ceiling: it is not trained on this task, which is left out"
        " of the pooled number.",
    )
    lost = (ablated["model"] == POSITIONS) & (ablated["task"] == truth.RECALL) & (ablated["seed"] == 0)
    assert ablations.sections(ablations.effects(ablated[~lost]))[1].notes[0] == "Each number is of 1 to 2 seeds."
