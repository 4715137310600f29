"""What tuning found, and the file it is written to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError
from .claim import Finding
from .written import yaml_of


@dataclass(frozen=True)
class Tuned:
    """What tuning found.

    Attributes:
        plan: the choice, as text. model: its name. family: its config's model_type.
        findings: each target held against the questions that were kept out of the search.
        evidence: accuracy, loss, loyalty, length, costs and times of the choice, each with its n.
        front: plans on the Pareto front of the search, cheapest first: plan, cost share, accuracy with its interval.
        full: the full model in the same words.
        about: how it was found: data, seed, items, plans tried, machine, versions.
        left_out: plans that cannot run here, and why.
    """

    plan: str
    model: str
    family: str
    findings: tuple[Finding, ...]
    evidence: dict[str, Any]
    front: list[dict[str, Any]]
    full: dict[str, Any]
    about: dict[str, Any]
    left_out: dict[str, str] = field(repr=False, default_factory=dict)

    @property
    def supported(self) -> bool:
        """Whether the evidence supports every target."""
        return all(f.supported for f in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "plan": self.plan, "model": self.model, "family": self.family, "supported": self.supported,
            "findings": [f.as_dict() | {"says": str(f)} for f in self.findings], "evidence": self.evidence,
            "front": self.front, "full": self.full, "about": self.about, "left_out": self.left_out,
        }  # fmt: skip

    def write(self, path: Path) -> None:
        """Write the plan with its evidence as YAML, which every place that takes a plan reads. Raises InputError."""
        part = path.with_name(path.name + ".part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(yaml_of(self.as_dict()), encoding="utf-8")
            part.replace(path)
        except OSError as error:
            raise InputError(f"the plan cannot be written to {str(path)!r}: {error.strerror}") from error
