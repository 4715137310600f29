"""What discovery cannot know about a model family, as data: one small file each, found by file name."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, PlanError
from ..spec import Plan, from_data

#: The plan that stands for the one of the model's family; see :func:`auto`.
AUTO = "auto"


@dataclass(frozen=True)
class Family:
    """A model family.

    Attributes:
        types: values of ``config.model_type`` it covers.
        kind: "vlm", "vit" or "lm".
        scope: "run" when each run of visual placeholders is one image, "row" when all of a prompt's belong together.
        tower: "batch" when the vision tower takes (images, patches, width), "packed" when it takes one long sequence.
        pool: how encoder tokens become LLM tokens: "one" to one, merge "groups" of the tower, pixel "shuffle" and
            "average" over squares, or the model's own "pack" of crops; None when the family has no encoder.
        thumbnail_last: of crops that make up one item, the last shows the whole image.
        drop: whether a token dropped in the encoder can be dropped in the LLM too (one LLM token a token or group).
    """

    types: tuple[str, ...]
    kind: str
    scope: str = "run"
    tower: str = "batch"
    pool: str | None = None
    drop: bool = False
    thumbnail_last: bool = False


@functools.cache
def families() -> dict[str, Family]:
    """model_type -> family."""
    found: dict[str, Family] = {}
    for info in pkgutil.iter_modules(__path__):
        family: Family = importlib.import_module(f"{__name__}.{info.name}").FAMILY
        found.update(dict.fromkeys(family.types, family))
    return found


def auto(model_type: str, file: Path | None = None) -> Plan:
    """The library's plan for a family, as tuning found it on the lab; the default where it was not tuned.

    file: None for ``families/auto.yaml``.

    Raises:
        PlanError: a file that is no table of plans.
    """
    table = auto_table(file)
    found = table["families"].get(model_type, table["default"])
    return Plan.of(from_data(found, f"'auto' for {model_type}"))


def auto_table(file: Path | None = None) -> dict[str, Any]:
    """The table behind :func:`auto`: "default" and "families", each entry with "plan" and "evidence"."""
    import yaml

    file = Path(__file__).with_name("auto.yaml") if file is None else file
    table = yaml.safe_load(file.read_text(encoding="utf-8"))
    if not isinstance(table, dict) or not isinstance(table.get("families"), dict) or "default" not in table:
        raise PlanError(f"{str(file)!r} must hold 'default' and 'families'")
    return table


def plan_on(plan: Any, model_type: str) -> Plan:
    """A plan as :meth:`foveate.spec.Plan.of` reads it, or ``"auto"``: the one of the model's family."""
    return auto(model_type) if isinstance(plan, str) and plan.strip().lower() == AUTO else Plan.of(plan)


def entered(tuned: Path, file: Path | None = None) -> None:
    """Enter a plan that ``foveate tune`` wrote, with its evidence, as the one of its model's family.

    Raises:
        InputError: its evidence does not support its targets, or its family is none that is known.
    """
    import yaml

    file = Path(__file__).with_name("auto.yaml") if file is None else file
    data = yaml.safe_load(tuned.read_text(encoding="utf-8"))
    if not isinstance(data, dict) or data.get("supported") is not True or not data.get("claims"):
        raise InputError(f"the targets of {str(tuned)!r} are not supported by its evidence; tune on more items")
    if (family := data.get("family")) not in families():
        raise InputError(f"{str(tuned)!r} is for {family!r}; known families are {', '.join(families())}")
    from_data(data, repr(str(tuned)))
    table = auto_table(file)
    table["families"][family] = {k: data[k] for k in ("plan", "claims", "model", "evidence", "about")}
    head = [line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    text = yaml.safe_dump(table, sort_keys=False, width=120)
    file.write_text("\n".join([*head, text]), encoding="utf-8")
