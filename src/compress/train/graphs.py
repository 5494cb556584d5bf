"""Steps recorded once and replayed: on a GPU a small network is bound by the launches of its some 500 kernels a step,
which a CUDA graph launches as one.

Nguyen, Carilli, Eryilmaz et al., "Accelerating PyTorch with CUDA Graphs", PyTorch blog, 2021. A recorded step reads
and writes fixed addresses: batches are copied to where the first one lay, the learning rate is a tensor, weights,
momenta, statistics and sums are changed in place. It is recorded anew when any of these has moved (as masks do, when
they grow) or the objective has come to another phase. Batches of another size are trained on step by step.

Recording runs the step some times. Whatever that changes is put back, so the weights are those that the same steps
give one by one, to float noise.
"""

import logging
import random
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from compress.train.step import Batch

log = logging.getLogger(__name__)

WARM_UPS = 3  # steps before one is recorded: libraries choose their kernels and take their memory then
Action = Callable[[], None]


class CannotRecordError(Exception):
    """A step does what a graph cannot replay; says what."""


class Recorder(Protocol):
    def __call__(self, action: Action) -> Action:
        """What does again, on the same tensors, what `action` does on the device. Runs `action` some times.

        Raises:
            CannotRecordError: it waits for a value of the device, or does something else that no graph can hold.
        """


def lacking(device: torch.device, world_size: int) -> str | None:
    """What a training on so many devices lacks to record its steps; None: nothing."""
    if device.type != "cuda":
        return f"needs a CUDA device, not {device.type}"
    return None if world_size == 1 else f"needs a training on one device, not on {world_size}"


@dataclass(frozen=True)
class CudaGraphs:
    """Records a step as a CUDA graph."""

    device: torch.device

    def __call__(self, action: Action) -> Action:
        with torch.cuda.device(self.device):
            current = torch.cuda.current_stream()
            aside = torch.cuda.Stream()
            aside.wait_stream(current)
            try:
                with torch.cuda.stream(aside):
                    for _ in range(WARM_UPS - 1):
                        action()
                    with _no_waiting():  # told before the recording, of which an error is hard to recover from
                        action()
                current.wait_stream(aside)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.stream(current), torch.cuda.graph(graph):
                    action()
            except RuntimeError as error:
                raise CannotRecordError(str(error).partition("\n")[0]) from error
        return graph.replay


@contextmanager
def _no_waiting() -> Iterator[None]:
    """Within the block, what waits for the device raises RuntimeError."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this is a prototype
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)


class Replayed:
    """Steps of a training, replayed where that is possible. `step` is called with a batch, its size and the time in
    epochs; `changed` are the tensors that it changes and reads besides the batch, wherever they are now; `phase` is
    equal for times between which the step differs by its batch and by those tensors only.

    With `required`, a step that cannot be recorded is an error, not a warning.
    """

    def __init__(
        self,
        step: Callable[[Batch, int, float], None],
        recorder: Recorder,
        changed: Callable[[], Sequence[Tensor]],
        phase: Callable[[float], Hashable],
        *,
        size: int,
        required: bool,
        called: str,
    ) -> None:
        self._step, self._recorder, self._changed, self._phase = step, recorder, changed, phase
        self._size, self._required, self._called = size, required, called
        self._gave_up = False
        self._replay: Action | None = None
        self._inputs: Batch = ()
        self._recorded_as: Hashable = None
        self._places: Hashable = None

    def begin_epoch(self) -> None:
        self._places = tuple(tensor.data_ptr() for tensor in self._changed())

    def __call__(self, batch: Batch, size: int, at: float) -> None:
        """
        Raises:
            CannotRecordError: with `required`.
        """
        if self._gave_up or len(batch[1]) != self._size:
            self._step(batch, size, at)
            return
        state = (self._places, self._phase(at), tuple(part.shape for part in batch))
        if self._replay is None or self._recorded_as != state:
            self._record(batch, size, at)
            self._recorded_as = (self._places, *state[1:])
        if self._replay is None:
            self._step(batch, size, at)
            return
        for place, part in zip(self._inputs, batch, strict=True):
            place.copy_(part)
        self._replay()

    def _record(self, batch: Batch, size: int, at: float) -> None:
        self._replay = None  # frees its memory
        self._inputs = tuple(part.clone() for part in batch)
        changed = self._changed()
        before = [tensor.detach().clone() for tensor in changed]
        devices = [self._inputs[0].device] if self._inputs[0].device.type == "cuda" else []

        def action() -> None:
            random_before = _random_on_host()
            self._step(self._inputs, size, at)
            if _random_on_host() != random_before:
                raise CannotRecordError("it draws random numbers on the CPU, which would be the same at every step")

        with torch.random.fork_rng(devices=devices):
            try:
                self._replay = self._recorder(action)
            except CannotRecordError as error:
                if self._required:
                    raise
                self._gave_up = True
                log.info("%s: steps one by one, not as a CUDA graph: %s", self._called, error)
        known = {id(tensor): old for tensor, old in zip(changed, before, strict=True)}
        with torch.no_grad():
            for tensor in self._changed():
                tensor.copy_(known[id(tensor)]) if id(tensor) in known else tensor.zero_()  # new sums
        self.begin_epoch()


def _random_on_host() -> Any:
    """The states of the generators that the networks of others may draw from."""
    numbers: Any = np.random.get_state(legacy=True)
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), numbers[1].tobytes(), numbers[2:]
