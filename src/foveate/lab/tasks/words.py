"""Every word that a question or an answer may hold, so that a word-level tokenizer of a few hundred entries is enough.

Words are lower case. What is read off a sign, and codes, are in capitals: ``KDW`` is three tokens, a letter each,
joined without spaces. So ``red`` is always the colour and ``RED`` always three letters on a sign.
"""

from __future__ import annotations

import functools
import re
import string


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


COLOURS = {
    "red": (214, 40, 40),
    "green": (38, 158, 62),
    "blue": (36, 84, 222),
    "yellow": (248, 218, 44),
    "orange": (244, 132, 20),
    "purple": (146, 52, 178),
    "white": (246, 246, 246),
    "black": (18, 18, 18),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond", "heart", "ring")
#: What a patch can show, in the order of dense labels (0 is background); signs and bars are no "shapes" in questions.
KINDS = (*SHAPES, "sign", "bar")
CHARACTERS = string.ascii_uppercase + string.digits
CELLS = (
    *("top left", "top middle", "top right"),
    *("middle left", "center", "middle right"),
    *("bottom left", "bottom middle", "bottom right"),
)
THIRDS = ("start", "middle", "end")
WAYS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}

ASK = {
    "attribute": ("what colour is the {shape}?",),
    "shape": ("what shape is the {colour} one?",),
    "count kind": ("how many {shape} shapes are there?",),
    "count colour": ("how many {colour} shapes are there?",),
    "count all": ("how many shapes are there?",),
    "sideways": ("is {a} left or right of {b}?",),
    "upright": ("is {a} above or below {b}?",),
    "where": ("where is {a}?",),
    "shape at": ("what shape is at the {cell}?",),
    "colour at": ("what colour is the shape at the {cell}?",),
    "read": ("what does the sign say?",),
    "read one": ("what does the {colour} sign say?",),
    "letter": ("which letter is on {a}?",),
    "value": ("what is the value of the {colour} bar?",),
    "highest": ("which bar is highest?",),
    "lowest": ("which bar is lowest?",),
    "describe": ("describe the image.",),
    "none": ("is there no {colour} {shape}?",),
    "missing colour": ("which colour is missing: {a}, {b} or {c}?",),
    "missing shape": ("which shape is missing: {a}, {b} or {c}?",),
    "small colour": ("what colour is the small {shape}?",),
    "small sign": ("what does the small sign say?",),
    "order": ("which appears first, the {a} or the {b}?",),
    "direction": ("which way does the {shape} move?",),
    "speed": ("which is faster, the {a} or the {b}?",),
    "flashes": ("how many flashes are there?",),
    "state": ("what colour is the {shape} at the end?",),
    "cuts": ("how many scenes are there?",),
    "still": ("when does the {shape} move: start, middle or end?",),
    "recall": ("what is the code of the {noun}?",),
    "copy": ("repeat this: {text}",),
}
NAMED = ("the {shape}", "the {colour} one", "the {colour} {shape}")
CODE = "the code of the {noun} is {code}."
FILLER = (
    "the {adjective} {noun} {verb} the {other}.",
    "a {noun} {verb} near the {adjective} {other}.",
    "every {noun} {verb} a {adjective} {other}, but the {third} is {adjective}.",
)
NOUNS = _words(
    """
    apple arrow basket bell boat book bottle bridge bucket candle carpet castle chair clock cloud coat corner cup desk
    door engine farm feather fence field flag flower forest garden gate glass hammer harbor hill house island jacket
    kettle key kitchen ladder lake lamp letter market mirror mountain oven paper path pencil piano pillow plate pocket
    river road roof rope shelf ship shoe spoon stone street table tower train tree tunnel valley wagon wall well wheel
    window
    """
)
VERBS = _words(
    """
    holds hides moves finds keeps opens paints passes carries follows watches covers
    """
)
ADJECTIVES = _words(
    """
    old new tall quiet bright heavy narrow cold warm empty plain round soft strange wooden
    """
)
#: What signs show besides random letters.
SIGNS = _words(
    """
    BUS CAR CAT DOG EGG FIG FOX HAT ICE INK JAM KEY MAP OWL SUN TEA VAN WAX YAK ZOO BANK BIRD CAFE CITY EXIT FIRE FISH
    GATE GOLD HELP HOTEL JAZZ KIWI LAMP LEFT LION MAIN MILK MOON NORTH OPEN PARK PUSH QUIZ RAIN ROAD SALE SHOP SLOW
    SNOW STOP TAXI TEXT TIGER TRAIN TREE UNIT VIEW WAIT WEST WIND WOLF WORK XRAY ZONE BAKERY CASTLE GARDEN JUNGLE
    MARKET MUSEUM OFFICE PLANET ROCKET SCHOOL SUMMER TICKET WINTER
    """
)
_PIECE = re.compile(r"[a-z]+|[A-Z]|[0-9]|[^\sA-Za-z0-9]")


def pieces(text: str) -> list[str]:
    """A text as entries of :func:`vocabulary`: words, single capitals, single digits, punctuation."""
    return _PIECE.findall(text)


@functools.cache
def vocabulary() -> list[str]:
    """Everything that a prompt, question or answer may hold, sorted: words, capitals, digits, punctuation."""
    told = [t for forms in ASK.values() for t in forms] + [*NAMED, CODE, *FILLER]
    plain = [re.sub(r"\{\w+\}", " ", t) for t in told]
    closed = [*COLOURS, *KINDS, *CELLS, *THIRDS, *WAYS, *NOUNS, *VERBS, *ADJECTIVES]
    extra = ["left right above below yes no", CHARACTERS]
    return sorted({piece for text in (*plain, *closed, *extra) for piece in pieces(text)})
