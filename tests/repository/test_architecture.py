"""Rules of the house that import contracts cannot see."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
FORBIDDEN_CALLS = {"pickle", "torch.load", "extractall", "yaml.load", "eval", "exec", "mark_safe"}


def python_files(*rooms: str) -> list[Path]:
    return [path for room in rooms for path in sorted((ROOT / room).rglob("*.py"))]


def imported_names(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", python_files("searchapp/services"), ids=lambda path: path.stem)
def test_services_never_import_the_web_side_of_django(path: Path) -> None:
    web = {
        name
        for name in imported_names(path)
        if name.startswith(("django.http", "django.views", "django.urls"))
    }
    assert web == set()


def test_nothing_unpickles_evaluates_or_extracts_archives_by_name() -> None:
    found = []
    for path in python_files("ml", "searchapp"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if name in FORBIDDEN_CALLS or name.split(".")[-1] in {"extractall", "mark_safe"}:
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno} {name}")
            elif isinstance(node, ast.Import) and any(alias.name == "pickle" for alias in node.names):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} import pickle")
    assert found == []


def test_every_entry_point_sets_the_thread_limits_before_anything_else() -> None:
    entry_points = (
        "manage.py",
        "searchapp/wsgi.py",
        "searchapp/celery.py",
        "ml/__main__.py",
        "tests/conftest.py",
    )
    for name in entry_points:
        body = ast.parse((ROOT / name).read_text(encoding="utf-8")).body
        imports = [ast.unparse(node) for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
        heavy = [text for text in imports if text not in {"import os", "import sys", "import argparse"}]
        assert heavy[0] in {"import ml.threads", "from ml import threads"}, name


def test_the_web_process_never_loads_torch() -> None:
    """Going back runs in it, so what moves the pointer is loaded too."""
    code = (
        "import os, sys; os.environ['DJANGO_SETTINGS_MODULE'] = 'searchapp.settings.test';"
        "import searchapp.wsgi, searchapp.urls, searchapp.services.pointer_moves; sys.exit('torch' in sys.modules)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr[-2000:]


def test_the_mandated_top_level_is_there() -> None:
    expected = [
        "manage.py",
        "requirements.txt",
        "searchapp",
        "ml",
        "templates",
        "static",
        "tests",
        "docker-compose.yml",
    ]
    assert [name for name in expected if not (ROOT / name).exists()] == []
