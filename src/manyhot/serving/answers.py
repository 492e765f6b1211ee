"""What the server answers, as pydantic models: its OpenAPI description is made of them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from manyhot.serving.parsing import FIELD, EncodedPictures


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Fault(_Answer):
    """Why a request is refused."""

    detail: str


class PictureFault(_Answer):
    """Why one picture of several is not scored."""

    status: int = Field(description="the status it would have had alone: 413 too many pixels, 415 no sound picture")
    detail: str


class ScoredPicture(_Answer):
    """One picture; either `error` or all the others are null."""

    name: str = Field(description="as it was sent; else 'image', in a request of several 'image 0', 'image 1' …")
    width: int | None = Field(description="pixels, as displayed")
    height: int | None = Field(description="pixels, as displayed")
    scores: dict[str, float] | None = Field(
        description="0…1 by class, calibrated where the model has a calibration; as `manyhot predict` gives them"
    )
    labels: list[str] | None = Field(description="classes whose score exceeds its threshold, in the model's order")
    uncalibrated: dict[str, float] | None = Field(description="scores before calibration; null where there is none")
    error: PictureFault | None


class UsedModel(_Answer):
    """Which model an answer is by."""

    name: str = Field(description="of its recipe")
    sha256: str = Field(description="of its weights")
    calibrated: bool


class Predicted(_Answer):
    """Pictures in the order in which they were sent."""

    model: UsedModel
    pictures: list[ScoredPicture]


class ModelClass(_Answer):
    """A class, and the score above which it is predicted."""

    name: str
    threshold: float


class Accepted(_Answer):
    """Bounds of the server."""

    body: int = Field(description="bytes of a request")
    pixels: int = Field(description="of a picture")
    pictures: int = Field(description="of a request")


class DescribedModel(UsedModel):
    """The model, and what may be sent to it."""

    task: Literal["multilabel", "multiclass"]
    input: str = Field(description="what of a picture is looked at")
    classes: list[ModelClass]
    limits: Accepted


class State(_Answer):
    """Whether the server lives, or takes pictures."""

    status: Literal["ok", "stopping"]


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema whose definitions stand where they are used: OpenAPI keeps its own elsewhere."""
    known = schema.pop("$defs")

    def resolve(one: Any) -> Any:
        if isinstance(one, dict):
            return (
                resolve(known[one["$ref"].rpartition("/")[2]])
                if "$ref" in one
                else {key: resolve(value) for key, value in one.items()}
            )
        return [resolve(item) for item in one] if isinstance(one, list) else one

    return dict(resolve(schema))


_FILE = {"type": "string", "format": "binary"}

PICTURES_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/octet-stream": {"schema": _FILE},
        "image/*": {"schema": _FILE},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {FIELD: {"type": "array", "items": _FILE, "minItems": 1}},
                "required": [FIELD],
                "additionalProperties": False,
            }
        },
        "application/json": {"schema": _inlined(EncodedPictures.model_json_schema())},
    },
}
"""The request body of the places that take pictures, for OpenAPI."""

REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Fault, "description": words}
    for status, words in {
        400: "The body breaks off, or is no form.",
        401: "The token is missing or wrong.",
        403: "The page of another site sends this.",
        408: "The body did not arrive in time.",
        413: "Too many bytes, pictures or pixels.",
        415: "No picture, a damaged one, or another content type.",
        422: "Unknown fields, or none.",
        503: "Too many pictures wait; Retry-After says when to try again.",
    }.items()
}
"""Refusals of the places that take pictures, for OpenAPI."""
