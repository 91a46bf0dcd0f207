"""A row for lessons/RECORDS.md: train three seeds, judge them, and say whether they clear the bar.

    python tests/record.py                          # the default run
    python tests/record.py --steps 800 --width 48   # any flags of train.py

The bar: 90% of the digits and 95% of the directions right, read strictly, with p < 0.01 that three
runs of this kind are no better than it. What counts is the work, in TFLOP, codec included; minutes
depend on the machine. A run that was stopped goes on; for other flags, delete runs/record-*.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from scipy.stats import binom

ROOT = Path(__file__).parents[1]
BAR = {"digit": 90.0, "direction": 95.0}
SEEDS, CLIPS = (0, 1, 2), 200


def run(*words: str | Path) -> None:
    print("$", " ".join(map(str, ["python", *words])), flush=True)
    subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, check=True)


def judge(seed: int, flags: list[str]) -> dict[str, float]:
    """Train one seed, and read its clips: percent right, TFLOP, seconds, steps."""
    folder = ROOT / "runs" / f"record-{seed}"
    is_begun = (folder / "state.safetensors").exists()
    new = ["--dataset", "moving_mnist", *flags, "--seed", str(seed)]
    run("train.py", *(["--resume"] if is_begun else new), "--out", folder)
    run("-m", "tinygif.metrics", "--checkpoint", folder, "--count", str(CLIPS))
    last = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    found = json.loads((folder / "metrics" / "metrics.json").read_text())
    row = found["table"]["one digit, all"]["generated"]
    right = {name: row[name]["percent"] for name in ("digit", "direction", "speed", "all right")}
    return right | {"constancy": found["constancy"]["generated"]} | {
        name: last[name] for name in ("tflop", "seconds", "step")
    }  # fmt: skip


def clears(name: str, percents: list[float]) -> bool:
    """Whether the clips of all seeds are above the bar with p < 0.01, by a binomial test."""
    n = CLIPS * len(percents)
    right = round(n * np.mean(percents) / 100)
    return binom.sf(right - 1, n, BAR[name] / 100) < 0.01


def main() -> None:
    rows = [judge(seed, sys.argv[1:]) for seed in SEEDS]
    mean = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    for seed, row in zip(SEEDS, rows):
        print(f"seed {seed}: ", {name: round(value, 3) for name, value in row.items()})
    print(f"| {mean['tflop']:.0f} | {mean['seconds'] / 60:.1f} | {mean['digit']:.1f} | "
          f"{mean['direction']:.1f} | {mean['constancy']:.3f} |")  # fmt: skip
    passed = {name: bool(clears(name, [row[name] for row in rows])) for name in BAR}
    print("clears the bar" if all(passed.values()) else f"does not clear the bar: {passed}")


if __name__ == "__main__":
    main()
