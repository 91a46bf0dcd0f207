"""Check of exercise 08."""

import numpy as np


def expected(levels: int) -> list[str]:
    """What is called, in order, with the side of the image it is called on, from side 16."""
    sides = [16 // 2**i for i in range(levels)]
    down = [call for side in sides for call in (f"block {side}", f"halve {side}")][:-1]
    up = [call for side in sides[::-1] for call in (f"block {side}", f"double {side}")][:-1]
    return [*down, f"middle {sides[-1]}", *up]


def check(exercise) -> None:
    """Raise an error that says what is wrong with `exercise.unet`."""
    x = np.random.default_rng(0).normal(size=(16, 16))
    for levels in (1, 2, 3, 4):
        calls, answers = [], []

        def layer(name, change, calls=calls, answers=answers):
            def call(x):
                calls.append((f"{name} {len(x)}", np.array(x)))
                answers.append(change(x))
                return answers[-1].copy()

            return call

        got = exercise.unet(
            x.copy(), levels,
            block=layer("block", lambda x: 2 * x + 1), middle=layer("middle", lambda x: x**2),
            halve=layer("halve", lambda x: x.reshape(len(x) // 2, 2, -1, 2).mean((1, 3))),
            double=layer("double", lambda x: x.repeat(2, 0).repeat(2, 1)),
        )  # fmt: skip
        names, order = [name for name, _ in calls], expected(levels)
        assert names == order, (
            f"{levels} levels: expected the calls {', '.join(order)}; got {', '.join(names)}"
        )
        middle = names.index(f"middle {16 // 2 ** (levels - 1)}")
        for i in range(levels):
            side = 16 // 2**i
            skip = answers[names.index(f"block {side}")]
            up = names.index(f"block {side}", middle)
            added = calls[up][1] - answers[up - 1]
            assert np.allclose(added, skip), (
                f"{levels} levels: expected the block of side {side} on the way up to get what "
                "came from below plus the skip: what that level's block on the way down answered"
            )
        assert np.shape(got) == x.shape and np.array_equal(got, answers[-1]), (
            f"{levels} levels: expected the answer of the last block to be returned"
        )
