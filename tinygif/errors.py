"""`TinygifError` is a mistake the user can fix; other errors keep their traceback. Lesson 15."""

import os
import sys
from collections.abc import Callable


class TinygifError(ValueError):
    """A mistake that the user can fix: the message says what was expected, what came, what to do.

    Commands print it as one sentence and exit with code 2. Mistakes in code (a wrong shape, say)
    are other exceptions, and are shown with their traceback.
    """


def expect(fits: bool, what: str, got: object) -> None:
    """Raise TinygifError unless `fits`, with a sentence of what was expected and what came.

    The middle of a long `got` is left out: at its end there may be advice.
    """
    if not fits:
        text = str(got)
        text = text if len(text) <= 200 else f"{text[:100]}...{text[-100:]}"
        raise TinygifError(f"expected {what}, got {text}")


def check_range(name: str, value: object, low: int | float, high: int | float = 10**9) -> None:
    """Refuse a number, or a tuple with a number, outside of [low, high]. None is accepted."""
    numbers = value if isinstance(value, tuple) else (value,)
    fits = all(number is None or low <= number <= high for number in numbers)
    expect(fits, f"{name} from {low} to {high}", value)


def check_limits(config: object, limits: dict[str, tuple[int | float, int | float]]) -> None:
    """`check_range` for those fields of a config that `limits` names."""
    for name, (low, high) in limits.items():
        if hasattr(config, name):
            check_range(name, getattr(config, name), low, high)


def run_command(name: str, main: Callable[[], None], stopped: str = "stopped") -> None:
    """Run a script's `main`; Ctrl-C and a `TinygifError` end it with a sentence."""
    use_fast_cpu_kernels()
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(stopped)
    except TinygifError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(2)


def use_fast_cpu_kernels() -> None:
    """Let Eigen compute matrix products and convolutions on CPUs, before JAX starts.

    With YNNPACK, JAX's default, a training step takes a fifth longer. A choice that is already in
    XLA_FLAGS is kept.
    """
    import jax

    flag, flags = "--xla_cpu_experimental_ynn_fusion_type", os.environ.get("XLA_FLAGS", "")
    # later versions of JAX may not know the flag, and would abort
    if flag not in flags and jax.__version_info__ < (0, 13):
        os.environ["XLA_FLAGS"] = f"{flags} {flag}=reduce".strip()
