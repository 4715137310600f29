"""A plan on a transformers model that you loaded: the same call with and without it, side by side.

``python examples/apply_to_a_model.py [PLAN]`` runs a tiny random model, so that it needs no download. For a real one,
replace the first two lines of ``main`` by ``AutoModelForImageTextToText.from_pretrained(...)`` and its processor.
"""

import sys
import time

import torch

import foveate
from foveate.testing import tiny


def main(plan: str) -> None:
    zoo = tiny("qwen2_5_vl", images=2)
    model, inputs = zoo.model, zoo.inputs

    def answer() -> torch.Tensor:
        start = time.perf_counter()
        out: torch.Tensor = model.generate(**inputs, max_new_tokens=8, do_sample=False)
        print(f"{(time.perf_counter() - start) * 1e3:.0f} ms:", out[0, inputs["input_ids"].shape[1] :].tolist())
        return out

    full = answer()
    with foveate.apply(model, plan) as report:
        answer()
    for row in report.rows:
        print(f"{row.stage:8s}{row.method:24s}{row.tokens_in:6,} -> {row.tokens_out:6,} tokens {row.ms:8.2f} ms")
    print(f"{report.kv_bytes:,} of {report.kv_bytes_full:,} bytes of keys and values")
    assert torch.equal(answer(), full), "outside the block the model is what it was"


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "tome(r=2) + divprune(keep=0.5) + snapkv(keep=0.3)")
