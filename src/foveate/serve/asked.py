"""What a client sends, in OpenAI's form, checked by pydantic; unknown fields are ignored, as clients send many."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr

Number = StrictFloat | StrictInt

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}
#: What every route may answer instead, by status, for the OpenAPI schema.
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {"application/json": {"schema": _ERROR}}}
    for status, text in {
        400: "The request is not one that can be answered",
        401: "The API key is missing or wrong",
        404: "No such model",
        408: "The request took too long to arrive",
        413: "The request, or a picture or video, is too large",
        415: "The body is not application/json",
        422: "The request has another form",
        429: "Too many requests; Retry-After says when to come back",
        500: "The server failed",
        503: "The server lacks memory or storage, or is stopping",
        504: "The answer took longer than its deadline",
    }.items()
}


class Text(BaseModel):
    """A piece of text."""

    type: Literal["text"]
    text: StrictStr


class Url(BaseModel):
    """Where a picture or video lies: a data URI, or an address of the public internet."""

    url: StrictStr


class ImagePart(BaseModel):
    """A picture."""

    type: Literal["image_url"]
    image_url: Url


class VideoPart(BaseModel):
    """A video; its frames are sampled evenly."""

    type: Literal["video_url"]
    video_url: Url


Part = Annotated[Text | ImagePart | VideoPart, Field(discriminator="type")]


class Message(BaseModel):
    """One message of a conversation. Media come from users only."""

    role: Literal["system", "developer", "user", "assistant"]
    content: StrictStr | list[Part] | None = None


class Wishes(BaseModel):
    """What is foveate's own in a request (``extra_body={"foveate": {...}}`` of OpenAI's client).

    ``plan``: text of a plan, "none" for the full model. ``keep``: for its first method that drops visual tokens.
    ``overlay``: send the frames and what was kept of them. ``frames``: sampled from each video. ``seconds``: deadline.
    ``reuse``: false reads everything anew.
    """

    model_config = ConfigDict(extra="forbid")

    plan: StrictStr | None = None
    keep: Number | None = Field(None, gt=0, le=10**9)
    overlay: StrictBool = False
    frames: StrictInt | None = Field(None, ge=1)
    seconds: Number | None = Field(None, gt=0)
    reuse: StrictBool = True


class StreamOptions(BaseModel):
    """Of a streamed answer."""

    include_usage: StrictBool = False


class Chat(BaseModel):
    """A request for a chat completion. Without ``temperature`` decoding is greedy."""

    model: StrictStr = ""
    messages: list[Message] = Field(min_length=1, max_length=256)
    stream: StrictBool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: StrictInt | None = Field(None, ge=1)
    max_completion_tokens: StrictInt | None = Field(None, ge=1)
    temperature: Number | None = Field(None, ge=0, le=2)
    top_p: Number | None = Field(None, gt=0, le=1)
    seed: StrictInt | None = Field(None, ge=-(2**63), lt=2**63)
    stop: StrictStr | list[StrictStr] | None = None
    n: StrictInt | None = Field(1, ge=1)
    logprobs: StrictBool | None = None
    presence_penalty: Number | None = None
    frequency_penalty: Number | None = None
    tools: list[Any] | None = None
    response_format: dict[str, Any] | None = None
    foveate: Wishes | None = None

    def refused(self) -> str | None:
        """The name of a field that asks for what this server does not do, or None."""
        format_ = (self.response_format or {}).get("type", "text")
        asks = {
            "n": (self.n or 1) != 1,
            "logprobs": bool(self.logprobs),
            "presence_penalty": bool(self.presence_penalty),
            "frequency_penalty": bool(self.frequency_penalty),
            "tools": bool(self.tools),
            "response_format": format_ != "text",
        }
        return next((name for name, asked in asks.items() if asked), None)
