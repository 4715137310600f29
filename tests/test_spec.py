"""Plans: text, objects and YAML; what is refused, and with which words; how methods are found."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

import foveate
from foveate import Plan, parse
from foveate import spec as spec_module
from foveate.errors import FoveateError, OptionError, PlanError, UnknownMethodError
from foveate.inputs.divprune import DivPrune
from foveate.layers.fastv import FastV
from foveate.layers.pyramiddrop import PyramidDrop
from foveate.method import STAGES


def test_text_becomes_methods_as_written() -> None:
    assert parse("divprune") == [DivPrune()]
    assert parse(" fastv(layer=3, keep=7)\n + divprune(keep=0.2)") == [FastV(layer=3, keep=7), DivPrune(keep=0.2)]
    assert parse("pyramiddrop(layers=[1, 2], keeps=(0.5, 0.25))") == [PyramidDrop(layers=(1, 2), keeps=(0.5, 0.25))]
    assert parse("") == parse(" \n") == []


def test_a_count_is_not_a_share() -> None:
    one, all_of_it = parse("divprune(keep=1) + divprune(keep=1.0)")
    assert (type(one.keep), type(all_of_it.keep)) == (int, float)
    assert (str(one), str(all_of_it)) == ("divprune(keep=1)", "divprune(keep=1.0)")


def test_defaults_are_not_written_unless_their_type_differs() -> None:
    @foveate.method(title="t", url="u", cost="c")
    class Whole:
        keep: float | int = foveate.option(1.0, foveate.Keep(), "d")

    assert str(Whole()).count("keep") == 0
    assert "keep=1)" in str(Whole(keep=1))


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("divprun", UnknownMethodError, "no method is called 'divprun'; did you mean 'divprune'?"),
        ("xyz", UnknownMethodError, "no method is called 'xyz'; there are "),
        ("divprune(kep=1)", OptionError, "divprune has no option 'kep'; did you mean 'keep'? It takes keep=0.1."),
        ("divprune(zzz=1)", OptionError, "divprune has no option 'zzz'. It takes keep=0.1."),
        ("divprune(keep=0)", OptionError, "'keep' of divprune must be in (0, 1] or a positive int. Got 0."),
        ("divprune(keep=True)", OptionError, "Got True."),
        ("divprune(keep=inf)", PlanError, "option values must be literals in 'divprune(keep=inf)'"),
        ("divprune(keep={[]: 1})", PlanError, "option values must be literals"),
        ("fastv(layer=0)", OptionError, "'layer' of fastv must be an int in [1, inf). Got 0."),
        ("fastv(layer=1e999)", OptionError, "Got inf."),
        ("pyramiddrop(layers=(1,))", OptionError, "'layers' and 'keeps' of pyramiddrop must be equally long"),
        ("divprune(0.1)", PlanError, "cannot read 'divprune(0.1)' in the plan 'divprune(0.1)'; write it as 'name("),
        ("divprune(**{})", PlanError, "cannot read 'divprune(**{})'"),
        ("divprune - fastv", PlanError, "cannot read 'divprune - fastv'"),
        ("divprune.x()", PlanError, "cannot read 'divprune.x()'"),
        ("3", PlanError, "cannot read '3'"),
        ("divprune +", PlanError, "cannot read the plan 'divprune +'"),
        ("divprune; fastv", PlanError, "cannot read the plan"),
        ("divprune(keep=__import__('os').getpid())", PlanError, "option values must be literals"),
        ("divprune(keep=0.1, keep=0.2)", PlanError, "cannot read"),
    ],
)
def test_what_cannot_be_a_plan_is_refused_with_words(text: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error) as caught:
        parse(text)
    assert says in str(caught.value)
    assert isinstance(caught.value, FoveateError)
    assert isinstance(caught.value, ValueError)


def test_a_plan_is_in_path_order_and_keeps_the_order_within_a_stage() -> None:
    plan = Plan.of("snapkv + fastv + divprune(keep=0.5) + tome + fastervlm")
    assert [m.name for m in plan] == ["tome", "divprune", "fastervlm", "fastv", "snapkv"]
    assert [m.name for m in plan.at("inputs")] == ["divprune", "fastervlm"]
    assert plan.at("media") == []
    assert str(plan) == "tome + divprune(keep=0.5) + fastervlm + fastv + snapkv"
    assert repr(plan) == f"Plan({str(plan)!r})"
    assert Plan.of(str(plan)) == plan
    assert Plan.of(plan) is plan


def test_a_plan_can_be_made_of_anything_that_holds_methods() -> None:
    want = Plan.of("divprune(keep=7) + fastv")
    assert Plan.of(["fastv", DivPrune(keep=7)]) == want
    assert Plan.of((FastV(), "divprune(keep=7)")) == want
    assert Plan.of(m for m in want) == want
    assert Plan.of(DivPrune(keep=7)) == Plan.of("divprune(keep=7)")
    assert Plan.of("") == Plan.of([]) == ()
    assert Plan(pickle.loads(pickle.dumps(list(want)))) == want


@pytest.mark.parametrize("wrong", [DivPrune, [DivPrune], [3], 3, None, ["divprune", None]])
def test_what_is_not_a_method_is_refused(wrong: Any) -> None:
    with pytest.raises(PlanError, match=r"is not a method|a plan is text"):
        Plan.of(wrong)


def test_only_one_method_drives_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    @foveate.method(title="t", url="u", cost="c")
    class One:
        stage = "decode"
        name = "one"

    @foveate.method(title="t", url="u", cost="c")
    class Two:
        stage = "decode"
        name = "two"

    assert Plan.of([One(), DivPrune()]).at("decode") == [One()]
    with pytest.raises(PlanError, match="only one method can drive decoding; this plan has one and two"):
        Plan.of([One(), Two()])


# --- YAML -------------------------------------------------------------------------------------------------------------


def written(folder: Path, text: str) -> Path:
    file = folder / "plan.yaml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    "text",
    [
        "- divprune: {keep: 7}\n- fastv\n",
        "plan:\n  - fastv\n  - divprune:\n      keep: 7\n",
        "- divprune(keep=7) + fastv\n",
        "plan: divprune(keep=7) + fastv\n",
        "- divprune(keep=7)\n- fastv:\n",
    ],
)
def test_yaml_plans(tmp_path: Path, text: str) -> None:
    file = written(tmp_path, text)
    assert Plan.of(file) == Plan.of(str(file)) == Plan.of("divprune(keep=7) + fastv")


def test_yaml_round_trip(tmp_path: Path) -> None:
    plan = Plan.of("tome(r=4) + divprune(keep=1) + pyramiddrop(layers=(1, 2), keeps=(0.5, 0.25))")
    assert str(Plan.of(written(tmp_path, spec_module.to_yaml(plan)))) == str(plan)


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("3", PlanError, "must hold a list of methods, at the top or under 'plan'. Got int."),
        ("steps: []", PlanError, "Got NoneType."),
        ("- [divprune", PlanError, "is not YAML"),
        ("- 3", PlanError, "cannot read the step 3"),
        ("- {divprune: {}, fastv: {}}", PlanError, "cannot read the step"),
        ("- divprune: 0.1", PlanError, "cannot read the step {'divprune': 0.1}"),
        ("- divprune: [0.1]", PlanError, "cannot read the step"),
        ("- divprune: {1: 2}", OptionError, "divprune has no option 1"),
        ("- divprun: {keep: 1}", UnknownMethodError, "did you mean 'divprune'?"),
        ("- divprune: {keep: 2.5}", OptionError, "Got 2.5."),
        ("- !!python/object/apply:os.getpid []", PlanError, "is not YAML"),
    ],
)
def test_yaml_that_is_no_plan_is_refused(tmp_path: Path, text: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error) as caught:
        Plan.of(written(tmp_path, text))
    assert says in str(caught.value)


def test_a_missing_plan_file(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="no plan file at"):
        Plan.of(tmp_path / "none.yaml")
    with pytest.raises(PlanError, match="cannot be read"):
        Plan.of(tmp_path)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(PlanError, match="is not YAML"):
        Plan.of(tmp_path / "bytes.yaml")


# --- discovery --------------------------------------------------------------------------------------------------------


class Entry:
    """Stands in for an installed entry point."""

    value = "elsewhere.methods:Mine"

    def __init__(self, loaded: Any) -> None:
        self.loaded = loaded

    def load(self) -> Any:
        if isinstance(self.loaded, Exception):
            raise self.loaded
        return self.loaded


def third_party() -> type[Any]:
    @foveate.method(title="t", url="u", cost="c")
    class Mine:
        """A method of another package."""

        name = "mine"
        stage = "inputs"
        keep: float | int = foveate.option(0.5, foveate.Keep(), "how much")

    return Mine


def test_third_party_methods_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = third_party()
    monkeypatch.setattr(spec_module, "_others", lambda: {"mine": Entry(mine), "divprune": Entry(mine)})
    assert foveate.methods()["mine"] is mine
    assert foveate.methods()["divprune"] is DivPrune  # foveate's own cannot be replaced by accident
    assert parse("mine(keep=2) + divprune") == [mine(keep=2), DivPrune()]
    assert Plan.of("fastv + mine").at("inputs") == [mine()]
    with pytest.raises(UnknownMethodError, match="did you mean 'mine'"):
        parse("minee")


def test_a_broken_third_party_method_does_not_break_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    others = {"broken": Entry(ImportError("no module called elsewhere")), "plain": Entry(dict)}
    monkeypatch.setattr(spec_module, "_others", lambda: others)
    with pytest.warns(UserWarning, match=r"could not be loaded|is not decorated"):
        found = foveate.methods()
    assert "divprune" in found
    assert not {"broken", "plain"} & set(found)
    with pytest.raises(PlanError, match=r"'broken' of elsewhere\.methods:Mine could not be loaded: no module"):
        parse("broken")
    with pytest.raises(PlanError, match=r"is not decorated with foveate.method"):
        parse("plain")


def test_names_are_in_path_order_and_unique() -> None:
    stages = [cls.stage for cls in foveate.methods().values()]
    assert stages == sorted(stages, key=STAGES.index)
    assert len(set(spec_module.names())) == len(spec_module.names())
    assert all(name == cls.name == name.lower() for name, cls in foveate.methods().items())


def test_a_method_needs_signals_that_exist() -> None:
    with pytest.raises(ValueError, match="no signal is called 'telepathy'; there are features"):
        foveate.method(title="t", url="u", needs=("features|telepathy",))
