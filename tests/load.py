"""How the app holds out: requests a second, latency and memory at 1, 4 and 16 clients.

    python -m pip install -e ".[app]"
    python tests/load.py --minutes 5

It starts the app on this machine, and asks it for clips of one step, each with another seed.
"""

import argparse
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
from gradio_client import Client

PORT = 7889


def memory(process: int) -> float:
    """Resident memory in MB (Linux)."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS"))) / 1024


def ask(client: Client, until: float, seconds: list[float], refused: list[str]) -> None:
    """Ask again and again until that time."""
    seed = 0
    while time.time() < until:
        began, seed = time.time(), seed + 1
        try:
            client.predict("a 7 moving left", seed, steps=4, api_name="/gif")
            seconds.append(time.time() - began)
        except Exception as error:
            refused.append(str(error))
            time.sleep(0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    options = parser.parse_args()
    words = [sys.executable, "-m", "tinygif.app", "--port", str(PORT)]
    app = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(120):
            time.sleep(1)
            try:
                client = Client(f"http://127.0.0.1:{PORT}", verbose=False)
                break
            except Exception:
                continue
        client.predict("a 7 moving left", 0, steps=4, api_name="/gif")  # compiles
        names = "clients", "requests a second", "median s", "99th percentile s", "refused", "MB"
        print(f"| {' | '.join(names)} |")
        print("|---|---|---|---|---|---|")
        for count in (1, 4, 16):
            clients = [Client(f"http://127.0.0.1:{PORT}", verbose=False) for _ in range(count)]
            seconds, refused, until = [], [], time.time() + 60 * options.minutes
            threads = [threading.Thread(target=ask, args=(c, until, seconds, refused))
                       for c in clients]  # fmt: skip
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            rate = len(seconds) / 60 / options.minutes
            median, most = np.quantile(seconds, (0.5, 0.99))
            print(f"| {count} | {rate:.2f} | {median:.2f} | {most:.2f} | {len(refused)} | "
                  f"{memory(app.pid):.0f} |", flush=True)  # fmt: skip
    finally:
        app.terminate()


if __name__ == "__main__":
    main()
