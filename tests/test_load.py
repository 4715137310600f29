"""Loading: built-in, folders, and everything that a folder can lack."""

from __future__ import annotations

import json

import pytest
import torch

from foveate import memory
from foveate.builtin import tokenizer
from foveate.errors import InputError, OutOfMemoryError, UnsupportedModelError
from foveate.load import load
from model_folders import make


def test_tiny_says_that_it_is_untrained():
    loaded = load("tiny")
    assert not loaded.trained
    assert "untrained" in repr(loaded)
    assert "the words mean nothing" in loaded.note
    assert 1e6 < sum(p.numel() for p in loaded.model.parameters()) < 3e6
    assert loaded.model.dtype == torch.float32
    assert not loaded.model.training


def test_tiny_is_always_the_same_and_leaves_the_random_state_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = load("tiny")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    two = load("tiny")
    for a, b in zip(one.model.parameters(), two.model.parameters()):
        assert torch.equal(a, b)


@pytest.mark.parametrize("text", ["What is this?", "naïve Ωmega 漢字 🦉", "a\nb\tc", ""])
def test_the_byte_tokenizer_gives_text_back(text):
    words = tokenizer()
    ids = words(text)["input_ids"]
    assert len(ids) == len(text.encode())
    assert words.decode(ids) == text


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava", "text"])
def test_a_folder(tmp_path, family):
    loaded = load(make(family, tmp_path))
    assert loaded.trained
    assert loaded.note == ""
    assert loaded.vision == (family != "text")
    assert loaded.family == {"text": "qwen2"}.get(family, family)
    assert load(tmp_path / family, dtype="bfloat16").model.dtype == torch.bfloat16
    assert load(str(tmp_path / family), dtype=torch.float16, device="cpu").model.dtype == torch.float16


def test_pixels_follow_the_models_dtype(tmp_path):
    from PIL import Image

    loaded = load(make("llava", tmp_path), dtype="bfloat16")
    content = [{"type": "image", "image": Image.new("RGB", (60, 60))}, {"type": "text", "text": "?"}]
    prompt = loaded.prompt([{"role": "user", "content": content}])
    assert prompt.inputs["pixel_values"].dtype == torch.bfloat16
    assert loaded.model.generate(**prompt.inputs, max_new_tokens=1, do_sample=False).shape[1] == prompt.n + 1


# --- what is refused --------------------------------------------------------------------------------------------


def test_missing_folder(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load(tmp_path / "nothing")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        load(tmp_path / "file")


def test_hub_without_an_answer(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def fail(*args, **kwargs):
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(InputError, match=r"'owner/model'.*built in: 'tiny'"):
        load("owner/model")


def test_the_hub_is_never_asked_for_pickles_or_code(monkeypatch, tmp_path):
    import huggingface_hub

    asked = {}
    folder = make("text", tmp_path)
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **kwargs: asked.update(name=name, **kwargs) or str(folder)
    )
    assert load("owner/model").name == "owner/model"
    assert asked["name"] == "owner/model"
    assert not any(p.endswith((".bin", ".pt", ".pth", ".py", ".ckpt", "*")) for p in asked["allow_patterns"])


def test_no_config(tmp_path):
    with pytest.raises(UnsupportedModelError, match=r"no config\.json"):
        load(tmp_path)


def test_broken_config(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UnsupportedModelError, match="not JSON"):
        load(tmp_path)


def test_only_pickled_weights(tmp_path):
    folder = make("text", tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UnsupportedModelError, match="safetensors"):
        load(folder)


def test_damaged_weights(tmp_path):
    folder = make("text", tmp_path)
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(UnsupportedModelError, match="cannot"):
        load(folder)


@pytest.mark.parametrize("kind", ["no_such_family", None, "vit"])
def test_unknown_family(tmp_path, kind):
    folder = make("text", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = kind
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (folder / "evil.py").write_text("raise SystemExit('remote code ran')")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError):
        load(folder)


def test_no_tokenizer(tmp_path):
    folder = make("qwen2_5_vl", tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(UnsupportedModelError, match="tokenizer"):
        load(folder)


def test_no_processor(tmp_path):
    folder = make("llava", tmp_path)
    (folder / "processor_config.json").unlink()
    with pytest.raises(UnsupportedModelError, match="processor"):
        load(folder)


def test_bad_dtype_and_device():
    for dtype in ("float33", "int64", "nn"):
        with pytest.raises(InputError, match="dtype"):
            load("tiny", dtype=dtype)
    for device in ("abacus", "cuda:99"):
        with pytest.raises(InputError, match="device"):
            load("tiny", device=device)


def test_weights_larger_than_memory(tmp_path, monkeypatch):
    folder = make("text", tmp_path)
    monkeypatch.setattr(memory, "available", lambda: 1000)
    with pytest.raises(OutOfMemoryError, match="GiB of memory are free"):
        load(folder)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:128] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_running_out_of_memory_is_said_in_one_line(error):
    with pytest.raises(OutOfMemoryError, match="no memory left for the prompt; use fewer frames"):  # noqa: SIM117
        with memory.explained("the prompt", "use fewer frames"):
            raise error


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="something else"), memory.explained("x", "y"):
        raise RuntimeError("something else")
