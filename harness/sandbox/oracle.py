"""The substitute in a process of its own: submitted code asks it for logits and gradients, and we count what it asks.

The code's process (`Remote`) has neither weights nor modules, so it can miscount no pass, alter nothing and recognise no decoy by
its weights. The other process (`serve`) runs our code alone. They speak in lock-step over two pipes, floats as raw bytes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.sandbox import frames

if TYPE_CHECKING:
    from harness.substitutes import Crafter


class StoppedError(RuntimeError):
    """The other side is gone."""


def read_exactly(descriptor: int, count: int) -> bytes:
    """Return `count` bytes of a pipe.

    Raises:
        StoppedError: it ends before that.
    """
    parts = bytearray()
    while len(parts) < count:
        chunk = os.read(descriptor, min(1 << 20, count - len(parts)))
        if not chunk:
            raise StoppedError("the substitute does not answer any more: its time or its memory is used up")
        parts += chunk
    return bytes(parts)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all bytes into a pipe."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BrokenPipeError as error:
            raise StoppedError("the substitute does not answer any more: its time or its memory is used up") from error


def receive(descriptor: int, most: int) -> tuple[dict[str, Any], bytes]:
    """Return a message whose body has at most `most` bytes."""
    head, body = frames.lengths(read_exactly(descriptor, frames.HEAD.size), most)
    return frames.decode_head(read_exactly(descriptor, head)), read_exactly(descriptor, body)


def packed(tensors: Sequence[Tensor]) -> tuple[list[list[int]], bytes]:
    """Return the shapes and the bytes of float32 tensors."""
    arrays = [t.detach().to(torch.float32).contiguous().numpy() for t in tensors]
    return [list(a.shape) for a in arrays], b"".join(a.tobytes() for a in arrays)


def unpacked(shapes: Sequence[Sequence[int]], body: bytes) -> list[Tensor]:
    """Return the tensors that bytes and shapes stand for.

    Raises:
        ValueError: they do not fit.
    """
    sizes = [int(np.prod(shape, dtype=np.int64)) for shape in shapes]
    if any(n < 0 for shape in shapes for n in shape) or 4 * sum(sizes) != len(body):
        raise ValueError("shapes and bytes do not fit")
    flat = torch.from_numpy(np.frombuffer(body, dtype=np.float32).copy())
    return [part.view(*shape) for part, shape in zip(torch.split(flat, sizes), shapes, strict=True)]


class Oracle:
    """Our side: runs the passes that are asked for, keeps their graphs until they are let go, and counts."""

    def __init__(self, model: Crafter) -> None:
        self.model = model
        self.counts = {"forwards": 0, "backwards": 0}
        self._kept: dict[int, tuple[list[Tensor], list[Tensor], int]] = {}
        self._next = 0
        for network in model.networks():
            network.register_forward_hook(self._count)

    def _count(self, _module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            self.counts["forwards"] += len(output)

    def answer(self, head: dict[str, Any], body: bytes) -> bytes | None:
        """Return the answer to a request; None when it takes none."""
        for token in head.get("drop", ()):
            self._kept.pop(token, None)
        what = head["do"]
        if what == "begin_batch":
            self.model.begin_batch()
        elif what == "begin_iteration":
            self.model.begin_iteration(int(head["t"]))
        elif what == "begin_forward":
            self.model.begin_forward()
        elif what in ("logits", "features"):
            return self._forward(what, head, body)
        elif what == "backward":
            return self._backward(head, body)
        else:
            raise ValueError("an unknown request")
        return None

    def _forward(self, what: str, head: dict[str, Any], body: bytes) -> bytes:
        (z,) = unpacked([head["shape"]], body)
        before = self.counts["forwards"]
        with torch.set_grad_enabled(bool(head["grad"] or head["tail"])):
            z.requires_grad_(bool(head["grad"]))
            logits, features = self.model.features(z) if what == "features" else (self.model(z), ())
        outputs = [logits, *features]
        shapes, data = packed(outputs)
        token = 0
        if head["grad"] or head["tail"]:
            token = self._next = self._next + 1
            roots, leaves = (outputs, [z]) if head["grad"] else ([logits], list(features))
            self._kept[token] = (roots, leaves, self.counts["forwards"] - before)
        return frames.encode({"token": token, "shapes": shapes}, data)

    def _backward(self, head: dict[str, Any], body: bytes) -> bytes:
        roots, leaves, passes = self._kept[head["token"]]
        given = unpacked(head["shapes"], body)
        chosen = [roots[place] for place in head["places"]]
        # the gradient of <root, given> by root is `given` to the bit; torch imports for half a second before it takes a `given`
        products = torch.stack([(root * g).sum() for root, g in zip(chosen, given, strict=True)])
        found = torch.autograd.grad(products.sum(), leaves, retain_graph=True, allow_unused=True)
        self.counts["backwards"] += passes
        shapes, data = packed([torch.zeros_like(leaf) if g is None else g for g, leaf in zip(found, leaves, strict=True)])
        return frames.encode({"shapes": shapes}, data)


def serve(model: Crafter, seed: int, requests: int, answers: int, most: int) -> dict[str, int]:
    """Answer requests until the other side hangs up, or breaks the rules of the line; return what was counted."""
    oracle = Oracle(model)
    with model.session(seed):
        while True:
            try:
                head, body = receive(requests, most)
            except (StoppedError, frames.FrameError):
                return oracle.counts
            try:
                answer = oracle.answer(head, body)
            except Exception as error:  # a pass that fails is the code's to hear of
                answer = frames.encode({"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})
            if answer is not None:
                try:
                    write_all(answers, answer)
                except StoppedError:
                    return oracle.counts


class _Ticket:
    """Stands for a graph that the other side keeps, and lets it go."""

    def __init__(self, dropped: list[int], token: int) -> None:
        self.token = token
        self._dropped = dropped

    def __del__(self) -> None:
        self._dropped.append(self.token)


class _Pass(torch.autograd.Function):
    """Outputs of the substitute for images."""

    @staticmethod
    def forward(ctx: Any, remote: Remote, what: str, z: Tensor) -> Any:
        """Ask for the outputs, and keep the ticket of their graph."""
        ctx.remote, outputs = remote, None
        ctx.ticket, outputs = remote.ask(what, z, grad=True)
        ctx.set_materialize_grads(False)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        """Ask for the gradient with respect to the images."""
        (found,) = ctx.remote.back(ctx.ticket, grads)
        return None, None, found


class _Tail(torch.autograd.Function):
    """Logits as a function of the features: what follows the feature layers."""

    @staticmethod
    def forward(ctx: Any, remote: Remote, ticket: _Ticket, logits: Tensor, *features: Tensor) -> Any:
        """Return the logits, which are known."""
        ctx.remote, ctx.ticket = remote, ticket
        return logits.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        """Ask for the gradient with respect to the features."""
        return None, None, None, *ctx.remote.back(ctx.ticket, grads)


class Sealed(nn.Module):
    """A network of which nothing can be seen; attacks that work inside the substitute need `internals: true`."""

    def __init__(self, remote: Remote) -> None:
        super().__init__()
        self.seal = nn.Parameter(torch.zeros(0), requires_grad=False)
        self._remote = (remote,)
        self.eval()

    def forward(self, z: Tensor) -> Tensor:
        """Return the logits."""
        return self._remote[0](z)


class Remote:
    """The code's side: a model as attacks know it, whose passes run elsewhere."""

    def __init__(self, requests: int, answers: int, per_forward: bool, most: int) -> None:
        self.per_forward = per_forward
        self.module = Sealed(self)
        self._line = (requests, answers, most)
        self._dropped: list[int] = []

    def __call__(self, z: Tensor) -> Tensor:
        """Return the logits."""
        if torch.is_grad_enabled() and z.requires_grad:
            logits: Tensor = _Pass.apply(self, "logits", z)[0]  # type: ignore[no-untyped-call]
            return logits
        return self.ask("logits", z)[1][0]

    def features(self, z: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return logits and features, part of one graph; without a gradient of the images, the graph begins at the features."""
        if torch.is_grad_enabled() and z.requires_grad:
            logits, *features = _Pass.apply(self, "features", z)  # type: ignore[no-untyped-call]
            return logits, tuple(features)
        ticket, (logits, *features) = self.ask("features", z, tail=torch.is_grad_enabled())
        if not torch.is_grad_enabled():
            return logits, tuple(features)
        leaves = tuple(f.requires_grad_() for f in features)
        return _Tail.apply(self, ticket, logits, *leaves), leaves  # type: ignore[no-untyped-call]

    def begin_batch(self) -> None:
        """Restart the schedule."""
        self._say({"do": "begin_batch"})

    def begin_iteration(self, t: int) -> None:
        """Take the state of iteration t."""
        self._say({"do": "begin_iteration", "t": int(t)})

    def begin_forward(self) -> None:
        """Announce a forward pass."""
        self._say({"do": "begin_forward"})

    def networks(self) -> tuple[nn.Module, ...]:
        """Return a network of which nothing can be seen."""
        return (self.module,)

    def ask(self, what: str, z: Tensor, grad: bool = False, tail: bool = False) -> tuple[_Ticket, list[Tensor]]:
        """Ask for a forward pass; return the ticket of its graph and the outputs.

        Raises:
            TypeError: the images are not float32.
        """
        if z.dtype != torch.float32 or z.device.type != "cpu":
            raise TypeError(f"the substitute takes float32 images on the CPU, not {z.dtype} on {z.device.type}")
        (shape,), data = packed([z])
        head, body = self._exchange({"do": what, "shape": shape, "grad": grad, "tail": tail}, data)
        return _Ticket(self._dropped, head["token"]), unpacked(head["shapes"], body)

    def back(self, ticket: _Ticket, grads: Sequence[Tensor | None]) -> list[Tensor]:
        """Ask for the gradients of a pass."""
        given = [(place, g) for place, g in enumerate(grads) if g is not None]
        shapes, data = packed([g for _, g in given])
        asked = {"do": "backward", "token": ticket.token, "places": [place for place, _ in given], "shapes": shapes}
        head, body = self._exchange(asked, data)
        return unpacked(head["shapes"], body)

    def _say(self, head: dict[str, Any], body: bytes = b"") -> None:
        dropped, self._dropped[:] = list(self._dropped), []
        write_all(self._line[0], frames.encode({**head, "drop": dropped}, body))

    def _exchange(self, head: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        self._say(head, body)
        found, data = receive(self._line[1], self._line[2])
        if "error" in found:
            raise RuntimeError(str(found["error"]))
        return found, data
