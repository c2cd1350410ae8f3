"""The front door: the command line `lvt`, and nothing else. What is slow to import is imported where it is needed."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import pandas as pd
    from rich.console import Console

    from experiments.config import LearnRun, Run
    from experiments.engine import Engine
    from experiments.grid import Grid
    from experiments.run import Place
    from experiments.stores import Past, Store
    from experiments.trials import Choice, Result, Tuning
    from models.config import Budget, Dimensions, ModelConfig

USAGE = 2  # exit code for bad usage and bad grids; 1 is for runs that failed

AUTO = "auto"  # of --workers
CAMPAIGN = "campaign"  # in place of a grid

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
    context: typer.Context,
    grid: GridArgument,
    profile: ProfileOption = None,
    overrides: SetOption = None,
    workers: Annotated[
        str | None,
        typer.Option(
            metavar="N|auto",
            help="Processes at once, or as many as pay; default: one a core, on a GPU one. On a cluster: on each GPU.",
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
    `campaign` stands for all the grids whose results the README opens with.
    """
    import time
    from functools import partial

    from experiments.config import run_key
    from experiments.execution import Limits, Stopped, execute_grid
    from experiments.processes import Processes
    from experiments.progress import Progress
    from experiments.run import Place, run_name
    from experiments.schema import TUNING
    from experiments.stores import StoreError, open_store, past_runs
    from experiments.tracking import result_of, send_left
    from experiments.trials import Trials

    if grid == CAMPAIGN:
        return _run_campaign(context, profile)
    console = _console()
    if workers not in (None, AUTO) and not (workers.isdecimal() and int(workers) > 0):
        _stop(f"--workers: found {workers!r}; it should be a whole number from 1 on, or auto")
    loaded = _load(grid, overrides, profile)
    _sizes(loaded, data)
    if engine is EngineChoice.local:
        if address is not None:
            _stop("--address is that of a Ray cluster: it needs --engine ray")
        chosen = _device(device)
        executes: Callable[[Place, int], Engine] = Processes
    else:
        chosen, executes = _cluster(address, device, workers, _uri(tracking_uri))
    since = time.time()
    try:
        store = open_store(_uri(tracking_uri), loaded.name, loaded.description, {one.kind for one in loaded.runs})
        send_left(store)
        past = past_runs(store)
    except StoreError as error:
        _stop(str(error), code=1)
    skipped, failed_before = past.finished, {} if retry_failed else past.failed

    def execute(name: str, runs: Sequence[Run], trials: Trials) -> dict[Run, str]:
        """Executes those runs and trials that are not over; which of all failed, now or before, and why."""
        keys = {one: run_key(one, chosen) for one in (*runs, *trials.known())}
        todo = [one for one in runs if keys[one] not in skipped and keys[one] not in failed_before]
        failures = {one: failed_before[key] for one, key in keys.items() if key not in skipped and key in failed_before}
        total, left = len(runs) + trials.count(), len(todo) + trials.left()
        console.print(
            f"{name}: {total} runs, {total - left - len(failures)} finished before, {left} to do on {chosen}"
            + (f", {len(failures)} failed before (again with --retry-failed)" if failures else "")
        )
        if left:
            todo += trials.ready()
            place = Place(store, loaded.name, chosen, data, checkpoint_every, since)
            limits = Limits(timeout, silence)
            if workers == AUTO:
                count = _paying_workers(console, todo, data, chosen)
            else:
                count = int(workers or _default_workers(chosen))
            try:
                with Progress(console, left) as progress:
                    failures |= execute_grid(todo, place, count, progress, limits, executes, trials.follow)
            except Stopped:
                _stop("interrupted: finished runs are kept, the others go on when the grid is run again", code=130)
            except StoreError as error:
                _stop(f"{error}; run the grid again to go on", code=1)
            _send_what_is_left(store)
        return failures

    read = partial(result_of, store)
    choices: list[Choice] = []
    runs = [one for one in loaded.runs if one.phase != TUNING]
    trials = Trials(loaded.tunings, _results(loaded.tunings, store, failed_before), chosen, read)
    failures = execute(f"{loaded.name}, trials" if loaded.tunings else loaded.name, runs, trials)
    if loaded.tunings:
        failed = {*failed_before, *(run_key(one, chosen) for one in failures)}
        found = _results(loaded.tunings, store, failed)
        choices = [tuning.choose(found, chosen) for tuning in loaded.tunings]
        console.print(_choices_table(choices))
        runs += [trial for choice in choices for trial in choice.trials]
        final = [one for choice in choices for one in choice.final]
        failures |= execute(f"{loaded.name}, final phase", final, Trials((), {}, chosen, read))
        runs += final
    if failures:
        rows = [[run_name(one), run_key(one, chosen), why] for one, why in failures.items()]
        console.print(_table(["failed", "key", "reason"], rows))
    if any(one.phase != TUNING for one in failures) or not all(choice.final for choice in choices):
        raise typer.Exit(1)
    done = f"{len(runs) - len(failures)} of {len(runs)}" if failures else f"all {len(runs)}"
    console.print(f"{done} runs are finished; next: lvt report {loaded.name}, lvt dashboard")


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
    """Show the runs of a grid, what is done already, and how well the models are matched. Nothing is run or written."""
    import json
    from functools import partial

    from experiments.planning import planned
    from experiments.progress import duration
    from experiments.schema import TUNING

    loaded = _load(grid, overrides, profile)
    chosen = _device(device)
    store, past = _past(_uri(tracking_uri), loaded)
    found = {} if store is None else _results(loaded.tunings, store, past.failed)
    choices = [tuning.choose(found, chosen) for tuning in loaded.tunings]
    sizes = _sizes(loaded, data, [trial for choice in choices for trial in choice.trials])
    runs = [one for one in loaded.runs if one.phase != TUNING]
    seconds = partial(_estimate, data=data, device=chosen) if estimate else None
    rows = planned(runs, choices, sizes, past, chosen, seconds)
    if as_json:
        typer.echo(json.dumps({"grid": loaded.name, "device": chosen, "runs": rows}, indent=1))
        return
    console = _console()
    columns: dict[str, Callable[[Any], str]] = {
        **{"kind": str, "task": str, "model": str, "seed": str},
        **({"phase": str, "trial": str, "tuned": str} if loaded.tunings else {}),
        **{"parameters": "{:,}".format, "off_budget": "{:+.2%}".format, "key": str, "state": str},
        **({"seconds": duration} if estimate else {}),
    }
    cells = [["" if row[name] is None else show(row[name]) for name, show in columns.items()] for row in rows]
    titles = [name.replace("_", " ") for name in columns]
    console.print(_table(titles, cells, right=["seed", "trial", "parameters", "off budget", "seconds"]))
    console.print(f"{len(rows)} runs on {chosen}: {loaded.description}")
    if estimate:
        left = sum(row["seconds"] or 0 for row in rows if row["state"] not in ("finished", "pruned"))
        console.print(f"to do, one after another, runs of kind learn only: {duration(left)}")


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
    from analysis.report import write
    from analysis.tables import comparison, comparison_text
    from analysis.variants import simplified

    if publish and results is not None:
        _stop("--publish shows the report in a store; --results reads none")
    runs, names = _runs(grids, tracking_uri, results)
    title = " + ".join(names)
    folder = out or Path("reports") / "+".join(names)
    commands = [_run_command(grid) for grid in grids or names]
    console = _console()
    with console.status("report") as status:
        page = write(
            runs,
            folder,
            title=title,
            command=" && ".join([*commands, f"lvt report {' '.join(grids or names)}"]),
            maps=fetch_maps(results or _uri(tracking_uri), runs),
            progress=lambda what: status.update(f"report: {what}"),
        )
    if publish:
        _publish(runs, names, folder, _uri(tracking_uri))
    console.print(comparison_text(comparison(simplified(runs))), markup=False, highlight=False)
    console.print(f"\nreport: {page}\ndashboard: lvt dashboard")


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
    console = _console()
    table = as_table(entries)
    console.print(_table(list(table.header), [list(row) for row in table.rows], ["p", "seeds", "runs"]))
    console.print()
    for answer in folklore(runs, entries):
        console.print(f"{answer.row.name}: {answer.sentence}", markup=False, highlight=False)
    console.print()
    for sentence in tuning.sentences(runs):
        console.print(sentence, markup=False, highlight=False)


@app.command()
def verify(grids: GridsArgument = None, results: ResultsOption = None, tracking_uri: StoreOption = None) -> None:
    """Hold the runs against the published record; exit code 1 where one deviates by more than the stated tolerance."""
    from analysis.published import Outcome, as_table, verify

    runs, _ = _runs(grids, tracking_uri, results)
    checks = verify(runs)
    table = as_table(checks)
    _console().print(_table(list(table.header), [list(row) for row in table.rows], right=["published"]))
    if any(check.outcome is Outcome.DEVIATES for check in checks):
        raise typer.Exit(1)


@app.command()
def recommend(
    length: Annotated[int, typer.Option(min=1, help="Tokens of a source.")],
    items: Annotated[int | None, typer.Option(min=1, help="Things to be kept apart, as names or facts.")] = None,
    generate: Annotated[int | None, typer.Option(min=1, help="Tokens to generate.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: whatever was measured.")] = None,
    grids: Annotated[list[str] | None, typer.Option("--grid", help="May be repeated; default: all.")] = None,
    results: ResultsOption = None,
    tracking_uri: StoreOption = None,
) -> None:
    """Say which model to take and why, from the runs in the store; or that they hold no evidence."""
    from analysis import units
    from analysis.recommend import Need, recommend

    runs, _ = _runs(grids, tracking_uri, results)
    advice = recommend(runs, Need(length, items, generate, device))
    console = _console()
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
        console.print(_table(["measure", "where", *map(units.model_name, models), "caution"], rows))
        console.print()
    name = units.model_name(advice.model) if advice.model else ""
    console.print(
        f"take: {name}" if name else "no recommendation: the evidence does not speak for one model", markup=False
    )
    for reason in advice.because:
        console.print(f"- {reason}", markup=False, highlight=False)


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
    """Write what was measured into tables, one a grid and hardware, which `--results` reads without the store."""
    from analysis import sources

    runs, _ = _runs(grids, tracking_uri)
    for file in sources.export(runs, out, _run_command):
        typer.echo(str(file))


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
        _stop(str(error))
    new = benchmarks.track(found, store)
    typer.echo(f"{file}: {len(new)} new runs of {len(found)}; next: lvt report {benchmarks.GRID}")


@app.command()
def tasks(name: Annotated[str | None, typer.Argument(help="One task, in detail.")] = None) -> None:
    """List the tasks, or show one with a worked example."""
    import inspect
    import json

    from experiments.config import suggestion
    from experiments.tasks import TASKS

    console = _console()
    if name is None:
        rows = [[key, (inspect.getdoc(task) or "").splitlines()[0]] for key, task in TASKS.items()]
        console.print(_table(["task", "what it asks"], rows))
        return
    if name not in TASKS:
        _stop(f"no task named {name!r}{suggestion(name, TASKS)}")
    task = TASKS[name]
    console.print(inspect.getdoc(task), markup=False, highlight=False)
    shown = task.model_construct()
    source, fed, target = (" ".join(symbols) for symbols in shown.example())
    console.print(f"\none example\n    source    {source}\n    fed       {fed}\n    target    {target}\n", markup=False)
    properties = task.model_json_schema()["properties"]
    options = [
        [option, _in_words(properties[option]), "required" if field.is_required() else json.dumps(field.default)]
        for option, field in task.model_fields.items()
        if option != "name"
    ]
    console.print(_table(["option", "what it may be", "default"], options))
    facts = {"headline metric": shown.headline, "sliced by": ", ".join(task.axes)}
    if task.measures:
        kinds = task.measures.items()
        facts["measures"] = ", ".join(kind if kind == axis else f"{kind} (by {axis})" for kind, axis in kinds)
    if task.language_class is not None:
        facts["class of language"] = task.language_class.replace("_", "-")
    chance, memoryless = shown.chance, shown.memoryless_loss
    facts["chance level"] = "not known in closed form" if chance is None else f"{100 * chance:.4g} % of tokens"
    if memoryless is not None:
        facts["loss without memory"] = f"{memoryless:.4g} nats per token"
    facts["published"] = task.reference
    console.print()
    for fact, said in facts.items():
        console.print(f"{fact}: {said}", markup=False, highlight=False)


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
    if grid is not None:
        if budget is not None or task is not None:
            _stop("a grid states its budgets and tasks itself: give either GRID or --budget and --task")
        loaded = _load(grid, overrides, profile)
        rows = {
            (one.task_label, replace(one.model, tuned=()).label): _cost_cells(config, dimensions, one.budget)
            for one, (config, dimensions) in _sizes(loaded, data).items()
        }
        _console().print(_table(["task", "model", *COSTS], [[*key, *row] for key, row in rows.items()], right=COSTS))
    elif budget is not None and task is not None:
        _matched_models(budget, task, data)
    elif budget is not None or task is not None or overrides or profile:
        _stop("models are matched for --budget and --task, both; --set and --profile belong to a GRID")
    else:
        _list_models()


def main() -> None:
    """Entry point of the command `lvt`."""
    app()


def _console() -> Console:
    """As wide as the terminal; wide enough for any table where there is none."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 200)


def _load(grid: str, overrides: list[str] | None, profile: str | None) -> Grid:
    from experiments.grid import GridError, load_grid

    try:
        return load_grid(grid, overrides or [], profile)
    except GridError as error:
        _stop(str(error))


def _run_campaign(context: typer.Context, profile: str | None) -> None:
    """Runs one grid of the campaign after another; what failed in one does not stop the next."""
    from experiments.campaign import CAMPAIGN

    chosen = profile or next(iter(CAMPAIGN))
    if chosen not in CAMPAIGN:
        _stop(f"--profile {chosen}: the campaign's are {', '.join(CAMPAIGN)}")
    if context.params["overrides"]:
        _stop("--set: the campaign is run as it is; run its grids one by one to change them")
    failed = []
    again = context.command.callback
    assert again is not None
    for member in CAMPAIGN[chosen]:
        changes = {"grid": member.grid, "profile": member.profile, "overrides": list(member.overrides)}
        try:
            again(**context.params | changes)
        except typer.Exit as end:
            if end.exit_code != 1:
                raise
            failed.append(member.grid)
    if failed:
        _stop(f"something failed in {', '.join(failed)}", code=1)


def _sizes(grid: Grid, data: Path | None, trials: Sequence[LearnRun] = ()) -> dict[Run, tuple[ModelConfig, Dimensions]]:
    """Every run's model with its widths, and what its task asks of it; refuses what cannot be made.

    Of the runs of a grid, of all that its trials can be, and of `trials`.
    """
    from experiments.config import EfficiencyRun, LearnRun
    from experiments.data import DataError
    from experiments.run import run_name, sized_model
    from models.config import ModelError

    possible = [one for tuning in grid.tunings for one in tuning.possible]
    sizes: dict[Run, tuple[ModelConfig, Dimensions]] = {}
    alike: dict[object, tuple[ModelConfig, Dimensions]] = {}  # the seeds of a grid ask for the same few models
    for one in (*grid.runs, *possible, *trials):
        kind = one.model.config, one.budget, one.efficiency if isinstance(one, EfficiencyRun) else one.task
        try:
            if kind not in alike:
                alike[kind] = sized_model(one, data)
            sizes[one] = alike[kind]
        except (ModelError, DataError) as error:
            which = run_name(one)
            if isinstance(one, LearnRun) and one.tuned is not None:
                which = f"{run_name(replace(one, tuned=None))} ({one.tuned.words})"
            _stop(f"{grid.name}: {which}: {error}")
    return sizes


def _matched_models(budget: str, task: str, data: Path | None) -> None:
    """Every model of the registry with the widths that a budget gives it on a task."""
    from experiments.config import SettingsError, parse_task, validate
    from experiments.data import DataError
    from experiments.run import load_task
    from models.config import Budget, ModelError
    from models.matching import match
    from models.registry import MODELS

    name, _, options = task.partition(",")
    try:
        allowed = validate(Budget, _assignments("--budget", budget), ("--budget",))
        chosen = parse_task({"task": {"name": name, **_assignments("--task", options)}})
        dimensions = chosen.dimensions or load_task(chosen, data).dimensions
    except (SettingsError, DataError) as error:
        _stop(str(error))
    rows, refused = [], []
    for model, config in MODELS.items():
        try:
            rows.append([model, *_cost_cells(match(config, allowed, dimensions), dimensions, allowed)])
        except ModelError as error:
            refused.append([model, str(error)])
    console = _console()
    console.print(f"{chosen.label}, {allowed.amount:,} {allowed.words}")
    console.print(_table(["model", *COSTS], rows, right=COSTS))
    if refused:
        console.print(_table(["cannot be matched", "why"], refused))


def _list_models() -> None:
    """The registry: its models, then every option with its default in each of them."""
    import inspect
    import json
    from dataclasses import asdict

    from pydantic import TypeAdapter

    from models.registry import MODELS

    console = _console()
    console.print(
        _table(["model", "what it is"], [[name, inspect.getdoc(type(c)) or ""] for name, c in MODELS.items()])
    )
    defaults = {name: asdict(config) for name, config in MODELS.items()}
    allowed = {
        option: _in_words(schema)
        for config in MODELS.values()
        for option, schema in TypeAdapter(type(config)).json_schema()["properties"].items()
    }
    rows = [
        [option, words, *(json.dumps(own[option]) if option in own else "" for own in defaults.values())]
        for option, words in allowed.items()
    ]
    console.print()
    console.print(_table(["option", "what it may be", *MODELS], rows))
    console.print("null: not stated; widths that are not stated are solved for the budget. Meanings: models/config.py")


COSTS = [
    *("hidden", "embedding", "feed-forward", "embeddings", "encoder", "attention", "decoder", "output", "parameters"),
    *("off budget", "training FLOPs/token", "state bytes", "at length"),
]


def _cost_cells(config: ModelConfig, dimensions: Dimensions, budget: Budget | None) -> list[str]:
    """The columns `COSTS`: widths, parameters in parts, then work and state at the budget's length or the longest."""
    from models.cost import count_parameters, on_meta, parameter_parts, state_bytes, training_flops_per_token
    from models.matching import match_error

    model = on_meta(config, dimensions)
    length = (budget and budget.length) or dimensions.max_length
    widths = [getattr(config, name, None) for name in ("hidden_size", "embedding_size", "feedforward_size")]
    counts = [*parameter_parts(model).values(), count_parameters(model)]
    return [
        *("" if width is None else str(width) for width in widths),
        *(f"{count:,}" for count in counts),
        "" if budget is None else f"{match_error(config, budget, dimensions):+.2%}",
        f"{training_flops_per_token(config, length, dimensions.target_vocabulary):,.0f}",
        f"{state_bytes(config, length, length):,}",
        str(length),
    ]


def _assignments(option: str, text: str) -> dict[str, Any]:
    """``"a=1,b=x"`` → ``{"a": 1, "b": "x"}``."""
    import yaml

    found = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            _stop(f"{option}: {part!r} is not of the form NAME=VALUE")
        found[key.strip()] = yaml.safe_load(value)
    return found


def _past(uri: str, grid: Grid) -> tuple[Store | None, Past]:
    """The store, if it knows the grid, and what it knows of its runs; nothing is created."""
    from experiments.stores import Past, StoreError, existing_store, past_runs

    try:
        store = existing_store(uri, grid.name)
        return store, Past() if store is None else past_runs(store)
    except StoreError as error:
        _stop(str(error), code=1)


def _results(tunings: Sequence[Tuning], store: Store, failed: Iterable[str]) -> dict[str, Result]:
    """What became of the trials that are over, by their keys; `failed`: keys of runs that did."""
    from experiments.stores import StoreError, trial_results
    from experiments.trials import FAILURE

    if not tunings:
        return {}
    try:
        found = trial_results(store, curves=any(tuning.tune.prunes for tuning in tunings))
    except StoreError as error:
        _stop(str(error), code=1)
    return dict.fromkeys(failed, FAILURE) | found


def _choices_table(choices: Sequence[Choice]) -> object:
    """What was chosen of how many trials, for each model and task."""
    rows = []
    for choice in choices:
        first, best = choice.trials[0], choice.best
        ended = list(choice.results.values())
        pruned = sum(result.pruned for result in ended)
        failed = choice.tuning.tune.trials - pruned - sum(result.score is not None for result in ended)
        trials = f"{choice.tuning.tune.trials}" + (f", {pruned} pruned" if pruned else "")
        trials += f", {failed} failed and so the worst" if failed else ""
        found = ["none finished", "", ""]
        if best is not None and best.tuned is not None:
            score = choice.results[best].score
            found = [str(best.tuned.trial), f"{best.task.headline} {score:.4g}", best.tuned.words]
        rows.append([first.model.label, first.task_label, trials, *found])
    return _table(["model", "task", "trials", "chosen", "on validation", "settings"], rows)


def _estimate(run: LearnRun, config: ModelConfig, *, data: Path | None, device: str) -> float:
    """How long a run will take, in seconds."""
    import torch

    from experiments.environment import prepare_processor
    from experiments.estimate import estimated_seconds
    from experiments.run import load_task

    prepare_processor()  # as a worker has it
    return estimated_seconds(run, config, load_task(run.task, data), torch.device(device))


def _send_what_is_left(store: Store) -> None:
    """Waits a while for a store that was away when runs ended."""
    from experiments.tracking import send_patiently

    if missing := send_patiently(store):
        _stop(f"{store.tracking_uri} does not take {missing} runs; run the grid again to send them", code=1)


def _device(choice: DeviceChoice) -> str:
    import torch

    available = torch.cuda.is_available()
    if choice is DeviceChoice.cuda and not available:
        _stop("--device cuda: torch finds no CUDA device on this machine")
    return "cuda" if choice is DeviceChoice.cuda or (choice is DeviceChoice.auto and available) else "cpu"


def _cluster(
    address: str | None, choice: DeviceChoice, workers: str | None, uri: str
) -> tuple[str, Callable[[Place, int], Engine]]:
    """Connects to a Ray cluster: the device of its runs, and what executes them."""
    try:
        from experiments.cluster import Tasks, connect
    except ImportError:
        _stop("--engine ray needs Ray: pip install -e '.[ray]' -c constraints.txt")
    if address is not None and not uri.startswith(("http://", "https://")):
        _stop(
            f"--address {address}: the machines of a cluster cannot all write {uri}; start a server (README, "
            "A team's server) and give its address as --tracking-uri http://…"
        )
    if workers == AUTO:
        _stop("--workers auto tries this machine, not a cluster: state how many runs share a GPU")
    try:
        available = connect(address)
    except (ConnectionError, ValueError, RuntimeError) as error:
        _stop(f"--address {address}: {error}")
    if choice is DeviceChoice.cuda and available != "cuda":
        _stop("--device cuda: the cluster has no GPUs")
    device = "cpu" if choice is DeviceChoice.cpu else available
    if device == "cpu" and workers is not None:
        _stop("--workers: without GPUs, each run of a cluster takes one core; there is nothing to share")
    return device, Tasks


def _paying_workers(console: Console, runs: list[Run], data: Path | None, device: str) -> int:
    """How many workers pay, tried with some of the runs."""
    import psutil

    from experiments.packing import paying, sample, throughputs

    tried = sample(runs)
    if not tried:
        return 1  # everything else is executed alone
    with console.status("how many workers pay"):
        rates = throughputs(tried, data, device, psutil.cpu_count() or 1)
    count = paying(rates)
    measured = ", ".join(f"{rate / rates[1]:.2f} with {many}" for many, rate in rates.items())
    console.print(f"workers: {count}; throughput as a multiple of one worker's: {measured}")
    return count


def _default_workers(device: str) -> int:
    import psutil

    return 1 if device == "cuda" else psutil.cpu_count(logical=False) or os.cpu_count() or 1


def _uri(given: str | None) -> str:
    return given or f"sqlite:///{Path(__file__).parent / 'mlflow.db'}"


def _is_missing(uri: str) -> bool:
    return uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists()


def _must_exist(uri: str) -> None:
    if _is_missing(uri):
        _stop(f"{uri}: no store yet; `lvt run quickstart` makes one")


def _runs(
    grids: list[str] | None, tracking_uri: str | None, results: Path | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """The table of the runs of these grids, or of all that are there, and the grids' names.

    `results` is a folder of exported tables; without one they are read from the store.
    """
    from analysis.runs import StoreReadError
    from analysis.sources import fetch

    source = results or _uri(tracking_uri)
    if isinstance(source, str):
        _must_exist(source)
    names = [_grid_name(grid) for grid in grids or ()]
    try:
        runs = fetch(source, names)
    except StoreReadError as error:
        _stop(str(error))
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
        _stop(str(error), code=1)


def _grid_name(grid: str) -> str:
    """The name under which a grid's runs are kept: the file's, without its folder and ending."""
    return Path(grid).stem if grid.endswith((".yaml", ".yml")) else grid


def _run_command(grid: str) -> str:
    """What runs a grid that is kept under this name: ``capacity-full`` → ``lvt run capacity --profile full``."""
    stem, _, profile = grid.rpartition("-")
    bundled = Path(__file__).parent / "experiments" / "grids" / f"{stem}.yaml"
    return f"lvt run {stem} --profile {profile}" if bundled.exists() else f"lvt run {grid}"


def _in_words(schema: dict[str, Any]) -> str:
    """What a JSON schema allows: ``integer from 1 to 26``."""
    if "anyOf" in schema:  # optional
        return " or ".join(_in_words(one) for one in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(schema["enum"])
    if "prefixItems" in schema:  # a fixed number of values
        return "[" + ", ".join(_in_words(one) for one in schema["prefixItems"]) + "]"
    if schema["type"] == "array":
        return f"list, each {_in_words(schema['items'])}"
    edges = [f"{word} {schema[edge]:,}" for word, edge in (("from", "minimum"), ("to", "maximum")) if edge in schema]
    return " ".join([schema["type"], *edges])


def _table(columns: list[str], rows: list[list[str]], right: list[str] | None = None) -> object:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in (right or []) else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _stop(message: str, code: int = USAGE) -> NoReturn:
    typer.echo(f"lvt: {message}", err=True)
    raise typer.Exit(code)


if __name__ == "__main__":
    main()
