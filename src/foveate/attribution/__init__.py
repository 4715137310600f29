"""Which visual tokens an answer hangs on: relevance of every visual token of one prompt, by several methods.

    from foveate.attribution import relevance

    scores = relevance(loaded, prompt, how="explain")  # one number for each visual token
    plan = Given(keep=0.3, scores=scores.tolist())  # foveate.inputs.given: these tokens and no others

This is analysis: it costs whole passes, some also backward, and some hold full attention maps. The model is left as it
came.
"""

from .case import Case, opened
from .gradient import explain, grad_input
from .intra import intra, overlap
from .predictor import RelevanceNet, first_attention, fit
from .reagent import reagent
from .relevance import HOW, relevance
from .rollout import attention_rollout, rollout

__all__ = [
    "HOW",
    "Case",
    "RelevanceNet",
    "attention_rollout",
    "explain",
    "first_attention",
    "fit",
    "grad_input",
    "intra",
    "opened",
    "overlap",
    "reagent",
    "relevance",
    "rollout",
]
