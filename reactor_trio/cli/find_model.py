"""Finds and imports the model class: by `module:Class`, `path/to/file.py:Class` or `reactor.yaml`."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import attrs
import yaml

from reactor_trio.errors import ModelNotFound
from reactor_trio.model.model import ReactorModel

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

DEMO = "reactor_trio.demo:Painter"
PROJECT_FILE = "reactor.yaml"


@attrs.frozen
class ModelChoice:
    """The model to serve, and what `reactor.yaml` says about it."""

    target: str
    """`module:Class` or `path/to/file.py:Class`."""
    name: str | None = None
    """The model's name; None: that of its class."""
    config: dict[str, Any] = attrs.field(factory=dict)
    authenticate: str | None = None
    """The hook `authenticate`: `module:function` or `path/to/file.py:function`."""


class ModelImportError(Exception):
    """The author's file raised an exception when it was imported: `__cause__`."""


def choose(target: str | None, folder: Path) -> ModelChoice:
    """The model to serve: `target`, else that of `reactor.yaml` in `folder`, else the demo.

    Raises `ModelNotFound` if `reactor.yaml` is malformed.
    """
    if target is not None:
        return ModelChoice(target)
    project = folder / PROJECT_FILE
    return _read_project(project) if project.is_file() else ModelChoice(DEMO)


def _read_project(path: Path) -> ModelChoice:
    data = read_yaml(path)
    runtime, model = _section(data, "runtime"), _section(data, "model")
    target, name, config = runtime.get("import"), model.get("name"), runtime.get("config", {})
    if not isinstance(target, str):
        raise ModelNotFound(
            f"{path.name}: runtime.import should say which model, such as my_model.py:MyModel"
        )
    if name is not None and not isinstance(name, str):
        raise ModelNotFound(f"{path.name}: model.name should be a text")
    if isinstance(config, str):  # a file of its own
        config = read_yaml(path.parent / config)
    if not isinstance(config, dict):
        raise ModelNotFound(f"{path.name}: runtime.config should be a mapping, or the path of a YAML file")
    authenticate = _section(data, "server").get("authenticate")
    if authenticate is not None and not (isinstance(authenticate, str) and ":" in authenticate):
        raise ModelNotFound(f"{path.name}: server.authenticate should be module:function")
    hook = None if authenticate is None else _beside(path, authenticate)
    return ModelChoice(_beside(path, target), name, config, hook)


def _beside(project: Path, target: str) -> str:
    place, colon, name = _split(target)
    return f"{project.parent / place}{colon}{name}" if _is_path(place) else target


def _section(data: dict[str, Any], name: str) -> dict[str, Any]:
    section = data.get(name) or {}
    if not isinstance(section, dict):
        raise ModelNotFound(f"{PROJECT_FILE}: {name} should be a mapping")
    return section


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; that of an empty file is empty. Raises `ModelNotFound`."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ModelNotFound(f"cannot read {path}: {exc.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise ModelNotFound(f"{path} is no YAML: {_one_line(exc)}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ModelNotFound(f"{path} should hold a mapping of names to values")
    return data


def apply_overrides(config: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of `config` with each `a.b=VALUE` set, `VALUE` being YAML. Raises `ModelNotFound`."""
    config = dict(config)
    for override in overrides:
        key, equals, text = override.partition("=")
        parts = key.split(".")
        if not equals or not all(parts):
            raise ModelNotFound(f"--set {override}: should be key=value, or section.key=value")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as exc:
            raise ModelNotFound(f"--set {override}: no YAML value: {_one_line(exc)}") from None
        _set(config, parts, value, override)
    return config


def _set(config: dict[str, Any], parts: list[str], value: object, override: str) -> None:
    for part in parts[:-1]:
        inner = config.get(part, {})
        if not isinstance(inner, dict):
            raise ModelNotFound(f"--set {override}: {part} is no section but {inner!r}")
        inner = config[part] = dict(inner)  # a copy: the caller's mapping is not changed
        config = inner
    config[parts[-1]] = value


def find_model(target: str) -> type[ReactorModel]:
    """Import the model class that `target` names.

    Raises `ModelNotFound` if there is no such file, module or model, `ModelImportError` if importing it
    raised.
    """
    place, _, class_name = _split(target)
    module = _import_file(Path(place)) if _is_path(place) else _import_module(place)
    return _pick(module, place, class_name)


def find_hook(target: str) -> Any:
    """Import the function that `server.authenticate` names; errors are those of `find_model`."""
    place, _, name = _split(target)
    module = _import_file(Path(place)) if _is_path(place) else _import_module(place)
    hook = getattr(module, name, None)
    if not callable(hook):
        raise ModelNotFound(f"server.authenticate: {place} has no function {name}")
    return hook


def _split(target: str) -> tuple[str, str, str]:
    place, colon, class_name = target.rpartition(":")
    if colon and class_name.isidentifier():
        return place, colon, class_name
    return (target, "", "") if not colon or "." in class_name else (place, "", class_name)


def _is_path(place: str) -> bool:
    return place.endswith(".py") or "/" in place or "\\" in place


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ModelNotFound(f"there is no file {path}")
    # A name of its own: a model's file may have the same name as a library.
    name = f"reactor_model_{path.stem}"
    imported = sys.modules.get(name)
    if imported is not None and imported.__file__ == str(path):
        return imported  # model and hook in one file: it is executed once
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ModelNotFound(f"{path} is no Python file")
    _prefer(path.resolve().parent)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where annotations are resolved
    try:
        spec.loader.exec_module(module)
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as exc:  # a library written in Rust may panic
        raise ModelImportError(str(path)) from exc  # noqa: ASYNC104  no Trio runs
    return module


def _import_module(name: str) -> ModuleType:
    _prefer(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is not None and (name == exc.name or name.startswith(f"{exc.name}.")):
            raise ModelNotFound(f"there is no module {name}{_perhaps_a_file(name)}") from None
        raise ModelImportError(name) from exc
    except (TypeError, ValueError) as exc:
        if not name or name.startswith("."):  # as `import_module` raises it for a malformed name
            raise ModelNotFound(f"{name!r} is no name of a module") from None
        raise ModelImportError(name) from exc
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as exc:
        raise ModelImportError(name) from exc  # noqa: ASYNC104  no Trio runs


def _prefer(folder: Path) -> None:
    """Let a model's file import modules from its own folder, as a script can."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _perhaps_a_file(name: str) -> str:
    path = Path(name.replace(".", "/") + ".py")
    return f"; did you mean {path}?" if path.is_file() else ""


def _pick(module: ModuleType, place: str, class_name: str) -> type[ReactorModel]:
    def is_model(value: object) -> TypeGuard[type[ReactorModel]]:
        return inspect.isclass(value) and issubclass(value, ReactorModel) and value is not ReactorModel

    own = [
        name
        for name, value in vars(module).items()
        if is_model(value) and value.__module__ == module.__name__
    ]
    if not class_name:
        if len(own) != 1:
            raise ModelNotFound(f"{place} has {_listed(own)}{': say which one' if own else ''}")
        class_name = own[0]
    found = getattr(module, class_name, None)
    if found is None:
        raise ModelNotFound(f"{place} has no {class_name}, it has {_listed(own)}{_perhaps(class_name, own)}")
    if not is_model(found):
        raise ModelNotFound(f"{place}:{class_name} is no ReactorModel; {place} has {_listed(own)}")
    return found


def _listed(names: list[str]) -> str:
    return (
        f"the models {', '.join(names)}"
        if len(names) > 1
        else f"the model {names[0]}"
        if names
        else "no model"
    )


def _perhaps(wanted: str, names: list[str]) -> str:
    close = difflib.get_close_matches(wanted, names, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _one_line(exc: Exception) -> str:
    return " ".join(str(exc).split())
