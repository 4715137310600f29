"""Every exception a user can meet. Each message says what was wrong, with the value, and what to do."""

from __future__ import annotations


class FoveateError(Exception):
    """Base of all errors raised on purpose by foveate; the command line turns it into one line and exit code 2."""


class PlanError(FoveateError, ValueError):
    """A plan that cannot work: bad syntax, wrong order, or stages that do not fit together."""


class UnknownMethodError(PlanError, KeyError):
    """No method of that name is registered."""

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0])


class OptionError(PlanError, TypeError):
    """A method was given an option it does not have, or a value outside the option's range."""


class SignalError(PlanError):
    """A method asks for a signal that this model cannot give."""


class UnsupportedModelError(FoveateError, TypeError):
    """The model's architecture lacks what a stage needs."""


class UnsupportedCallError(FoveateError, RuntimeError):
    """The model was called in a way that a plan cannot serve (for instance with a static cache)."""


class MediaError(FoveateError, OSError):
    """A video or image is missing, damaged, empty or too small."""


class InputError(FoveateError, ValueError):
    """A prompt, a batch or a tensor handed to foveate is not usable."""


class OutOfMemoryError(FoveateError, MemoryError):
    """The machine ran out of memory; the message says what to reduce."""


class MissingExtraError(FoveateError, ImportError):
    """Something optional is not installed; the message says how to install it."""


class StoreError(FoveateError, RuntimeError):
    """A store of indexed videos that cannot be opened, or an entry of it that is damaged; it is never answered from."""


class CacheFileError(FoveateError, OSError):
    """A cache on disk that is missing, damaged, of another version or cannot be written; it is never read as data."""
