"""The tasks and models that there are, for the command line (``lvt tasks``, ``lvt models``)."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from experiments.config import Run, parse_task
from experiments.console import console, stop, table
from experiments.data import DataError
from experiments.inputs import countable, load_task
from experiments.settings import SettingsError, suggestion, validate
from experiments.tasks import TASKS
from experiments.yamls import parse_yaml
from models.config import Budget, BudgetError, Dimensions, ModelConfig, ModelError
from models.cost import count_parameters, on_meta, parameter_parts, state_bytes, training_flops_per_token
from models.matching import match, match_error
from models.registry import MODELS

COSTS = [
    *("hidden", "embedding", "feed-forward", "embeddings", "encoder", "attention", "decoder", "output", "parameters"),
    *("off budget", "training FLOPs/token", "state bytes", "at length"),
]


# --- tasks -----------------------------------------------------------------------------------------------------------
def list_tasks() -> None:
    """Each with what it asks."""
    rows = [[key, (inspect.getdoc(task) or "").splitlines()[0]] for key, task in TASKS.items()]
    console().print(table(["task", "what it asks"], rows))


def show_task(name: str) -> None:
    """A worked example of one, its options, and what is known of it."""
    out = console()
    if name not in TASKS:
        stop(f"no task named {name!r}{suggestion(name, TASKS)}")
    task = TASKS[name]
    out.print(inspect.getdoc(task), markup=False, highlight=False)
    shown = task.model_construct()
    source, fed, target = (" ".join(symbols) for symbols in shown.example())
    out.print(f"\none example\n    source    {source}\n    fed       {fed}\n    target    {target}\n", markup=False)
    properties = task.model_json_schema()["properties"]
    options = [
        [option, _in_words(properties[option]), "required" if field.is_required() else json.dumps(field.default)]
        for option, field in task.model_fields.items()
        if option != "name"
    ]
    out.print(table(["option", "what it may be", "default"], options))
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
    out.print()
    for fact, said in facts.items():
        out.print(f"{fact}: {said}", markup=False, highlight=False)


# --- models ----------------------------------------------------------------------------------------------------------
def list_models() -> None:
    """The registry: its models, then every option with its default in each of them."""
    out = console()
    out.print(table(["model", "what it is"], [[name, inspect.getdoc(type(c)) or ""] for name, c in MODELS.items()]))
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
    out.print()
    out.print(table(["option", "what it may be", *MODELS], rows))
    out.print("null: not stated; widths that are not stated are solved for the budget. Meanings: models/config.py")


def show_models_of(sizes: Mapping[Run, tuple[ModelConfig, Dimensions]]) -> None:
    """The models of these runs with their widths, each once a task."""
    rows = {
        (one.task_label, replace(one.model, tuned=()).label): _cost_cells(config, dimensions, one.budget)
        for one, (config, dimensions) in sizes.items()
    }
    console().print(table(["task", "model", *COSTS], [[*key, *row] for key, row in rows.items()], right=COSTS))


def show_matched(budget: str, task: str, data: Path | None) -> None:
    """Every model of the registry with the widths that a budget gives it on a task."""
    name, _, options = task.partition(",")
    try:
        allowed = validate(Budget, _assignments("--budget", budget), ("--budget",))
        chosen = parse_task({"task": {"name": name, **_assignments("--task", options)}})
        dimensions = chosen.dimensions or load_task(chosen, data).dimensions
    except (SettingsError, DataError) as error:
        stop(str(error))
    rows, refused = [], []
    for model, config in MODELS.items():
        try:
            with countable(BudgetError):
                rows.append([model, *_cost_cells(match(config, allowed, dimensions), dimensions, allowed)])
        except ModelError as error:
            refused.append([model, str(error)])
    out = console()
    out.print(f"{chosen.label}, {allowed.amount:,} {allowed.words}")
    out.print(table(["model", *COSTS], rows, right=COSTS))
    if refused:
        out.print(table(["cannot be matched", "why"], refused))


def _cost_cells(config: ModelConfig, dimensions: Dimensions, budget: Budget | None) -> list[str]:
    """The columns `COSTS`: widths, parameters in parts, then work and state at the budget's length or the longest."""
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
    found = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            stop(f"{option}: {part!r} is not of the form NAME=VALUE")
        try:
            found[key.strip()] = parse_yaml(value)
        except SettingsError as error:
            stop(f"{option}: {part!r}: {error.problems[0].message}")
    return found


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
