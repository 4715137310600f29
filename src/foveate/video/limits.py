"""What a file may ask for before it is refused: small files can unpack to more than any machine holds."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError


@dataclass(frozen=True)
class Limits:
    """Sizes above which a file is refused. Raise one where you trust the file: ``Limits(pixels=10**9)``.

    Attributes:
        pixels: of one picture or frame; the default is where Pillow refuses, 512 MiB of RGB.
        frames: of one video; the default is 22 hours at 60 frames a second.
        animation: pixels of all pictures of an animated GIF, PNG, WebP or AVIF together; they are decoded one after
            another to know when each is shown. The default is ten minutes of 480p at 10 frames a second.
    """

    pixels: int = 178_956_970
    frames: int = 5_000_000
    animation: int = 2_500_000_000

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"{name!r} of Limits must be a positive int. Got {value!r}.")


#: Used where none are given.
DEFAULT = Limits()
