"""A run as a model on the hub: weights, a card that says what it is, a GIF, a page. Lesson 10.

    python -m tinygif.hub push runs/NAME user/name

Others then write `sample.py --checkpoint user/name`, or `tinygif.load("user/name")`. Only
safetensors and text are pushed and loaded; nothing that is loaded is executed.
"""

import dataclasses
import importlib.util
import json
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from tinygif import checkpoint
from tinygif.checkpoint import MODEL, About
from tinygif.config import Config
from tinygif.datasets import preset_for
from tinygif.errors import TinygifError, expect
from tinygif.export import examples, export_page
from tinygif.pipeline import load
from tinygif.training import count_weights

DATA = {
    "moving_mnist": ("digits of MNIST (Y. LeCun, C. Cortes), which tinygif moves and captions",
                     "cc-by-sa-3.0"),
    "shapes": ("shapes that tinygif draws", "mit"),
    "sprites": ("characters put together from sheets of the Liberated Pixel Cup", "cc-by-sa-3.0"),
}  # fmt: skip
"""What the drawn data sets show, and the licence of the pictures."""
UNTOLD = {"dataset", "images", "mnist_dir", "sprites_dir", "digits_hash", "text_revision",
          "text_dims", "lora_words"}  # fmt: skip
"""Settings that train.py fills in, or that name folders of one machine."""
CARD = """\
---
license: {license}
library_name: tinygif
pipeline_tag: text-to-video
tags: [tinygif, text-to-gif, diffusion, jax, equinox]
---

# {title}

![clips that this model draws]({gif})

A text-to-GIF diffusion model, made with tinygif: {shape}, {weights:.1f} million weights.

```bash
python sample.py --checkpoint {name} --prompt "{prompt}"
```

```python
import tinygif
clips = tinygif.load("{name}")(["{prompt}"], seed=0)
```
{page}
## How it was made

```bash
{command}
```

{steps:,} steps, {cost}; from random weights, unless the model continues another one (`--init`).
Data: {data}; its licence holds for those who use the model, too.

## How well it draws

{figures}
"""


@dataclass(frozen=True)
class Push:
    """Send a run's model to the hub. Log in first: hf auth login."""

    action: Annotated[Literal["push"], tyro.conf.Positional]
    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder."""
    name: Annotated[str, tyro.conf.Positional]
    """user/name of the model on the hub; it is made if it is not there."""
    private: bool = False
    """Make a model that only you can see."""
    license: str | None = None
    """Licence of the model, as the hub names it (mit); by default that of the drawn data sets'
    pictures, or `other`."""


def command_of(config: Config) -> str:
    """The train.py command of a config: what differs from its preset, as flags."""
    data, kind = config.data, config.model.model
    preset = preset_for(data.dataset, config.preset, data.digits, None if kind == "unet" else kind)
    name = Path(data.dataset).name  # a folder is named without the way to it
    words = [f"python train.py --dataset {shlex.quote(name)} --preset {config.preset}"]
    words += ["--model transformer"] * (kind == "transformer")
    for section in dataclasses.fields(Config)[1:]:
        ours, theirs = getattr(config, section.name), getattr(preset, section.name)
        for field in dataclasses.fields(ours):
            value, usual = getattr(ours, field.name), getattr(theirs, field.name, None)
            if value == usual or field.name in UNTOLD:
                continue
            flag = f"--{field.name.replace('_', '-')}"
            if isinstance(value, bool):
                words.append(flag if value else flag.replace("--", "--no-", 1))
            else:
                values = value if isinstance(value, tuple) else (value,)
                words.append(" ".join([flag, *(shlex.quote(str(v)) for v in values)]))
    if config.codec.codec == "autoencoder" and config.codec.codec_steps == 0:
        words = [word.replace("--codec-steps 0", "--codec ANOTHER_RUN") for word in words
                 if word != "--codec autoencoder"]  # fmt: skip
    return " \\\n    ".join(words)


def figures_of(run: Path) -> str:
    """A table of what `tinygif.metrics` found, from the run's folder; else how to measure it."""
    path = run / "metrics" / "metrics.json"
    try:
        table = json.loads(path.read_text())["table"]
        rows = [(name, kinds["generated"]) for name, kinds in table.items() if "generated" in kinds]
        columns = [key for key in rows[0][1] if key != "n"]
        lines = [f"| prompts | clips | {' | '.join(columns)} |", "|---" * (2 + len(columns)) + "|"]
        lines += [f"| {name} | {row['n']} | "
                  + " | ".join(percent(row.get(key)) for key in columns) + " |"
                  for name, row in rows]  # fmt: skip
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError):
        return "Not measured yet: `python -m tinygif.metrics --checkpoint RUN` does it."
    title = "Percent right, 95% intervals in brackets (`python -m tinygif.metrics`):\n"
    return "\n".join([title, *lines])


def percent(value: dict[str, float] | None) -> str:
    """A share in percent with its interval."""
    if value is None:
        return "-"
    return f"{value['percent']:.1f} [{value['low']:.0f}, {value['high']:.0f}]"


def card(name: str, about: About, values: dict[str, Any]) -> str:
    """The model card."""
    data = about.config.data
    shape = f"{data.frames} frames of {data.size}x{data.size} pixels"
    name_of_data = Path(data.dataset).name
    shown, usual = DATA.get(data.dataset, (f"the clips of a folder, {name_of_data}", "other"))
    seconds, tflop = values.pop("seconds"), values.pop("tflop")
    return CARD.format(
        name=name, title=name.partition("/")[2], shape=shape, data=shown, steps=about.step,
        command=command_of(about.config), cost=f"{seconds / 60:.0f} minutes, {tflop:.0f} TFLOP",
        **values | {"license": values["license"] or usual},
    )  # fmt: skip


def collect(options: Push, out: Path) -> None:
    """Write everything that is pushed into a folder."""
    run = options.run
    checkpoint.export(run, out / MODEL)
    pipeline, about = load(out / MODEL), checkpoint.read_about(out / MODEL)
    grids = sorted((run / "samples").glob("[0-9]*.gif"))
    expect(bool(grids), f"a GIF in {run / 'samples'}, as train.py writes them", "none")
    (out / "samples.gif").write_bytes(grids[-1].read_bytes())
    page, prompt = "", examples(pipeline)[0]
    if about.config.text.text == "words" and importlib.util.find_spec("jax2onnx"):
        export_page(pipeline, options.name, out / "page")
        page = ("\nThe folder `page` is a web page that draws with this model in the visitor's own "
                "browser: put it on any web space.\n")  # fmt: skip
    else:
        print('no page is made: it needs python -m pip install "tinygif[export]", and a model that '
              "is not read by a tower")  # fmt: skip
    try:
        spent = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    except (OSError, ValueError, IndexError):
        spent = {}
    values = {"gif": "samples.gif", "prompt": prompt, "page": page, "license": options.license,
              "weights": count_weights(pipeline.model) / 1e6, "figures": figures_of(run),
              "seconds": spent.get("seconds", 0), "tflop": spent.get("tflop", 0)}  # fmt: skip
    (out / "README.md").write_text(card(options.name, about, values), encoding="utf-8")


def push(options: Push) -> None:
    """Make the model on the hub and send all files in one commit. Raises TinygifError."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    what = "a run's folder with a model.safetensors"
    expect((options.run / MODEL).is_file(), what, str(options.run))
    expect(options.name.count("/") == 1, "user/name", repr(options.name))
    api = HfApi()
    with tempfile.TemporaryDirectory() as folder:
        collect(options, Path(folder))
        try:
            api.create_repo(options.name, private=options.private, exist_ok=True)
            api.upload_folder(
                repo_id=options.name, folder_path=folder, commit_message="A model of tinygif"
            )
        except HFValidationError as error:
            raise TinygifError(f"expected user/name, got {options.name!r}: {error}") from error
        except Exception as error:  # the hub's client raises many kinds
            reason = str(error).strip().partition("\n")[0]
            raise TinygifError(
                f"could not push to {options.name}: {reason}. Log in with `hf auth login`, and see "
                "that the network is there; nothing on this machine has changed."
            ) from error
    print(f"pushed to {api.endpoint}/{options.name}\n"
          f'now:  python sample.py --checkpoint {options.name} --prompt "..."')  # fmt: skip
