"""One board with one honest submission on it, shared by the tests of a session."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.sandbox import Sandbox
from harness.submit.add import add
from harness.suites.suite import Suite
from tests.harness.submit import stage
from zoo.errors import UserError


@dataclass(frozen=True)
class Scene:
    """The tiny suite, a board with the submission `honest`, its bundle, and a bundle of the images of `pictures`."""

    suite: Suite
    board: Path
    honest: Path
    pictures: Path

    def copy_board(self, place: Path) -> Path:
        """Return a copy of the board to write to."""
        return Path(shutil.copytree(self.board, place / "boards"))


@pytest.fixture(scope="session")
def one_sandbox() -> Iterator[None]:
    """Let all sandboxes of a kind be one, as to start one takes seconds; tests of the walls themselves start their own."""
    started: dict[str, Sandbox] = {}
    try:
        started["auto"] = Sandbox().__enter__()
    except UserError as error:
        pytest.skip(str(error))

    free = threading.Lock()

    class Shared(Sandbox):
        def __enter__(self) -> Sandbox:
            free.acquire()
            if self.choice not in started:
                started[self.choice] = Sandbox(self.choice).__enter__()
            shared = started[self.choice]
            if shared._process is None or shared._process.poll() is not None:
                shared = started[self.choice] = Sandbox(self.choice).__enter__()
            shared.limits = self.limits
            return shared

        def __exit__(self, *error: Any) -> None:
            """Stay open for the next."""
            free.release()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.submit.make.Sandbox", Shared)
        patch.setattr("harness.submit.conformance.Sandbox", Shared)
        yield
    for shared in started.values():
        shared.close()


@pytest.fixture(scope="session")
def scene(one_sandbox: None, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    place = tmp_path_factory.mktemp("scene")
    tiny = stage.suite(place)
    honest = stage.bundle(place, tiny, "honest")
    board = place / "boards"
    add(honest, board, suite=tiny, walls=stage.WALLS)
    other = stage.SIGN.replace("eps / 2", "eps / 3")
    parts = stage.unpack(stage.bundle(place, tiny, "pictures", other))
    del parts["source/attack.py"]
    parts["source/submission.yaml"] = parts["source/submission.yaml"].replace(b"kind: code", b"kind: images")
    return Scene(tiny, board, honest, stage.repack(parts, place / "images.zip"))
