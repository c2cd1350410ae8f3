import base64
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import ledger_runs
import numpy as np
import pandas as pd
import pytest
import tracked_runs as truth
from ledger_runs import Point, run_rows

from analysis import (
    ablations,
    claims,
    drawing,
    figures,
    overview,
    plots,
    report,
    runs,
    tables,
    units,
)
from analysis.attention_maps import AttentionMap
from experiments import schema as s

PNG = b"\x89PNG\r\n\x1a\n"
# The known grid has no variants, gradients, categories or tuning, and does not say what training cost in FLOPs.
NOT_DRAWN = ("components", "categories", "gradients", "tuning", "learning_by_flops", "profile")
PLOTS = [plot for plot in plots.PLOTS if plot.name not in NOT_DRAWN]
DRAWN = ["claims", *(plot.name for plot in PLOTS)]


class Page(HTMLParser):
    """Tables as lists of rows, identifiers, links and everything that a browser would load."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.drawings: list[dict[str, str | None]] = []
        self.figures = 0
        self.in_cell = False
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if "id" in values:
            self.ids.append(str(values["id"]))
        if tag == "a":
            self.links.append(str(values["href"]))
        if tag in ("link", "iframe", "object", "embed", "img"):
            self.loaded.append(tag)
        self.loaded += [f"{k}={v}" for k, v in attrs if k in ("src", "srcset", "data", "xlink:href")]
        self.loaded += [f"{k}={v}" for k, v in attrs if k == "href" and tag != "a" and str(v)[0] != "#"]
        if tag == "figure":
            self.figures += 1
        if tag == "svg":
            self.drawings.append(values)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.in_cell = True

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self.in_cell:
            self.tables[-1][-1][-1] += data

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.tables[-1][-1][-1] = self.tables[-1][-1][-1].strip()
            self.in_cell = False


@pytest.fixture(scope="module")
def written(known: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports") / "deep" / "known"
    page = report.write(known, folder, title="Known <truth> & more", command="lvt report known")
    assert page == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def page(written: Path) -> Page:
    parsed = Page()
    parsed.feed((written / "report.html").read_text(encoding="utf-8"))
    return parsed


def test_everything_is_written(written: Path) -> None:
    names = {str(file.relative_to(written)) for file in written.rglob("*") if file.is_file()}
    drawn = {f"figures/{name}.{kind}" for name in DRAWN for kind in ("svg", "png", "csv")}
    numbers = {
        "runs.parquet",
        "runs.csv",
        "comparison.csv",
        "reach.csv",
        "ablations.csv",
        "models.csv",
        "claims.csv",
        "findings.csv",
        "growth.csv",
        "stops.csv",
        "token_costs.csv",
        "step_parts.csv",
        "trials.csv",
    }
    assert (
        names
        == {"report.html", "report.md", "comparison.tex", "reach.tex", "claims.tex", "models.tex"} | drawn | numbers
    )
    for plot in PLOTS:
        assert (written / f"figures/{plot.name}.png").read_bytes().startswith(PNG)
        ElementTree.parse(written / f"figures/{plot.name}.svg")


def test_the_page_loads_nothing(written: Path, page: Page) -> None:
    text = (written / "report.html").read_text(encoding="utf-8")
    assert page.loaded == []
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text


def test_links_and_identifiers_of_the_page(page: Page, written: Path) -> None:
    assert len(page.ids) == len(set(page.ids))
    inside = {link.removeprefix("#") for link in page.links if link.startswith("#")}
    assert inside <= set(page.ids)
    assert all(link[0] == "#" for link in page.links if not link.startswith("data:text/csv;base64,"))
    carried = [base64.b64decode(link.partition(",")[2]) for link in page.links if link[0] != "#"]
    assert sorted(carried) == sorted((written / f"figures/{name}.csv").read_bytes() for name in DRAWN)
    assert {plot.name for plot in PLOTS} <= set(page.ids)


def test_every_figure_says_what_it_shows(page: Page) -> None:
    assert page.figures == len(page.drawings) == len(DRAWN)
    labels = [str(drawn["aria-label"]) for drawn in page.drawings]
    assert all(drawn["role"] == "img" for drawn in page.drawings)
    assert labels[0].startswith("The claims, with their intervals: ")
    assert labels[1] == "Tasks and models at a glance: in range, out of range; for mean over seeds, % right."
    assert all("LSTM, LSTM + attention, Transformer" in label for label in labels[2:])
    assert "associative_recall, g2p(language=fre), running_parity" in labels[2]


def test_every_figure_has_its_numbers_and_their_runs(known: pd.DataFrame, written: Path, page: Page) -> None:
    finished = set(known.loc[known["status"] == "FINISHED", "run_id"])
    for plot in PLOTS:
        data = pd.read_csv(written / f"figures/{plot.name}.csv")
        assert len(data)
        assert set() < plots.runs_behind(data) <= finished
    scores = pd.read_csv(written / "figures/scores.csv")
    parity = scores[(scores["metric"] == "longer/token_accuracy_by_length") & (scores["model"] == "transformer")]
    assert sorted(parity.loc[parity["at"] == 40, "value"]) == [0.50, 0.52]
    text = "".join(page.text)
    assert f"of {len(plots.runs_behind(scores))} runs." in " ".join(text.split())


def test_the_small_table_of_runs_has_a_row_a_run(known: pd.DataFrame, written: Path) -> None:
    table = pd.read_csv(written / "runs.csv").set_index("run_id")
    assert sorted(table.index) == sorted(known["run_id"].unique())
    scores = known[known["metric"] == "test/token_accuracy"].set_index("run_id")["value"]
    assert table.loc[scores.index, "test/token_accuracy"].to_numpy() == pytest.approx(scores.to_numpy())
    assert not any("_by_" in name or name.startswith(("train/", "validation/")) for name in table.columns)
    assert set(table["reason"].dropna()) == {"loss is NaN at step 40", "killed"}
    pd.testing.assert_frame_equal(runs.read(written / "runs.parquet"), known)


def test_tables_for_latex(known: pd.DataFrame, written: Path) -> None:
    shown, text = tables.comparison_table(tables.comparison(known)), (written / "comparison.tex").read_text("utf-8")
    lines = text.splitlines()
    assert (lines[1], lines[3], lines[-2]) == (r"\toprule", r"\midrule", r"\bottomrule")
    assert len(lines) == len(shown.rows) + 6
    assert all(line.count("&") - line.count(r"\&") == len(shown.header) - 1 for line in [lines[2], *lines[4:-2]])
    assert r"associative\_recall & token accuracy, \% $\uparrow$ $\cdot$ test & 62.0 {[}36.6, 87.4{]}" in text
    assert r"\textbf{99.0 {[}86.3, 100.0{]}}" in text


def test_drawings_take_the_colours_of_the_page(written: Path) -> None:
    text = (written / "report.html").read_text(encoding="utf-8")
    drawings = text[text.index("<svg") : text.rindex("</svg>")]
    assert drawing.INK not in drawings
    assert "#ffffff" not in drawings
    assert "var(--ink)" in drawings
    assert all(s.MODEL_COLORS[model].lower() in drawings for model in truth.THROUGHPUT)


def test_the_numbers_on_the_page_are_those_of_the_table(known: pd.DataFrame, page: Page, written: Path) -> None:
    numbers = tables.comparison(known)
    short, full = tables.comparison_table(numbers, [tables.SCORE], overall=True), tables.comparison_table(numbers)
    assert [list(short.header), *map(list, short.rows)] in page.tables
    assert [list(full.header), *map(list, full.rows)] in page.tables
    stored = pd.read_csv(written / "comparison.csv", keep_default_na=False, na_values=[""])
    assert stored["estimate"].to_numpy() == pytest.approx(numbers["estimate"].to_numpy())
    (comparison,) = [table for table in page.tables if table == [list(full.header), *map(list, full.rows)]]
    shown = {(cells[0], cells[1]): cells[2:5] for cells in comparison[1:]}
    tidy = runs.read(written / "runs.parquet")
    for task, models in truth.TEST.items():
        metric = "test/wer" if task == truth.G2P else "test/token_accuracy"
        quantity = units.of(metric)
        measured = shown[task, tables.measure(quantity, "test", "", np.nan)]
        for model, cell in zip(("lstm", "lstm_attention", "transformer"), measured, strict=True):
            values = runs.results(tidy).query("task == @task and model == @model and metric == @metric")["value"]
            assert cell.split(" ")[0] == (f"{100 * values.mean():.1f}" if model in models else units.MISSING)


def test_verdicts_stand_on_the_first_screen(known: pd.DataFrame, page: Page, written: Path) -> None:
    folklore = page.tables[0]
    assert [cells[0] for cells in folklore[1:]] == [
        "processing",
        "dependencies",
        "attention",
        "efficiency and scalability",
    ]
    assert (
        "at the same tokens per batch, the LSTM's exponent of time minus the Transformer's is +0.65" in folklore[1][3]
    )
    assert "1.1 undecided" in folklore[1][3]
    assert "2.4 not measured" in folklore[2][3]
    entries = claims.ledger(known)
    table = claims.as_table(entries)
    assert [list(table.header), *map(list, table.rows)] in page.tables
    text = "".join(page.text)
    tally = text.partition(f"of {len(entries)} claims")[0].rpartition("how sure?")[2]
    assert "reported" in tally
    assert sum(int(word) for word in tally.split() if word.isdigit()) == len(entries)
    assert "to the power 0.90 for the LSTM" in text
    assert "ahead by 71.0 points [20.2, 100.0]" in text
    stored = pd.read_csv(written / "claims.csv", keep_default_na=False)
    assert stored["verdict"].tolist() == [str(one.verdict) for one in entries]


def test_text_is_escaped_and_the_command_is_there(page: Page, written: Path) -> None:
    text = "".join(page.text)
    assert "Known <truth> & more" in text
    assert "<h1>Known &lt;truth&gt; &amp; more</h1>" in (written / "report.html").read_text(encoding="utf-8")
    assert "lvt report known" in text
    assert "loss is NaN at step 40" in text
    assert "2 finished runs that newer ones with the same labels stand in for" in text


def test_where_a_model_stops_stands_on_the_page(known: pd.DataFrame, page: Page, written: Path) -> None:
    (shown,) = [table for table in page.tables if "stopped at" in table[0]]
    assert shown[1:] == [[truth.HARDWARE, "Transformer", "generate naive", "64", "128", truth.STOPPED]]
    assert {"#stops", "#models"} <= set(page.links)
    assert pd.read_csv(written / "stops.csv")["reason"].tolist() == [truth.STOPPED]
    assert "## Where each model stops" in (written / "report.md").read_text(encoding="utf-8")


def test_the_facts_count_the_runs_that_the_tables_are_of(known: pd.DataFrame) -> None:
    """Not those that newer ones stand in for: two of 21, one of them of a seed that no other has."""
    facts = report.facts(known)
    assert (facts["runs"], facts["seeds of each"]) == ("19 finished, 1 failed", "1 to 2")
    superseded = runs.each(known)["key"].str.startswith("old-settings")
    assert len(runs.superseded(known)) == superseded.sum() == 2


def test_the_environment(known: pd.DataFrame) -> None:
    found = report.environment(known)
    assert found.to_numpy().tolist() == [["cpu", truth.HARDWARE, "python 3.11, torch 2.13", "c0ffeec0ffee", 21]]
    dirty = report.environment(known.assign(git_dirty="true", versions=""))
    assert dirty.to_dict("list") == {
        "device": ["cpu"],
        "hardware": [truth.HARDWARE],
        "code": ["c0ffeec0ffee with changes"],
        "runs": [21],
    }
    assert report.environment(known[known["status"] == "FAILED"]).empty


def test_the_markdown_says_the_same(known: pd.DataFrame, written: Path) -> None:
    text = (written / "report.md").read_text(encoding="utf-8")
    assert text.startswith("# Known <truth> & more\n")
    assert tables.comparison_table(tables.comparison(known)).markdown() in text
    for name in DRAWN:
        assert f"](figures/{name}.png)" in text
    assert "ahead by 71.0 points [20.2, 100.0]" in text


def test_a_report_on_nothing_but_failures(known: pd.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "scores.png").write_text("of an earlier report")
    text = report.write(known[known["status"] == "FAILED"], tmp_path, title="t", command="c").read_text(
        encoding="utf-8"
    )
    assert "loss is NaN at step 40" in text
    assert text.count('<p class="answer open">') == len(claims.FOLKLORE)
    page = Page()
    page.feed(text)
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert "<svg" not in text
    assert list((tmp_path / "figures").iterdir()) == []


def test_scores_by_category(tmp_path: Path) -> None:
    def points(easy: float, hard: float) -> list[Point]:
        whole = s.metric(s.LONGER, s.SEQUENCE_ACCURACY)
        parts = {"prim_to_subj": easy, "pp_recursion": hard}
        scores: list[Point] = [(s.of_category(whole, "type", name), None, value) for name, value in parts.items()]
        return [*scores, (whole, None, (easy + hard) / 2), (s.metric(s.TEST, s.SEQUENCE_ACCURACY), None, 0.99)]

    found = {"lstm": ((0.2, 0.0), (0.4, 0.1)), "transformer": ((0.9, 0.0), (1.0, 0.0))}
    table = ledger_runs.table(
        *(
            run_rows(s.LEARN, "cogs", model, seed, points(*scores), headline=s.SEQUENCE_ACCURACY)
            for model, seeds in found.items()
            for seed, scores in enumerate(seeds)
        )
    )
    scores = overview.category_scores(table).set_index(["category", "model"])["right"]
    assert scores["prim_to_subj", "lstm"] == pytest.approx(30)
    assert scores["prim_to_subj", "transformer"] == pytest.approx(95)
    assert scores["pp_recursion", "lstm"] == pytest.approx(5)
    figure = overview.category_map(table)
    assert figure is not None
    (ax,) = figure.axes
    assert ax.get_title(loc="left") == "cogs, out of range, by type"
    assert [text.get_text() for text in ax.texts] == ["5", "0", "30", "95"]
    report.write(table, tmp_path, title="t", command="c")
    assert len(pd.read_csv(tmp_path / "figures" / "categories.csv")) == 4


# --- a grid of ablations ---------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def ablated() -> pd.DataFrame:
    return truth.ablated()


@pytest.fixture(scope="module")
def ablated_folder(ablated: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report.write(ablated, tmp_path_factory.mktemp("ablated"), title="Ablated", command="c").parent


def test_what_each_component_buys_stands_on_the_page(ablated: pd.DataFrame, ablated_folder: Path) -> None:
    page = Page()
    page.feed((ablated_folder / "report.html").read_text(encoding="utf-8"))
    assert "components" in page.ids
    assert len(page.ids) == len(set(page.ids))
    assert "#components" in page.links
    effects = ablations.effects(ablated)
    parts = ablations.sections(effects)
    assert [part.name for part in parts] == ["LSTM + attention (layers=2)", "Transformer"]
    markdown, text = (ablated_folder / "report.md").read_text(encoding="utf-8"), "".join(page.text)
    for part in parts:
        assert [list(part.table.header), *map(list, part.table.rows)] in page.tables
        assert part.table.markdown() in markdown
        for sentence in [*part.sentences, *part.notes]:
            assert sentence in text
            assert sentence in markdown
    assert text.count("What each component buys") == 4  # in the contents, as a heading, in the notes of two tables
    assert (ablated_folder / "figures/components.png").read_bytes().startswith(PNG)
    assert "](figures/components.png)" in markdown
    labels = [str(drawn["aria-label"]) for drawn in page.drawings]
    assert sum(label.startswith("What each component buys: LSTM + attention") for label in labels) == 1
    stored = pd.read_csv(ablated_folder / "ablations.csv", keep_default_na=False, na_values={"estimate": [""]})
    assert stored["estimate"].to_numpy() == pytest.approx(effects["estimate"].to_numpy(), nan_ok=True)
    assert stored["task"].tolist() == effects["task"].tolist()


def test_without_variants_nothing_is_said_of_components(known: pd.DataFrame, page: Page, written: Path) -> None:
    assert "components" not in page.ids
    assert "What each component buys" not in "".join(page.text)
    assert "What each component buys" not in (written / "report.md").read_text(encoding="utf-8")
    assert pd.read_csv(written / "ablations.csv").empty
    assert figures.components(known) is None


def test_a_large_grid_shows_its_full_models_side_by_side(ablated: pd.DataFrame, ablated_folder: Path) -> None:
    page = Page()
    page.feed((ablated_folder / "report.html").read_text(encoding="utf-8"))
    full = ["LSTM", "LSTM + attention (layers=2)", "Transformer"]
    short, comparison, models = (
        next(table for table in found if table[0][:2] == header)
        for found, header in (
            (page.tables, ["task", "measure"]),
            (page.tables[::-1], ["task", "measure"]),
            (page.tables, ["task", "model"]),
        )
    )
    assert short[0][2:-1] == comparison[0][2:-1] == ["LSTM", "Transformer", "LSTM + attention (layers=2)"]
    assert "".join(page.text).count("only the full one of each family stands here") == 2
    assert {cells[1] for cells in models[1:]} >= {
        "Transformer (num_heads=1)",
        "LSTM + attention (layers=2, residual=False)",
    }
    stored = pd.read_csv(ablated_folder / "comparison.csv")
    assert set(stored["model"]) == {*truth.FULL, *truth.EFFECTS}
    assert set(stored.loc[stored["shown"], "model"]) == set(truth.FULL)
    assert report.facts(ablated)["models"] == f"{', '.join(full)} and 5 variants"
    for draw in (figures.learning_by_step, figures.score_by_axis):
        figure = draw(ablated)
        assert figure is not None
        assert [text.get_text() for text in figure.legends[0].get_texts()] == full


def test_maps_of_attention_are_a_figure_of_the_report(known: pd.DataFrame, tmp_path: Path) -> None:
    """With its numbers as CSV and the runs behind it; the page still loads nothing."""
    run_ids = {
        model: known.loc[known["model"] == model, "run_id"].iloc[0] for model in ("lstm_attention", "transformer")
    }
    weights = np.array([[0.9, 0.1], [0.25, 0.75]])
    maps = [
        AttentionMap(truth.GRID, truth.G2P, model, 0, run_id, 0, ("o", "n"), ("ɔ̃", "<eos>"), weights)
        for model, run_id in run_ids.items()
    ]
    page = Page()
    written = report.write(known, tmp_path, title="t", command="c", maps=maps)
    page.feed(written.read_text(encoding="utf-8"))
    assert "attention" in page.ids
    assert page.loaded == []
    numbers = pd.read_csv(tmp_path / "figures" / "attention.csv")
    assert set(numbers["run_id"]) == set(run_ids.values())
    assert numbers["weight"].tolist() == 2 * [0.9, 0.1, 0.25, 0.75]
    assert "](figures/attention.png)" in (tmp_path / "report.md").read_text(encoding="utf-8")
