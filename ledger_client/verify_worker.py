"""A process that checks signatures for another: questions come on standard input, answers go to standard output (`verify_slice`).

Started by `verify_pool` as `python -P -m srwan.ledger_client.verify_worker`. It holds no secret, opens nothing and ends when its input
does: with its parent, however that ends. Anything that is not a whole question of bounded size ends it too; the parent does the work then.

Trap: whatever else is printed on standard output would be taken for an answer; nothing here prints.

Not here: what is checked (`record`). It imports no I/O: the two pipes are given.
"""

from __future__ import annotations

import gc
import sys
from typing import BinaryIO

from srwan.ledger_client.verify_slice import FRAME_BYTES_MAX, LENGTH_BYTES, answer_of

__all__ = ["serve"]


def serve(questions: BinaryIO, answers: BinaryIO) -> None:
    """Answer until the questions end.

    Args:
        questions: buffered, so that a read returns all that was asked for, or what came before the end.
        answers: unbuffered, so that nothing is left to be written when nobody reads any more.
    """
    while len(length := questions.read(LENGTH_BYTES)) == LENGTH_BYTES:
        size = int.from_bytes(length, "big")
        if size > FRAME_BYTES_MAX:
            return
        question = questions.read(size)
        if len(question) < size:
            return
        left = memoryview(answer_of(question))
        while left:
            try:
                left = left[answers.write(left) :]
            except BrokenPipeError:
                return


if __name__ == "__main__":
    gc.freeze()  # what was imported is never looked through again
    with open(sys.stdout.fileno(), "wb", buffering=0, closefd=False) as unbuffered:
        serve(sys.stdin.buffer, unbuffered)
