"""Tasks of lm-evaluation-harness, found by name or by the path of a YAML file."""

import difflib
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from dsdm.errors import DataError


def load_tasks(names: Sequence[str]) -> dict[str, Any]:
    """lm-eval's task objects by their own names, in order; a tag or group is all its tasks.

    Raises:
        DataError: lm-eval has no such task, can't load it, or it is named twice.
    """
    manager = _task_manager(
        tuple(sorted({path for name in names if (path := _folder_to_index(name))})),
        include_defaults=any(_needs_lm_evals_own(name) for name in names),
    )
    loaded: dict[str, Any] = {}
    for name in names:
        for task in _load_task(manager, name):
            if task.task_name in loaded:
                raise DataError(
                    f"Task {task.task_name!r} is named twice: {name!r} holds it, and one before "
                    "does. Name it once, or give one of the two YAML files another `task:`."
                )
            loaded[task.task_name] = task
    return loaded


def unknown_task(name: str, known: Sequence[str]) -> DataError:
    """The error for a task that lm-eval does not have, with the names nearest to it."""
    nearest = difflib.get_close_matches(name, known, n=5)
    offer = f"Nearest names: {', '.join(nearest)}." if nearest else "No name is near."
    return DataError(
        f"lm-eval has no task {name!r}. {offer} "
        "`lm-eval ls tasks` lists all; the path of a task's YAML file works too."
    )


@lru_cache(maxsize=1)
def _task_manager(folders: tuple[str, ...], *, include_defaults: bool) -> Any:
    """Kept, because the index of lm-eval's own tasks takes half a minute to build."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=list(folders), include_defaults=include_defaults)


def _load_task(manager: Any, name: str) -> list[Any]:
    import jinja2

    if not _is_yaml(name) and name not in manager.all_tasks:
        raise unknown_task(name, manager.all_tasks)
    # lm-eval runs a dataset's loader, templates and the task's own functions here.
    try:
        return list(manager.load(name)["tasks"].values())
    except (
        OSError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        ImportError,
        jinja2.TemplateError,
    ) as error:
        raise DataError(
            f"lm-eval could not load task {name!r}: {type(error).__name__}: {error}. Check that "
            "its dataset is on this machine (or that the hub can be reached) and its YAML file."
        ) from error


def _folder_to_index(name: str) -> str | None:
    """The folder of a group's YAML file: a group names other tasks, maybe those beside it."""
    return str(Path(name).parent) if _is_yaml(name) and _is_group(name) else None


def _needs_lm_evals_own(name: str) -> bool:
    return not _is_yaml(name) or _is_group(name)


def _is_group(name: str) -> bool:
    try:
        text = Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{name}: the task's YAML file cannot be read ({error}).") from error
    return re.search(r"^group:", text, re.MULTILINE) is not None


def _is_yaml(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))
