"""What the guard counts with: a table of the machine, its file, and what follows from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

import foveate
from foveate import calibration
from foveate.cli import app
from foveate.cli.doctor import examine
from foveate.errors import CacheFileError, InputError
from foveate.sites import costs, guard
from foveate.sites.costs import COUNTED, Costs
from foveate.sites.model import anatomy
from foveate.testing import tiny

#: A machine that is idle with few tokens, and slow at deciding.
TABLE = Costs(((1, 1e9), (1000, 1e12)), ((1, 1e9), (1000, 1e12)), step=1e-4, layer=1e-3)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_rates_lie_between_those_measured() -> None:
    assert TABLE.work(1e12, 1000) == TABLE.work(1e12, 10**6) == pytest.approx(1)
    assert TABLE.work(1e9, 0.5) == pytest.approx(1)
    assert TABLE.work(1e9, 1000**0.5) == pytest.approx(1e9 / (1e9 * 1e12) ** 0.5)
    assert TABLE.busy(1000).work(1e12, 1) == pytest.approx(1)
    layer = torch.nn.TransformerEncoderLayer(8, 1, 8)
    assert TABLE.block(layer, 1, 1) == 1e-3
    assert TABLE.busy(4).block(layer, 1, 1) == pytest.approx(0.25e-3)


def test_without_a_measurement_flops_are_counted() -> None:
    assert COUNTED.work(5.0, 7) == 5.0
    assert COUNTED.said(2e9) == "2.000 GFLOPs"
    assert TABLE.said(2e-3) == "2.000 ms"


@pytest.mark.parametrize(
    "given",
    [{"products": ()}, {"products": ((2, 1.0), (1, 1.0))}, {"products": ((1, 0.0),)}, {"step": -1.0}, {"requests": 0}],
)
def test_tables_that_cannot_be(given: dict[str, object]) -> None:
    made = {"products": ((1, 1.0),), "attention": ((1, 1.0),), "step": 0.0} | given
    with pytest.raises(InputError, match=next(iter(given))):
        Costs(**made)  # type: ignore[arg-type]


def _reason(n: int, table: Costs, plan: str = "random(keep=0.5)") -> str | None:
    with torch.device("meta"):
        config = LlamaConfig(hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14)
        parts = anatomy(LlamaForCausalLM(config))
    tokens = foveate.Tokens(torch.empty(1, n, 896, device="meta"))
    return guard.inputs(parts, foveate.parse(plan)[0], tokens, n + 20, table)


def test_short_prompts_are_left_and_long_ones_are_not() -> None:
    assert "ms" in str(_reason(64, TABLE))
    assert _reason(4096, TABLE) is None


def test_a_machine_busy_with_others_gains_less() -> None:
    """Alone, few tokens are slow and dropping half of them pays; among many requests they are cheap."""
    alone = Costs(((1, 1e11), (100_000, 1e14)), ((1, 1e14),), step=1e-4)
    assert _reason(512, alone) is None
    assert "200 requests together" in str(_reason(512, alone.busy(200)))


@torch.no_grad()
def test_what_is_declined_changes_nothing() -> None:
    t = tiny("llava")
    bare = t.model(**t.inputs).logits
    for plan in ("divprune(keep=0.5)", "fastv(layer=1, keep=0.5)", "tome(r=2)"):
        with foveate.apply(t.model, plan, guard=TABLE) as report:
            assert torch.equal(t.model(**t.inputs).logits, bare)
        assert "ms" in report.declined[0]
    free = Costs(((1, 1.0),), ((1, 1.0),), step=0.0)
    with foveate.apply(t.model, "divprune(keep=0.1)", guard=free) as report:
        t.model(**t.inputs)
    assert not report.declined


def test_calibration_is_kept_and_used() -> None:
    made = calibration.calibrate(timer=lambda work, device: 1e-3)
    assert costs.read(costs.path()) == made
    t = tiny("llava")
    found = costs.costs_for(True, t.model)
    assert found is not None
    assert found.measured
    assert found.step == pytest.approx(1e-3 / (20 + 4 * 32))
    assert costs.costs_for(False, t.model) is None
    with foveate.apply(t.model, "divprune(keep=0.5)", guard=True) as report:
        t.model(**t.inputs)
    assert "ms" in report.declined[0]
    costs.write(costs.path(), {"another machine": TABLE})
    assert costs.costs_for(True, t.model) is COUNTED
    again = calibration.calibrate(timer=lambda work, device: 2e-3)
    assert costs.read(costs.path()) == {"another machine": TABLE} | again


def test_work_of_a_calibration_runs() -> None:
    ran = []

    def once(work, device):  # type: ignore[no-untyped-def]
        ran.append(work())
        return 1.0

    calibration.measure(torch.device("cpu"), torch.float32, once)
    assert len(ran) == 2 * len(calibration.TOKENS) + 2


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        ('{"version": 99, "machines": {}}', "version 99"),
        ('{"version": 1, "machines": {"a": {}}}', "damaged"),
        (json.dumps({"version": 1, "machines": {"a": {"products": [[1, -1]], "attention": [[1, 1]], "step": 0,
                                                      "layer": 0}}}), "damaged"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused(text: str, why: str) -> None:
    costs.path().parent.mkdir(parents=True)
    costs.path().write_text(text)
    with (
        pytest.raises(CacheFileError, match=rf"{why}.*foveate doctor --calibrate"),
        foveate.apply(tiny("llava").model, "divprune(keep=0.5)", guard=True),
    ):
        pass
    out = CliRunner().invoke(app, ["ask", "What?", "--guard", "--max-new-tokens", "1"])
    assert out.exit_code == 2
    assert "--calibrate" in out.stderr


def test_doctor_calibrates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "fastest", lambda work, device: 1e-3)
    costs.path().parent.mkdir(parents=True)
    costs.path().write_text("{")  # a damaged file is told, and mended
    assert "damaged" in examine(0.01)["guard"]["error"]
    out = CliRunner().invoke(app, ["doctor", "--calibrate", "--json"])
    assert out.exit_code == 0, out.output
    told = json.loads(out.stdout)["guard"]
    assert told["costs"] == str(costs.path())
    assert any("float32" in k for k in told["measured"])
