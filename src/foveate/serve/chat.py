"""From what a client sends to a task, and from the engine's events to what a client reads."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from ..ask import plan_of
from ..load import Loaded
from ..spec import Plan
from .asked import Chat, Message, Text, VideoPart
from .engine import Engine
from .media import Medium, Opener
from .overlay import overlay
from .plans import client_plan
from .problems import bad
from .settings import Settings
from .task import Begun, Ended, Event, Task

_COLDEST = 1e-3  # lower temperatures would divide by next to nothing; the answer is the greedy one
_STOPS, _STOP_LENGTH = 8, 256


class Preparer:
    """Makes tasks; media are fetched and decoded here, on the caller's thread."""

    def __init__(self, loaded: Loaded, engine: Engine, plan: Plan, settings: Settings, opener: Opener) -> None:
        self.loaded, self.engine, self.plan, self.settings, self.opener = loaded, engine, plan, settings, opener
        self.auto = plan_of("auto", loaded.vision, loaded.family)
        specials = getattr(loaded.builder.tokenizer, "all_special_tokens", None) or []
        self._special = [str(t) for t in specials]
        self._building = threading.Lock()  # tokenizers and image processors are not made for several threads

    def task(self, chat: Chat, came: float, emit: Callable[[Event], None], name: str) -> Task:
        """A request, ready to be answered.

        Raises:
            Problem, FoveateError: what is wrong with it.
        """
        if (field := chat.refused()) is not None:
            raise bad(f"'{field}' asks for something that this server does not do.", field, "unsupported")
        wishes = chat.foveate
        told = wishes.plan if wishes is not None else None
        keep = wishes.keep if wishes is not None else None
        plan = client_plan(told, keep, self.plan, self.settings.plans, self.auto)
        frames = (wishes.frames if wishes is not None else None) or self.settings.frames
        if frames > self.settings.most_frames:
            raise bad(f"'foveate.frames' is at most {self.settings.most_frames} here.", "foveate.frames")
        if not any(m.type != "text" for message in chat.messages for m in _parts(message)):
            plan = Plan(m for m in plan if m.stage != "media")
        self._check(chat)
        seconds = min(self.settings.deadline, float((wishes.seconds if wishes is not None else None) or float("inf")))
        messages, media = self._opened(chat, frames)
        prompt = None
        if not plan.at("media"):
            with self._building:
                prompt = self.loaded.prompt(messages, frames)
        heat = float(chat.temperature or 0.0)
        asked = chat.max_completion_tokens or chat.max_tokens or self.settings.default_new_tokens
        stops = [chat.stop] if isinstance(chat.stop, str) else chat.stop or []
        return Task(
            plan,
            messages,
            media,
            prompt,
            min(asked, self.settings.new_tokens),
            came + seconds,
            emit,
            temperature=0.0 if heat < _COLDEST else heat,
            top_p=None if chat.top_p is None else max(float(chat.top_p), 1e-6),
            seed=chat.seed,
            stops=stops,
            reuse=wishes.reuse if wishes is not None else True,
            name=name,
            came=came,
        )

    def _check(self, chat: Chat) -> None:
        stops = [chat.stop] if isinstance(chat.stop, str) else chat.stop or []
        if len(stops) > _STOPS or any(len(s) > _STOP_LENGTH for s in stops):
            raise bad(f"'stop' takes {_STOPS} texts of {_STOP_LENGTH} characters at most.", "stop")
        last = chat.messages[-1]
        if last.role != "user":
            raise bad("The last message must come from the user.", "messages")
        if not any(isinstance(p, Text) and p.text.strip() for p in _parts(last)):
            raise bad("The last message asks nothing; add text to it.", "messages")
        many = 0
        for message in chat.messages:
            for part in _parts(message):
                if isinstance(part, Text):
                    try:
                        part.text.encode()
                    except UnicodeEncodeError as error:
                        raise bad("A text holds half a character, which no text can.", "messages") from error
                    if any(t in part.text for t in self._special):
                        raise bad("A text holds a special token of the model; leave it out.", "messages")
                    continue
                many += 1
                if message.role != "user":
                    raise bad("Pictures and videos come from users only.", "messages")
        if many and not self.loaded.vision:
            raise bad("This model does not look at pictures or videos.", "messages", "unsupported")
        if many > self.settings.media:
            raise bad(f"A request holds at most {self.settings.media} pictures and videos.", "messages")

    def _opened(self, chat: Chat, frames: int) -> tuple[list[dict[str, Any]], list[Medium]]:
        messages, media = [], []
        for message in chat.messages:
            content: list[dict[str, Any]] = []
            for part in _parts(message):
                if isinstance(part, Text):
                    content.append({"type": "text", "text": part.text})
                    continue
                moving = isinstance(part, VideoPart)
                url = part.video_url.url if isinstance(part, VideoPart) else part.image_url.url
                media.append(self.opener.open("video" if moving else "image", url, frames))
                content.append(media[-1].entry)
            role = "system" if message.role == "developer" else message.role
            messages.append({"role": role, "content": content})
        return messages, media


def _parts(message: Message) -> list[Any]:
    if isinstance(message.content, str):
        return [Text(type="text", text=message.content)]
    return message.content or []


class Reply:
    """The answer to one request, in OpenAI's form."""

    def __init__(self, model: str, loaded: Loaded, drawn: bool) -> None:
        self.name = f"chatcmpl-{uuid.uuid4().hex}"  # never the client's own id, which may come twice
        self.model, self.loaded, self.drawn = model, loaded, drawn
        self.created = int(time.time())
        self.begun: Begun | None = None
        self._overlay: list[dict[str, Any]] | None = None

    def begin(self, event: Begun) -> None:
        """The prompt was read."""
        self.begun = event
        if self.drawn:
            self._overlay = overlay(event.prompt, event.facts.kept)

    def drawn_once(self) -> None:
        """The overlay was sent; later pieces go without."""
        self._overlay = None

    def own(self, ended: Ended | None = None) -> dict[str, Any]:
        """What foveate tells about the request."""
        assert self.begun is not None
        facts = self.begun.facts
        out: dict[str, Any] = {
            "plan": facts.plan or "none",
            "visual_tokens": {"before": facts.before, "after": facts.after},
            "kv_bytes": facts.kv_bytes,
            "kv_bytes_full": facts.kv_bytes_full,
            "flops": facts.flops,
            "flops_full": facts.flops_full,
            "decision_ms": round(facts.ms, 3),
            "first_token_seconds": round(self.begun.seconds, 6),
            "declined": list(facts.declined),
        }
        if self.loaded.note:
            out["note"] = self.loaded.note
        if ended is not None:
            after = ended.seconds - self.begun.seconds
            out["seconds"] = round(ended.seconds, 6)
            many = ended.tokens > 1 and after > 0
            out["tokens_per_second"] = round((ended.tokens - 1) / after, 3) if many else None
        if self._overlay is not None:
            out["overlay"] = self._overlay
        return out

    def usage(self, ended: Ended) -> dict[str, Any]:
        """Tokens of the request."""
        assert self.begun is not None
        facts = self.begun.facts
        return {
            "prompt_tokens": facts.prompt_tokens,
            "completion_tokens": ended.tokens,
            "total_tokens": facts.prompt_tokens + ended.tokens,
            "prompt_tokens_details": {"cached_tokens": facts.cached},
            "visual_tokens_before": facts.before,
            "visual_tokens_after": facts.after,
        }

    def whole(self, ended: Ended) -> dict[str, Any]:
        """The answer in one piece."""
        message = {"role": "assistant", "content": ended.text}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": ended.reason}
        body = {"choices": [choice], "usage": self.usage(ended), "foveate": self.own(ended)}
        return {**self._head("chat.completion"), **body}

    def chunk(self, delta: dict[str, Any], reason: str | None = None, **more: Any) -> dict[str, Any]:
        """A piece of a streamed answer."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {**self._head("chat.completion.chunk"), "choices": [choice], **more}

    def last(self, ended: Ended) -> dict[str, Any]:
        """The piece after the last that tells the usage."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": self.usage(ended)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.name, "object": kind, "created": self.created, "model": self.model}
