"""A tuned plan as YAML: the plan as every place reads it, what was claimed, and on what evidence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..spec import Plan, to_yaml

_HEAD = "# Written by foveate tune. Only 'plan' is read; the rest says what it rests on.\n"


def yaml_of(tuned: Mapping[str, Any]) -> str:
    """tuned: :meth:`foveate.tune.run.Tuned.as_dict`. Targets that the evidence does not support stand under "not"."""
    import yaml

    tuned = json.loads(json.dumps(tuned))  # plain: versions may be of a type of their own, which YAML refuses
    held = [f["says"] for f in tuned["findings"] if f["supported"]]
    short = [f["says"] for f in tuned["findings"] if not f["supported"]]
    rest: dict[str, Any] = {
        "supported": tuned["supported"],
        "claims": held,
        "not": short,
        "model": tuned["model"],
        "family": tuned["family"],
        "evidence": tuned["evidence"],
        "about": tuned["about"],
        "front": tuned["front"],
        "full": tuned["full"],
    }
    return _HEAD + to_yaml(Plan.of(tuned["plan"])) + str(yaml.safe_dump(rest, sort_keys=False, width=120))
