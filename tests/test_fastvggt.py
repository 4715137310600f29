"""What FastVGGT may merge, on a clip of three frames with two special tokens each."""

from __future__ import annotations

import torch

from foveate.encoder.fastvggt import FastVGGT
from foveate.tokens import Tokens


def clip(frames: int = 3, high: int = 4, wide: int = 4) -> Tokens:
    cell = torch.cat([torch.full((2, 2), -1), torch.cartesian_prod(torch.arange(high), torch.arange(wide))])
    view = torch.arange(frames).repeat_interleave(len(cell))
    grid = torch.cat([view[:, None], cell.repeat(frames, 1)], 1)[None]
    x = torch.randn(1, grid.shape[1], 8, generator=torch.Generator().manual_seed(0))
    return Tokens(x, grid=grid, size=torch.ones(x.shape[:2]))


def test_destinations_are_the_first_frame_special_tokens_and_one_patch_a_cell() -> None:
    tokens = clip()
    for method in (FastVGGT(), FastVGGT(seed=3)):
        target = method.targets(tokens)[0].view(3, 18)
        assert target[0].all()
        assert target[:, :2].all()
        for frame in target[1:, 2:]:
            cells = frame.view(2, 2, 2, 2).transpose(1, 2).flatten(2)
            assert torch.equal(cells.sum(-1), torch.ones(2, 2, dtype=torch.int64))
    assert not torch.equal(FastVGGT(seed=3).targets(tokens), FastVGGT().targets(tokens))


def test_all_sources_but_the_protected_merge_at_the_default_share() -> None:
    tokens = clip()
    method = FastVGGT()
    target, out = method.targets(tokens), method.reduce(tokens)
    spared = torch.zeros(1, tokens.n, dtype=torch.bool)
    spared[:, method.protected(tokens.n)] = True
    assert torch.equal(out.kept, target | spared)
    lifted = out.expand(out(tokens.x))
    assert torch.equal(lifted[:, out.keep[0]], out(tokens.x))


def test_a_share_merges_that_many() -> None:
    tokens = clip()
    assert FastVGGT(share=0.2).reduce(tokens).m == tokens.n - int(0.2 * tokens.n)
    assert FastVGGT(share=0.0).reduce(tokens).m == tokens.n


def test_odd_grids_have_a_destination_in_every_cell_that_there_is() -> None:
    target = FastVGGT().targets(clip(high=3, wide=5))[0].view(3, 17)
    assert int(target[1, 2:].sum()) == 2 * 3
