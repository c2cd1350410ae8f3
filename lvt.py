"""The front door: the command line `lvt`, and nothing else. What is slow to import is imported where it is needed."""

from __future__ import annotations

import gc
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.console import console, stop, table

if TYPE_CHECKING:
    import pandas as pd

CAMPAIGN = "campaign"  # in place of a grid
MOST_NAMES = 3  # of grids, in the title of a report

app = typer.Typer(
    help="LSTM or Transformer? Trains matched models on the same tasks, tracks the runs and reports what they show.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)


class DeviceChoice(StrEnum):
    """Where runs are executed."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Processor(StrEnum):
    """What was measured on."""

    cpu = "cpu"
    cuda = "cuda"


class EngineChoice(StrEnum):
    """What executes runs."""

    local = "local"
    ray = "ray"


GridArgument = Annotated[str, typer.Argument(metavar="GRID", help="A bundled grid, or the path of a .yaml file.")]
GridsArgument = Annotated[list[str] | None, typer.Argument(metavar="[GRID…]", help="Default: every grid in the store.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Replace a setting, as task.language=fre. May be repeated."),
]
ProfileOption = Annotated[
    str | None, typer.Option("--profile", metavar="NAME", help="Which size of the grid; default: the first it states.")
]
DeviceOption = Annotated[DeviceChoice, typer.Option(help="auto takes a GPU where there is one.")]
DataOption = Annotated[
    Path | None, typer.Option("--data", envvar="LVT_DATA", help="Folder of the real corpora; default: data/.")
]
ResultsOption = Annotated[
    Path | None, typer.Option("--results", help="Read a folder that `lvt export` wrote instead of a store.")
]
StoreOption = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri", envvar="MLFLOW_TRACKING_URI", help="MLflow's store; default: mlflow.db in this checkout."
    ),
]


@app.command()
def run(
    grid: GridArgument,
    profile: ProfileOption = None,
    overrides: SetOption = None,
    workers: Annotated[
        str | None,
        typer.Option(
            metavar="N|auto",
            help="Processes at once, or as many as pay; default: one a core, or one a GPU. On a cluster: on each GPU.",
        ),
    ] = None,
    engine: Annotated[EngineChoice, typer.Option(help="Processes of this machine, or tasks of a Ray cluster.")] = (
        EngineChoice.local
    ),
    address: Annotated[
        str | None, typer.Option(help="Of the Ray cluster, or auto; default: a new one on this machine.")
    ] = None,
    device: DeviceOption = DeviceChoice.auto,
    data: DataOption = None,
    tracking_uri: StoreOption = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run again what failed before.")] = False,
    timeout: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="Give a run up after so long; default: never.")
    ] = None,
    silence: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="Give a run up that shows no progress for so long.")
    ] = 3600,
    checkpoint_every: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="How often a training is kept, to go on from there.")
    ] = 30,
) -> None:
    """Execute the runs of a grid: finished ones are skipped, interrupted ones go on where they were.

    Where models are tuned the trials come first, then the final runs with the settings that validation chose.
    `campaign` stands for all the grids whose results the README opens with: on a GPU in their large profiles, `full`.
    """
    from experiments.campaign import Member
    from experiments.launching import How, run_campaign, run_grid

    how = How(
        workers,
        engine,
        address,
        device,
        data,
        _uri(tracking_uri),
        retry_failed,
        timeout,
        silence,
        checkpoint_every,
    )
    if grid == CAMPAIGN:
        run_campaign(profile, overrides or [], how)
    else:
        run_grid(Member(grid, profile, tuple(overrides or ())), how)


@app.command()
def plan(
    grid: GridArgument,
    profile: ProfileOption = None,
    overrides: SetOption = None,
    device: DeviceOption = DeviceChoice.auto,
    data: DataOption = None,
    tracking_uri: StoreOption = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Try a few steps of each kind of run, and say how long all will take.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Show the runs of a grid, what is done already, and how well the models are matched. Nothing is run or written.

    Of `campaign`, how much is done of each of its grids.
    """
    import json

    from experiments.asked import campaign_of, device_of
    from experiments.campaign import Member
    from experiments.planning import plan_of, plans_of, show_campaign, show_grid

    chosen, campaign = device_of(device), grid == CAMPAIGN
    replaced = tuple(overrides or ())
    refused: list[str] = []
    if campaign:
        members = campaign_of(profile, replaced, chosen)
        plans, refused = plans_of(members, chosen, data, _uri(tracking_uri), estimate=estimate)
    else:
        plans = [plan_of(Member(grid, profile, replaced), chosen, data, _uri(tracking_uri), estimate=estimate)]
    if as_json:
        contents = [{"grid": one.grid, "command": one.command, "device": chosen, "runs": one.rows} for one in plans]
        typer.echo(json.dumps(contents if campaign else contents[0], indent=1))
    elif campaign:
        show_campaign(plans, chosen)
    else:
        show_grid(plans[0])
    if refused:
        stop(f"not planned: {', '.join(refused)}")


@app.command()
def report(
    grids: GridsArgument = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the report; default: reports/GRID.")] = None,
    publish: Annotated[
        bool, typer.Option("--publish", help="Show it in the dashboard too: on the grid's page, and as a run.")
    ] = False,
    results: ResultsOption = None,
    tracking_uri: StoreOption = None,
) -> None:
    """Write the comparison report of one or more grids: HTML, Markdown, figures and tables."""
    from analysis.attention_maps import fetch_maps
    from analysis.missing import missing
    from analysis.profiles import as_table, step_parts
    from analysis.report import write
    from analysis.sources import commands
    from analysis.tables import comparison, comparison_text
    from analysis.variants import simplified

    if publish and results is not None:
        stop("--publish shows the report in a store; --results reads none")
    runs, names = _runs(grids, tracking_uri, results)
    title = " + ".join(names) if len(names) <= MOST_NAMES else f"{len(names)} grids"
    folder = out or Path("reports") / "+".join(names)
    asked = [command for grid in names for command in commands(runs, grid)]
    screen = console()
    with screen.status("report") as status:
        page = write(
            runs,
            folder,
            title=title,
            command=" && ".join([*asked, f"lvt report {' '.join(grids or names)}"]),
            maps=fetch_maps(results or _uri(tracking_uri), runs),
            lacking=missing(runs, results, names if grids else None),
            progress=lambda what: status.update(f"report: {what}"),
        )
    if publish:
        _publish(runs, names, folder, _uri(tracking_uri))
    screen.print(comparison_text(comparison(simplified(runs))), markup=False, highlight=False)
    if len(parts := step_parts(runs)):
        screen.print(f"\n{as_table(parts).plain()}", markup=False, highlight=False)
    screen.print(f"\nreport: {page}")
    if results is None:
        screen.print("dashboard: lvt dashboard")


@app.command()
def claims(
    grids: GridsArgument = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines: a list, what is not known null.")] = False,
    results: ResultsOption = None,
    tracking_uri: StoreOption = None,
) -> None:
    """Print the ledger: every claim with its verdict, effect, interval, and what it hangs on."""
    import json

    from analysis import tuning
    from analysis.claims import as_record, as_table, folklore, ledger

    runs, _ = _runs(grids, tracking_uri, results)
    entries = ledger(runs)
    if as_json:
        typer.echo(json.dumps([as_record(entry) for entry in entries], ensure_ascii=False, indent=2))
        return
    out = console()
    shown = as_table(entries)
    out.print(table(list(shown.header), [list(row) for row in shown.rows], ["p", "seeds", "runs"]))
    out.print()
    for answer in folklore(runs, entries):
        out.print(f"{answer.row.name}: {answer.sentence}", markup=False, highlight=False)
    out.print()
    for sentence in tuning.sentences(runs):
        out.print(sentence, markup=False, highlight=False)


@app.command()
def verify(grids: GridsArgument = None, results: ResultsOption = None, tracking_uri: StoreOption = None) -> None:
    """Hold the runs against the published record; exit code 1 where one deviates by more than the stated tolerance."""
    from analysis.published import Outcome, as_table, verify

    runs, _ = _runs(grids, tracking_uri, results)
    checks = verify(runs)
    shown = as_table(checks)
    console().print(table(list(shown.header), [list(row) for row in shown.rows], right=["published"]))
    if any(check.outcome is Outcome.DEVIATES for check in checks):
        raise typer.Exit(1)


@app.command()
def recommend(
    length: Annotated[int, typer.Option(min=1, help="Tokens of a source.")],
    items: Annotated[int | None, typer.Option(min=1, help="Things to be kept apart, as names or facts.")] = None,
    generate: Annotated[int | None, typer.Option(min=1, help="Tokens to generate.")] = None,
    device: Annotated[Processor | None, typer.Option(help="Of times and memory; default: any.")] = None,
    grids: Annotated[list[str] | None, typer.Option("--grid", help="May be repeated; default: all.")] = None,
    results: ResultsOption = None,
    tracking_uri: StoreOption = None,
) -> None:
    """Say which model to take and why, from the runs in the store; or that they hold no evidence."""
    from analysis import units
    from analysis.recommend import Need, recommend

    runs, _ = _runs(grids, tracking_uri, results)
    advice = recommend(runs, Need(length, items, generate, device))
    out = console()
    if advice.evidence:
        models = list(dict.fromkeys(model for one in advice.evidence for model in one.numbers))
        rows = [
            [
                one.quantity.title,
                one.where,
                *(one.quantity.interval(one.numbers[m]) if m in one.numbers else units.MISSING for m in models),
                one.distant,
            ]
            for one in advice.evidence
        ]
        out.print(table(["measure", "where", *map(units.model_name, models), "caution"], rows))
        out.print()
    name = units.model_name(advice.model) if advice.model else ""
    out.print(f"take: {name}" if name else "no recommendation: the evidence does not speak for one model", markup=False)
    for reason in advice.because:
        out.print(f"- {reason}", markup=False, highlight=False)


@app.command()
def dashboard(
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
    tracking_uri: StoreOption = None,
) -> None:
    """Open the MLflow dashboard on the store, for this machine only (127.0.0.1)."""
    uri = _uri(tracking_uri)
    if uri.startswith(("http://", "https://")):
        typer.echo(f"the store is a server; its dashboard: {uri}")
        return
    _must_exist(uri)
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    from experiments.page import first_views  # imports mlflow, which reads the environment then

    typer.echo(f"dashboard: http://127.0.0.1:{port} (Ctrl-C ends it)")
    for grid, address in first_views(uri).items():
        typer.echo(f"  {grid}: http://127.0.0.1:{port}/#{address}")
    sys.stdout.flush()
    server = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    server += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    os.execv(sys.executable, server)


@app.command()
def export(
    grids: GridsArgument = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the tables and their manifests.")] = Path(
        "analysis/results"
    ),
    tracking_uri: StoreOption = None,
) -> None:
    """Write what was measured into tables, one a grid and hardware, which `--results` reads without the store.

    Runs that were exported before stay. `campaign` stands for its grids, as far as the store has them, and for the list
    of what it runs, by which a report on the folder says what is missing.
    """
    from analysis import sources
    from analysis.missing import write_plan
    from analysis.runs import StoreReadError

    campaign = grids == [CAMPAIGN]
    runs, _ = _runs(None if campaign else grids, tracking_uri)
    if campaign:
        from experiments.campaign import listed

        plan = listed()
        runs = runs[runs["grid"].isin({row["grid"] for row in plan})]
        typer.echo(str(write_plan(plan, out)))
    try:
        for file in sources.export(runs, out):
            typer.echo(str(file))
    except StoreReadError as error:
        stop(str(error))


@app.command("import-benchmarks")
def import_benchmarks(
    file: Annotated[Path, typer.Argument(metavar="FILE.json", help="What `make bench` wrote, in benchmarks/.")],
    tracking_uri: StoreOption = None,
) -> None:
    """Put benchmarks into the store, a run a model, as the grid `benchmarks`."""
    from experiments import benchmarks, schema
    from experiments.stores import StoreError, open_store

    try:
        found = benchmarks.read(file)
        about = "Imported from files of pytest-benchmark."
        store = open_store(_uri(tracking_uri), benchmarks.GRID, about, [schema.EFFICIENCY])
    except (benchmarks.BenchmarkError, StoreError) as error:
        stop(str(error))
    new = benchmarks.track(found, store)
    typer.echo(f"{file}: {len(new)} of {len(found)} are new runs; next: lvt report {benchmarks.GRID}")


@app.command()
def tasks(name: Annotated[str | None, typer.Argument(help="One task, in detail.")] = None) -> None:
    """List the tasks, or show one with a worked example."""
    from experiments.catalogue import list_tasks, show_task

    if name is None:
        list_tasks()
    else:
        show_task(name)


@app.command()
def models(
    grid: Annotated[str | None, typer.Argument(metavar="[GRID]", help="The models of a grid, as they are run.")] = None,
    profile: ProfileOption = None,
    overrides: SetOption = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="QUANTITY=AMOUNT",
            help="Match all models: parameters=…; training_flops_per_token=…,length=…; state_bytes=…,length=….",
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option(metavar="NAME[,OPTION=VALUE…]", help="What they are matched for, as g2p,language=fre.")
    ] = None,
    data: DataOption = None,
) -> None:
    """List the models and their options; show those of a grid, or all matched to a budget, with what they cost."""
    from experiments.asked import loaded_grid, sizes_of
    from experiments.campaign import Member
    from experiments.catalogue import list_models, show_matched, show_models_of

    if grid is not None:
        if budget is not None or task is not None:
            stop("a grid states its budgets and tasks itself: give either GRID or --budget and --task")
        show_models_of(sizes_of(loaded_grid(Member(grid, profile, tuple(overrides or ()))), data))
    elif budget is not None and task is not None:
        show_matched(budget, task, data)
    elif budget is not None or task is not None or overrides or profile:
        stop("models are matched for --budget and --task, both; --set and --profile belong to a GRID")
    else:
        list_models()


def main() -> None:
    """Entry point of the command `lvt`."""
    gc.set_threshold(10_000)  # importing libraries and reading grids make many objects and leave hardly any garbage
    app()


def _uri(given: str | None) -> str:
    return given or f"sqlite:///{Path(__file__).parent / 'mlflow.db'}"


def _must_exist(uri: str) -> None:
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        stop(f"{uri}: no store yet; `lvt run quickstart` makes one")


def _runs(
    grids: list[str] | None, tracking_uri: str | None, results: Path | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """The table of the runs of these grids, or of all that are there, and the grids' names.

    `results` is a folder of exported tables; without one they are read from the store.
    """
    from analysis.runs import StoreReadError
    from analysis.sources import fetch

    if CAMPAIGN in (grids or ()):
        stop(f"{CAMPAIGN} is no grid, it is run, planned and exported: name some of its grids here, or none for all")
    source = results or _uri(tracking_uri)
    if isinstance(source, str):
        _must_exist(source)
    names = [_grid_name(grid) for grid in grids or ()]
    try:
        runs = fetch(source, names)
    except StoreReadError as error:
        stop(str(error))
    return runs, names or sorted(runs["grid"].unique())


def _publish(runs: pd.DataFrame, names: list[str], folder: Path, uri: str) -> None:
    """Shows a report on the page of each of its grids."""
    from analysis.claims import folklore, headline, ledger, summary
    from experiments.publishing import publish
    from experiments.stores import StoreError

    answers = folklore(runs, ledger(runs))
    try:
        for name in names:
            kinds = set(runs.loc[runs["grid"] == name, "kind"])
            publish(uri, name, kinds, headline(answers), summary(answers), folder)
    except StoreError as error:
        stop(str(error), code=1)


def _grid_name(grid: str) -> str:
    """The name under which a grid's runs are kept: the file's, without its folder and ending."""
    return Path(grid).stem if grid.endswith((".yaml", ".yml")) else grid


if __name__ == "__main__":
    main()
