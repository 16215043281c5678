"""The recurrent controller of Zoph and Le 2017 (ICLR), "Neural architecture search with RL".

A two-layer LSTM takes the decisions of a space one after the other; each choice is the next step's input
(section 3.1).  Deviations: decisions are those of any space, each with its own softmax; one that does not
apply is not drawn, adds nothing to the probability, and the recurrent state passes it by.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from search import torch_state
from search.space import SearchSpace

HIDDEN = 35
LAYERS = 2
INITIAL = 0.08
"""Units, layers and range of the uniform initial weights: section 4.1 of the paper."""

Choices = tuple[int, ...]


class Controller(nn.Module):
    """A distribution over the choices of a space.

    Args:
        space: Whose decisions are taken.
        seed: Of the initial weights.
    """

    def __init__(self, space: SearchSpace, seed: int) -> None:
        super().__init__()
        self._space = space
        self._options = [len(decision.options) for decision in space.decisions]
        with torch_state.seeded(seed):  # layers draw weights from the process's generator
            self.cells = nn.ModuleList(nn.LSTMCell(HIDDEN, HIDDEN) for _ in range(LAYERS))
            self.heads = nn.ModuleList(nn.Linear(HIDDEN, count) for count in self._options)
            self.choices = nn.ModuleList(nn.Embedding(count, HIDDEN) for count in self._options)
            self.first = nn.Parameter(torch.zeros(HIDDEN))
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -INITIAL, INITIAL, generator=generator)

    def draw(self, rng: np.random.Generator, rows: int) -> list[Choices]:
        """Random choices ``(rows,)``, 0 for decisions that do not apply; changes nothing."""
        with torch.no_grad(), one_thread():
            walk = _Walk(self, rows)
            for index in range(len(self._options)):
                logits = walk.logits(index)
                shares = torch.softmax(logits.double(), dim=1).cumsum(dim=1).numpy()
                drawn = (rng.random(rows)[:, None] > shares[:, :-1]).sum(axis=1)
                walk.take(index, [int(choice) for choice in drawn])
        return [tuple(row) for row in walk.rows]

    def log_probabilities(self, choices: Sequence[Choices]) -> Tensor:
        """Log-probability of each row of choices under the current weights [nats], shape ``(rows,)``."""
        return self.judge(choices)[0]

    def judge(self, choices: Sequence[Choices]) -> tuple[Tensor, Tensor]:
        """Log-probability of each row of choices, and the entropy of the decisions on its way [nats].

        The entropy of a row is the sum over the decisions that apply, each given those before it; over draws
        its mean is the entropy of the distribution.  Both have shape ``(rows,)``.
        """
        walk = _Walk(self, len(choices))
        total, entropy = torch.zeros(len(choices)), torch.zeros(len(choices))
        for index in range(len(self._options)):
            logs = torch.log_softmax(walk.logits(index), dim=1)
            column = [row[index] for row in choices]
            chosen = logs[torch.arange(len(column)), torch.tensor(column)]
            applies = walk.take(index, column)
            total = total + torch.where(applies, chosen, torch.zeros(()))
            entropy = entropy - torch.where(applies, (logs.exp() * logs).sum(dim=1), torch.zeros(()))
        return total, entropy


class _Walk:
    """Decisions taken so far, row by row, and the recurrent state that they led to."""

    def __init__(self, controller: Controller, rows: int) -> None:
        self._net = controller
        self.rows: list[list[int]] = [[] for _ in range(rows)]
        self._input = controller.first.expand(rows, -1)
        zero = torch.zeros(rows, HIDDEN)
        self._state = [(zero, zero) for _ in controller.cells]
        self._stepped = self._state

    def logits(self, index: int) -> Tensor:
        """Of the options of a decision, shape ``(rows, options)``."""
        out = self._input
        self._stepped = []
        for cell, state in zip(self._net.cells, self._state, strict=True):
            hidden, memory = cell(out, state)
            self._stepped.append((hidden, memory))
            out = hidden
        logits: Tensor = self._net.heads[index](out)
        return logits

    def take(self, index: int, column: Sequence[int]) -> Tensor:
        """Appends a choice to every row; returns for which of them the decision applies, ``(rows,)``."""
        space = self._net._space
        conditional = bool(space.decisions[index].only_if)
        applies = [not conditional or space.applies(index, row) for row in self.rows]
        for row, choice, applying in zip(self.rows, column, applies, strict=True):
            row.append(choice if applying else 0)
        mask = torch.tensor(applies)
        keep = mask[:, None]
        embedded = self._net.choices[index](torch.tensor([row[-1] for row in self.rows]))
        self._input = torch.where(keep, embedded, self._input)
        self._state = [
            (torch.where(keep, new[0], old[0]), torch.where(keep, new[1], old[1]))
            for new, old in zip(self._stepped, self._state, strict=True)
        ]
        return mask


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread: such small products are slower on more, and sums keep one order."""
    with torch_state.LOCK:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)
