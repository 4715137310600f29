"""Hooks of mkdocs: add the pages that are made from the code, and their places in the navigation."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_SOURCE = Path(__file__).resolve().parent.parent / "scripts" / "pages.py"


def _maker() -> Any:
    spec = importlib.util.spec_from_file_location("foveate_pages", _SOURCE)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(_SOURCE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the navigation entry called Methods, by stage."""
    maker = _maker()
    by_stage: dict[str, list[dict[str, str]]] = {}
    for name, cls in maker.own().items():
        by_stage.setdefault(cls.stage.capitalize(), []).append({maker.headline(cls)[0]: f"methods/{name}.md"})
    for entry in config.nav or []:
        if isinstance(entry, dict) and "Methods" in entry:
            entry["Methods"] = ["methods/index.md", *({stage: pages} for stage, pages in by_stage.items())]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the made pages."""
    for path, text in _maker().pages().items():
        files.append(File.generated(config, path, content=text))
    return files
