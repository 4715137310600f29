"""A method of your own, checked, run on a model, and drawn: keep the tokens that differ most from the average one.

It lives in this script, so an instance is handed to ``foveate.apply``; as a file of a package it gets a name in plans
(see CONTRIBUTING.md).
"""

from unittest import SkipTest

import torch

import foveate
from foveate import Keep, Reduction, Tokens, method, option
from foveate.parts.budget import budget
from foveate.parts.select import top
from foveate.testing import check_method
from foveate.video import demo_clip


@method(title="far from the average", url="https://example.org", cost="one distance for each token, a sort of n")
class Unusual:
    """Selection by distance from the mean token."""

    name, stage = "unusual", "inputs"
    keep: float | int = option(0.25, Keep(), "share (float) or number (int) of visual tokens to keep")

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.x (B, n, D) -> selection of m."""
        x = tokens.x.float()
        away = (x - x.mean(1, keepdim=True)).norm(dim=-1)
        return Reduction.take(top(away, budget(self.keep, tokens.n)), tokens.n)


def main() -> None:
    passed = 0
    for check in check_method(Unusual):
        if check.name in ("documented", "arxiv"):  # asked of files that come with foveate
            continue
        try:
            check()
            passed += 1
        except SkipTest:
            pass
    print(passed, "common checks passed")

    answer = foveate.ask(demo_clip("clip.mp4").path, "What moves?", plan=[Unusual(keep=0.1)], max_new_tokens=4)
    (row,) = answer.report.rows
    print(f"{row.method}: {row.tokens_in} -> {row.tokens_out} tokens")
    print("picture:", answer.show("unusual.png"))
    assert torch.equal(answer.report.kept[0].reduction.lengths, torch.tensor([row.tokens_out]))


if __name__ == "__main__":
    main()
