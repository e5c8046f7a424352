"""The predicted classes of one model on the images of a suite, small in memory and on disk."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic_core import core_schema

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler

_TYPE = np.dtype("<i2")
MAX_IMAGES = 10_000_000
"""No suite comes near it; a damaged or hostile file cannot make us unpack more."""


class Predictions:
    """Class indices in the order of the images; immutable and hashable by value.

    In memory 2 bytes an image. In JSON the text base64(zlib(int16, little-endian)): about 1 byte an image, and a board
    of thousands of rows loads in seconds. Labels are kept in the same way.
    """

    __slots__ = ("raw",)
    raw: bytes

    def __init__(self, values: ArrayLike | Iterable[int]) -> None:
        array = np.asarray(values if hasattr(values, "__array__") else list(values))  # type: ignore[arg-type]
        if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
            raise ValueError(f"predictions are one list of whole numbers, not {array.dtype} of shape {array.shape}")
        if array.size and (array.min() < 0 or array.max() > np.iinfo(_TYPE).max):
            raise ValueError(f"predictions are class indices from 0 to {np.iinfo(_TYPE).max}")
        object.__setattr__(self, "raw", array.astype(_TYPE).tobytes())

    @classmethod
    def from_raw(cls, raw: bytes) -> Predictions:
        """Make predictions from int16 little-endian bytes."""
        if len(raw) % _TYPE.itemsize:
            raise ValueError("predictions end in the middle of a number")
        made = object.__new__(cls)
        object.__setattr__(made, "raw", raw)
        if raw and int(made.array.min()) < 0:
            raise ValueError("predictions are class indices from 0 up")
        return made

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("predictions are immutable")

    def __reduce__(self) -> tuple[Any, ...]:
        return (Predictions.from_raw, (self.raw,))

    @property
    def array(self) -> NDArray[np.int16]:
        """The classes as a read-only array of shape (images,)."""
        return np.frombuffer(self.raw, dtype=_TYPE)

    def __len__(self) -> int:
        return len(self.raw) // _TYPE.itemsize

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Predictions) and self.raw == other.raw

    def __hash__(self) -> int:
        return hash(self.raw)

    def __repr__(self) -> str:
        head = ", ".join(str(value) for value in self.array[:8])
        return f"Predictions([{head}{', ...' if len(self) > 8 else ''}], images={len(self)})"

    def encode(self) -> str:
        """Return the text that stands for these predictions in a file."""
        return base64.b64encode(zlib.compress(self.raw, 9)).decode("ascii")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            _validate,
            serialization=core_schema.plain_serializer_function_ser_schema(cls.encode, when_used="always"),
        )


def _validate(value: object) -> Predictions:
    if isinstance(value, Predictions):
        return value
    if isinstance(value, str):
        return _decode(value)
    if isinstance(value, (list, tuple, np.ndarray)):
        return Predictions(value)
    raise ValueError("predictions are a base64 text or a list of class indices")


@lru_cache(maxsize=256)
def _decode(text: str) -> Predictions:
    """Decode a file's text. Cached because all rows of a board repeat their targets' clean predictions."""
    try:
        packed = base64.b64decode(text, validate=True)
        unpacker = zlib.decompressobj()
        raw = unpacker.decompress(packed, MAX_IMAGES * _TYPE.itemsize)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"damaged predictions, not base64 of zlib ({error})") from error
    if not unpacker.eof or unpacker.unused_data:
        raise ValueError("damaged predictions: they are cut short, too long, or followed by something else")
    return Predictions.from_raw(raw)
