"""Decoders of image generators: speculative Jacobi, masked generation with reused features, next-scale generation.

``jacobi`` runs autoregressive generators (any decoder of transformers), ``masked`` masked ones, ``next_scale`` holds a
small model that generates scale after scale, on which ``collaborate`` (CoDe) and ``head_aware`` (HACK) work.
"""

from .collaborate import collaborate
from .head_aware import HeadAware, classify
from .jacobi import jacobi
from .masked import masked
from .next_scale import NextScale, Shape

__all__ = ["HeadAware", "NextScale", "Shape", "classify", "collaborate", "jacobi", "masked"]
