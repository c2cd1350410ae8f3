from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import tracked_runs as truth
from matplotlib.figure import Figure

from analysis import figures, report, runs, tables, units
from experiments import schema as s

PNG = b"\x89PNG\r\n\x1a\n"


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
        self.loaded += [f"{k}={v}" for k, v in attrs if k == "href" and not str(v).startswith("#")]
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
    plots = {f"figures/{plot.name}.{kind}" for plot in figures.PLOTS for kind in ("svg", "png")}
    numbers = {"runs.parquet", "runs.csv", "comparison.csv", "models.csv", "claims.csv"}
    assert names == {"report.html", "report.md"} | plots | numbers
    for plot in figures.PLOTS:
        assert (written / f"figures/{plot.name}.png").read_bytes().startswith(PNG)
        ElementTree.parse(written / f"figures/{plot.name}.svg")


def test_the_page_loads_nothing(written: Path, page: Page) -> None:
    text = (written / "report.html").read_text(encoding="utf-8")
    assert page.loaded == []
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text


def test_links_and_identifiers_of_the_page(page: Page) -> None:
    assert len(page.ids) == len(set(page.ids))
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert {plot.name for plot in figures.PLOTS} <= set(page.ids)


def test_every_figure_says_what_it_shows(page: Page) -> None:
    assert page.figures == len(page.drawings) == len(figures.PLOTS)
    for drawing in page.drawings:
        assert drawing["role"] == "img"
        assert "LSTM, LSTM + attention, Transformer" in str(drawing["aria-label"])
    assert "associative_recall, g2p(language=fre), running_parity" in str(page.drawings[0]["aria-label"])


def test_drawings_take_the_colours_of_the_page(written: Path) -> None:
    text = (written / "report.html").read_text(encoding="utf-8")
    drawings = text[text.index("<svg") : text.rindex("</svg>")]
    assert figures.INK not in drawings
    assert "#ffffff" not in drawings
    assert "var(--ink)" in drawings
    assert all(color.lower() in drawings for color in s.MODEL_COLORS.values())


def test_the_numbers_on_the_page_are_those_of_the_table(known: pd.DataFrame, page: Page, written: Path) -> None:
    numbers = tables.comparison(known)
    short, full = tables.comparison_table(numbers, [tables.SCORE], overall=True), tables.comparison_table(numbers)
    assert page.tables[0] == [list(short.header), *map(list, short.rows)]
    assert page.tables[2] == [list(full.header), *map(list, full.rows)]
    stored = pd.read_csv(written / "comparison.csv", keep_default_na=False, na_values=[""])
    assert stored["estimate"].to_numpy() == pytest.approx(numbers["estimate"].to_numpy())
    shown = {(cells[0], cells[1]): cells[2:5] for cells in page.tables[2][1:]}
    tidy = runs.read(written / "runs.parquet")
    for task, models in truth.TEST.items():
        metric = "test/wer" if task == truth.G2P else "test/token_accuracy"
        quantity = units.of(metric)
        measured = shown[task, tables.measure(quantity, "test", "", np.nan)]
        for model, cell in zip(("lstm", "lstm_attention", "transformer"), measured, strict=True):
            values = runs.results(tidy).query("task == @task and model == @model and metric == @metric")["value"]
            assert cell.split(" ")[0] == (f"{100 * values.mean():.1f}" if model in models else units.MISSING)


def test_the_folklore_stands_on_the_page(page: Page) -> None:
    folklore = page.tables[1]
    assert [cells[0] for cells in folklore[1:]] == [
        "processing",
        "dependencies",
        "attention",
        "efficiency and scalability",
    ]
    assert "to the power 0.90 for the LSTM" in folklore[1][3]
    assert "ahead by 71.0 points [67.0, 75.0]" in folklore[2][3]


def test_text_is_escaped_and_the_command_is_there(page: Page, written: Path) -> None:
    text = "".join(page.text)
    assert "Known <truth> & more" in text
    assert "<h1>Known &lt;truth&gt; &amp; more</h1>" in (written / "report.html").read_text(encoding="utf-8")
    assert "lvt report known" in text
    assert "loss is NaN at step 40" in text
    assert "1 finished run with the same labels and seed" in text


def test_the_environment(known: pd.DataFrame) -> None:
    found = report.environment(known)
    assert found.to_numpy().tolist() == [["cpu", truth.HARDWARE, "python 3.11, torch 2.13", "c0ffeec0ffee", 20]]
    dirty = report.environment(known.assign(git_dirty="true", versions=""))
    assert dirty.to_dict("list") == {
        "device": ["cpu"],
        "hardware": [truth.HARDWARE],
        "code": ["c0ffeec0ffee with changes"],
        "runs": [20],
    }
    assert report.environment(known[known["status"] == "FAILED"]).empty


def test_the_markdown_says_the_same(known: pd.DataFrame, written: Path) -> None:
    text = (written / "report.md").read_text(encoding="utf-8")
    assert text.startswith("# Known <truth> & more\n")
    assert tables.comparison_table(tables.comparison(known)).markdown() in text
    for plot in figures.PLOTS:
        assert f"](figures/{plot.name}.png)" in text
    assert "ahead by 71.0 points [67.0, 75.0]" in text


def test_a_report_on_nothing_but_failures(known: pd.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "scores.png").write_text("of an earlier report")
    text = report.write(known[known["status"] == "FAILED"], tmp_path, title="t", command="c").read_text(
        encoding="utf-8"
    )
    assert "loss is NaN at step 40" in text
    assert text.count("not measured</p>") == 4
    assert "<svg" not in text
    assert list((tmp_path / "figures").iterdir()) == []


# --- figures ---------------------------------------------------------------------------------------------------------
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


def test_costs_and_their_exponents(known: pd.DataFrame) -> None:
    figure = figures.cost_by_length(known)
    assert figure is not None
    (drawn,) = lines(figure, "training step", s.MODEL_COLORS["lstm"])
    assert drawn == (list(truth.LENGTHS), pytest.approx([0.1 * n**0.9 for n in truth.LENGTHS]))
    step = next(ax for ax in figure.axes if ax.get_title(loc="left") == "training step")
    assert {text.get_text() for text in step.texts} == {exponent("0.90"), exponent("0.25")}
    low = min(np.asarray(path.vertices)[:, 1].min() for band in step.collections for path in band.get_paths())
    assert low == pytest.approx(0.9 * 0.1 * 32**0.9)  # one seed: the band is the quartiles
    memory = next(ax for ax in figure.axes if ax.get_title(loc="left") == "peak memory of training")
    assert {text.get_text() for text in memory.texts} == {exponent("1.00"), exponent("1.50"), exponent("2.00")}


def test_nothing_to_draw_is_no_figure(known: pd.DataFrame) -> None:
    failed = known[known["status"] == "FAILED"]
    assert [plot.draw(failed) for plot in figures.PLOTS] == [None] * len(figures.PLOTS)
    learnt = known[known["kind"] == s.LEARN]
    assert figures.cost_by_length(learnt) is None


def test_figures_leave_no_trace_in_pyplot(known: pd.DataFrame) -> None:
    from matplotlib import pyplot as plt

    figures.score_by_axis(known)
    assert plt.get_fignums() == []


def test_colours_are_fixed_by_model() -> None:
    look = figures.look(["transformer", "lstm", "transformer(layers=4)", "lstm_attention(heads=2)", "hybrid"])
    assert look.color["transformer"] == s.MODEL_COLORS["transformer"]
    assert look.color["lstm_attention(heads=2)"] == s.MODEL_COLORS["lstm_attention"]  # the only one of its family
    assert look.color["transformer(layers=4)"] == s.OTHER_COLORS[0]
    assert look.color["hybrid"] == s.OTHER_COLORS[1]
    assert len(set(look.marker.values())) == 5
    assert figures.look(["lstm"]).color["lstm"] == look.color["lstm"]
