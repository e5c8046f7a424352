import base64
import pickle
import zlib

import numpy as np
import pytest

from harness.records.predictions import Predictions
from zoo.registry.entry import Record


class Holder(Record):
    p: Predictions


def holder(text: str) -> str:
    return f'{{"p": "{text}"}}'


@pytest.mark.parametrize("values", [[], [0], [3, 1, 4, 1, 5], [32767, 0], list(range(1000))])
def test_round_trip_through_json(values: list[int]) -> None:
    made = Holder(p=Predictions(values))
    back = Holder.model_validate_json(made.model_dump_json())
    assert back == made and back.p.array.tolist() == values and len(back.p) == len(values)


def test_what_is_on_disk_is_zlib_of_little_endian_int16() -> None:
    text = Predictions([1, 258]).encode()
    assert zlib.decompress(base64.b64decode(text)) == b"\x01\x00\x02\x01"


def test_accepts_arrays_and_tuples() -> None:
    assert Predictions(np.array([1, 2], dtype=np.int64)) == Predictions((1, 2)) == Predictions(iter([1, 2]))
    assert hash(Predictions([1])) == hash(Predictions([1])) and Predictions([1]) != Predictions([2])
    assert Holder.model_validate({"p": [1, 2]}).p == Predictions([1, 2])
    assert pickle.loads(pickle.dumps(Predictions([7]))) == Predictions([7])
    assert repr(Predictions(range(9))) == "Predictions([0, 1, 2, 3, 4, 5, 6, 7, ...], images=9)"


@pytest.mark.parametrize("values", [[-1], [32768], [0.5], [[1, 2]], ["a"]])
def test_refuses_what_is_no_class(values: list[object]) -> None:
    with pytest.raises(ValueError, match="predictions are"):
        Predictions(values)  # type: ignore[arg-type]


def test_is_immutable() -> None:
    made = Predictions([1, 2])
    with pytest.raises(AttributeError):
        made.raw = b""
    with pytest.raises(ValueError, match="read-only"):
        made.array[0] = 5


GOOD = Predictions([1, 2, 3]).encode()


@pytest.mark.parametrize(
    "text",
    [
        "not base64!",
        base64.b64encode(b"not zlib").decode(),
        base64.b64encode(base64.b64decode(GOOD)[:-2]).decode(),
        base64.b64encode(base64.b64decode(GOOD) + b"more").decode(),
        base64.b64encode(zlib.compress(b"\x01\x00\x02")).decode(),
        base64.b64encode(zlib.compress(b"\xff\xff")).decode(),
    ],
)
def test_damaged_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="predictions"):
        Holder.model_validate_json(holder(text))


def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.records.predictions.MAX_IMAGES", 1000)
    bomb = base64.b64encode(zlib.compress(bytes(4_000))).decode()
    with pytest.raises(ValueError, match="too long"):
        Holder.model_validate_json(holder(bomb))
