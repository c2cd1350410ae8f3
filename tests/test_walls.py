"""The walls of the house (README, "How it is built"): who may import whom, and what may be imported where."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = {"lvt", "models", "experiments", "analysis"}


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in the file: ``from a.b import c`` → ``a.b`` and ``a.b.c``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files(folder: str) -> list[Path]:
    found = sorted((ROOT / folder).rglob("*.py"))
    assert found
    return found


def test_models_import_torch_and_nothing_else() -> None:
    allowed = sys.stdlib_module_names | {"torch", "models"}
    for path in files("models"):
        assert {name.split(".")[0] for name in imports(path)} <= allowed, path


def test_experiments_import_models_only() -> None:
    for path in files("experiments"):
        assert {name.split(".")[0] for name in imports(path)} & PROJECT <= {"models", "experiments"}, path


def test_analysis_imports_the_schema_only_and_never_torch() -> None:
    for path in files("analysis"):
        for name in imports(path):
            top = name.split(".")[0]
            assert top not in {"torch", "models", "lvt"}, f"{path}: {name}"
            if top == "experiments":
                assert name == "experiments" or name.startswith("experiments.schema"), f"{path}: {name}"


def test_the_schema_imports_nothing() -> None:
    assert {name.split(".")[0] for name in imports(ROOT / "experiments" / "schema.py")} <= {"__future__"}


def test_nobody_imports_the_front_door() -> None:
    for folder in ("models", "experiments", "analysis"):
        for path in files(folder):
            assert "lvt" not in set(imports(path)), path


def test_the_front_door_opens_without_the_heavy_libraries() -> None:
    heavy = ("torch", "mlflow", "pandas", "matplotlib", "pydantic", "datasets")
    code = f"import sys, lvt; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "[]"
