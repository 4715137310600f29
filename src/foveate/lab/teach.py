"""Begin with what another lab model knows: its decoder as it is, and its visual tokens for the new tower to imitate.

A tower that already gives the decoder the tokens it is used to is understood from the first question on. Pictures of
the teacher's own size are imitated; the other sizes, and clips, are learned from the labels and the questions.

A trained projector may write numbers in the hundreds, which new weights would take very long to reach. So they are
imitated at scale 1, and the learner's last layer is multiplied once, before it is joined to the decoder.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError
from .data import Batch
from .models import Sizes
from .supervise import Heads, normalised
from .tasks import scene

SAMPLE = 16  # pictures that the scale of the tokens is taken from


class Teacher:
    """A trained model of LLaVA's architecture whose visual tokens cover as many pixels as the learner's.

    Raises:
        InputError: it is of another architecture.

    Attributes:
        side: pixels on the side of its pictures. token: of a visual token.
    """

    def __init__(self, model: Any, device: torch.device):
        config = model.config
        if config.model_type != "llava" or config.vision_feature_select_strategy != "default":
            raise InputError(f"a teacher must be a LLaVA model with a class token. Got {config.model_type!r}.")
        self.model = model.to(device).eval().requires_grad_(False)
        self.side, self.token = config.vision_config.image_size, config.vision_config.patch_size
        pictures = [scene(number, size=(self.side, self.side)).pixels for number in range(SAMPLE)]
        self.scale = 1.0
        self.scale = float(self._tokens(torch.from_numpy(np.stack(pictures)).to(device)).std(correction=0))

    @torch.no_grad()
    def begin(self, learner: Any) -> None:
        """Copy the decoder; the biases that only the learner has are zero.

        Raises:
            InputError: the two decoders differ in size.
        """
        pairs = ((learner.model.language_model, self.model.model.language_model), (learner.lm_head, self.model.lm_head))
        for own, given in pairs:
            known = given.state_dict()
            for name, p in own.state_dict().items():
                if name not in known and name.endswith("bias"):
                    p.zero_()
                elif name not in known or known[name].shape != p.shape:
                    raise InputError(f"the teacher's decoder is of another size ({name}); train without a teacher")
                else:
                    p.copy_(known[name])

    def fits(self, batch: Batch, sizes: Sizes) -> bool:
        """Whether it can look at a batch: pictures of its own size, cut into tokens alike."""
        return batch.kind == "image" and batch.pixels.shape[2:4] == (self.side, self.side) and self.token == sizes.token

    def look(self, batch: Batch) -> Tensor:
        """What its decoder would read of pictures (B, 1, H, W, 3), at scale 1: (B, 1, rows, cols, D)."""
        side = self.side // self.token
        seen = self._tokens(batch.pixels[:, 0])
        return seen.view(len(seen), 1, side, side, -1)

    @torch.no_grad()
    def _tokens(self, pixels: Tensor) -> Tensor:
        """pixels (B, H, W, 3) uint8 -> (B, n, D)."""
        inner = self.model.model
        hidden = inner.vision_tower(normalised(pixels), output_hidden_states=True)
        seen: Tensor = inner.multi_modal_projector(hidden.hidden_states[self.model.config.vision_feature_layer][:, 1:])
        return seen.float() / self.scale

    @torch.no_grad()
    def join(self, learner: Any, heads: Heads) -> None:
        """From scale 1 to the teacher's, with no change to what the heads read."""
        last = learner.model.visual.merger.mlp[-1]
        for p in (last.weight, last.bias):
            p.mul_(self.scale)
        for module in (heads.what, heads.place):
            for weight in (p for name, p in module.named_parameters() if name.endswith("weight")):
                weight.div_(self.scale)


def imitate(tokens: Tensor, want: Tensor) -> tuple[Tensor, float]:
    """tokens, want (B, t, rows, cols, D) -> mean squared error in variances of ``want``, and the share explained."""
    want = want.float()
    loss = nn.functional.mse_loss(tokens.float(), want) / want.var()
    return loss, 1 - float(loss.detach())
