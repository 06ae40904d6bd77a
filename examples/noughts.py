"""Noughts and crosses: a model without `run`, all of it answers to commands.

    python -m reactor_trio serve examples/noughts.py

Then, in a second terminal (each call is a session of its own, and so a game of its own):

    python -m reactor_trio call ws://127.0.0.1:8080 play square.row=1 square.column=1
    python -m reactor_trio call ws://127.0.0.1:8080 new_game first=nought
    python -m reactor_trio call ws://127.0.0.1:8080 let_computer_play level=beginner
    python -m reactor_trio call ws://127.0.0.1:8080 play square.row=3 square.column=left
"""

from __future__ import annotations

import enum
import random
from typing import Literal

import attrs

from reactor_trio import CommandError, InputField, MessageField, ModelMessage, ReactorModel, connected, event

LINES = [(0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6)]


class Mark(enum.Enum):
    NOUGHT = "nought"
    CROSS = "cross"


@attrs.frozen
class Square:
    row: int = InputField(ge=0, le=2)
    column: int = InputField(ge=0, le=2)


Board = tuple[Mark | None, ...]
OTHER = {Mark.NOUGHT: Mark.CROSS, Mark.CROSS: Mark.NOUGHT}


class Position(ModelMessage):
    """The game as it stands."""

    board: Board = MessageField(description="nine squares, row by row")
    to_move: Mark
    winner: Mark | None
    is_over: bool


class NoughtsAndCrosses(ReactorModel):
    """Play against a friend, or against the computer."""

    @connected
    def on_connect(self) -> None:
        self.new_game()

    @event(description="Begin again")
    def new_game(self, first: Mark = Mark.CROSS) -> Position:
        self.board: Board = (None,) * 9
        self.to_move = first
        return self.position()

    @event(description="Put your mark on a square")
    def play(self, square: Square) -> Position:
        index = 3 * square.row + square.column
        if index not in free(self.board):
            raise CommandError("not_free", "choose another square, or begin a new game")
        return self.move(index)

    # The computer thinks for a while, so in a thread; the next command waits until this handler has returned.
    @event(description="Let the computer make the next move", in_thread=True)
    def let_computer_play(self, level: Literal["beginner", "master"] = "master") -> Position:
        squares = free(self.board)
        if not squares:
            raise CommandError("game_over", "there is nothing left to play")
        random.shuffle(squares)
        if level == "master":
            squares.sort(key=lambda index: value(put(self.board, index, self.to_move), OTHER[self.to_move]))
        return self.move(squares[0])

    def move(self, index: int) -> Position:
        self.board = put(self.board, index, self.to_move)
        self.to_move = OTHER[self.to_move]
        return self.position()

    def position(self) -> Position:
        is_over = not free(self.board)
        return Position(board=self.board, to_move=self.to_move, winner=winner(self.board), is_over=is_over)


def put(board: Board, index: int, mark: Mark) -> Board:
    return (*board[:index], mark, *board[index + 1 :])


def winner(board: Board) -> Mark | None:
    return next((board[a] for a, b, c in LINES if board[a] and board[a] == board[b] == board[c]), None)


def free(board: Board) -> list[int]:
    """The squares that may be played: none once the game is over."""
    return [] if winner(board) else [index for index, mark in enumerate(board) if mark is None]


def value(board: Board, mark: Mark) -> int:
    """1 if `mark`, which moves next, can win; 0 for a draw; -1 if the other mark can win."""
    if winner(board):
        return -1  # by the other's last move
    return max((-value(put(board, index, mark), OTHER[mark]) for index in free(board)), default=0)
