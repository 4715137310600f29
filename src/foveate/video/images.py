"""Pictures from disk or memory, always as upright RGB, or one clear line about what is wrong with the file."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps

from ..errors import MediaError
from .limits import DEFAULT, Limits

MIN_SIDE = 2

FORMATS = ("PNG", "JPEG", "MPO", "GIF", "WEBP", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA", "ICO", "QOI")
ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")  # more than one picture means time here; in TIFF and MPO it means pages
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")

# What Pillow raises for damaged data, depending on the format.
DAMAGE = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, AttributeError, OverflowError,
    struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip

Source = str | PathLike[str] | Image.Image | np.ndarray[Any, Any]


def open_image(source: Source, limits: Limits = DEFAULT) -> Image.Image:
    """A picture as RGB, turned upright by its EXIF tag, transparent parts over white.

    source: a path, a PIL image, or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), uint8, bool or float in [0, 1].
    limits: what is refused as too large.
    Of a file with several pictures (animation, pages) the first is taken. 16-bit grey is scaled to 8 bits.

    Raises:
        MediaError: the file is missing, empty, damaged, not a picture or too large, or a side is under 2 pixels.
    """
    if isinstance(source, Image.Image):
        return _upright(source, "this image", limits)
    if isinstance(source, np.ndarray):
        return _upright(_from_array(source), "this array", limits)
    path = check_file(source)
    image = sniff(path, limits)
    if image is None:
        from .stream import has_video  # needs PyAV; pictures do not

        problem = "is a video, not a picture" if has_video(path) else "is no picture that can be read, or it is damaged"
        raise MediaError(f"{path}: {problem}")
    with image:
        return _upright(image, str(path), limits)


def kind(path: str | PathLike[str], limits: Limits = DEFAULT) -> Literal["image", "video"]:
    """Whether a file is one picture or moves, by its content. An animated GIF, WebP, PNG or AVIF is a video.

    Raises:
        MediaError: the file is missing or empty, or holds neither pictures nor video.
    """
    path = check_file(path)
    image = sniff(path, limits)
    if image is not None:
        with image:
            return "video" if is_animated(image) else "image"
    from .stream import has_video

    if has_video(path):
        return "video"
    raise MediaError(f"{path}: is neither a video nor a picture that can be read, or it is damaged")


def check_file(path: str | PathLike[str]) -> Path:
    """The path of an existing file with something in it; MediaError for anything else."""
    text = os.fspath(path)
    if "://" in text:
        raise MediaError(f"{text}: only files are read; download it first")
    path = Path(text).expanduser()
    if not path.exists():
        raise MediaError(f"{path}: no such file")
    if path.is_dir():
        raise MediaError(f"{path}: is a directory; give one file in it")
    if not os.access(path, os.R_OK):
        raise MediaError(f"{path}: no permission to read it")
    if path.is_file() and path.stat().st_size == 0:
        raise MediaError(f"{path}: is empty (0 bytes)")
    return path


def sniff(path: Path, limits: Limits = DEFAULT) -> Image.Image | None:
    """The file opened by Pillow (header only, not decoded yet), or None if it is no picture format we read.

    Raises MediaError if it is too large, or HEIC.
    """
    with path.open("rb") as file:
        head = file.read(12)
    if head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS:
        raise MediaError(f"{path}: is a HEIC picture, which is not supported; save it as JPEG or PNG")
    Image.init()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(path, formats=[f for f in FORMATS if f in Image.OPEN])
    except Image.DecompressionBombError as error:
        raise MediaError(
            f"{path}: has more pixels than Pillow opens; shrink it first, or raise PIL.Image.MAX_IMAGE_PIXELS"
        ) from error
    except DAMAGE:
        return None


def is_animated(image: Image.Image) -> bool:
    """True for an opened file whose pictures follow each other in time."""
    try:
        return image.format in ANIMATED and bool(getattr(image, "is_animated", False))
    except DAMAGE:  # a damaged second picture leaves the first
        return False


def flatten(image: Image.Image) -> Image.Image:
    """Any mode -> RGB: transparent parts over white, 16-bit grey scaled to 8 bits. Returns a new image."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.asarray(image).astype(np.float64)
        fits = next((p for p in (1.0, 255.0, 65535.0) if values.max() <= p), float(values.max()))
        peak = 65535.0 if image.mode.startswith("I;16") else max(255.0, fits) if image.mode == "I" else fits
        image = Image.fromarray((values / peak * 255).round().clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB") if image.mode != "RGB" else image.copy()


def check_size(size: tuple[int, int], name: str, limits: Limits = DEFAULT, least: int = MIN_SIDE) -> None:
    """Refuse sizes (width, height) that no model can look at, or that are over the limit."""
    width, height = size
    if min(width, height) < least:
        raise MediaError(f"{name}: is {width}x{height} pixels; at least {MIN_SIDE}x{MIN_SIDE} needed")
    if width * height > limits.pixels:
        raise MediaError(
            f"{name}: is {width}x{height} pixels, more than {limits.pixels:,} in all; shrink it first, or raise "
            f"the limit with limits=Limits(pixels={width * height})"
        )


def _upright(image: Image.Image, name: str, limits: Limits) -> Image.Image:
    check_size(image.size, name, limits)
    try:
        image.load()
        return ImageOps.exif_transpose(flatten(image)) if _turned(image) else flatten(image)
    except DAMAGE as error:
        raise MediaError(f"{name}: is damaged and cannot be decoded ({error}); get a fresh copy") from error


def _turned(image: Image.Image) -> bool:
    try:
        return bool(image.getexif().get(0x0112, 1) != 1)
    except DAMAGE:  # a broken tag is no reason to refuse the picture
        return False


def _from_array(array: np.ndarray[Any, Any]) -> Image.Image:
    shape = array.shape
    if array.ndim == 3 and shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and shape[-1] not in (3, 4)):
        raise MediaError(f"an array of shape {shape} is no picture; expected (H, W), (H, W, 3) or (H, W, 4)")
    if min(shape[:2]) < MIN_SIDE:
        check_size((shape[1], shape[0]), "this array")
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif np.issubdtype(array.dtype, np.floating):
        if not bool(np.isfinite(array).all()) or array.min() < 0 or array.max() > 1:
            raise MediaError("a float array must hold values in [0, 1]; divide it by 255 or pass uint8")
        array = (array * 255).round().astype(np.uint8)
    elif array.dtype != np.uint8:
        raise MediaError(f"an array of {array.dtype} is no picture; pass uint8, bool or float in [0, 1]")
    return Image.fromarray(np.ascontiguousarray(array))
