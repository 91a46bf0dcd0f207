"""Sprites: captioned characters of pixel art, put together from layers, as a function of an index.

The "Sprites" of Li and Mandt 2018 (arXiv 1803.02991): sheets of the Liberated Pixel Cup, licence CC
BY-SA 3.0 or GPL 3. A character has a skin, eyes, trousers, a top, hair and shoes, and does one of
five actions towards one of four sides. Pixels are never resized or mixed: every clip consists of
the sheets' own colours. Lesson 14.
"""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from tinygif.config import DataConfig
from tinygif.data import COLORS
from tinygif.errors import TinygifError, expect
from tinygif.files import cache_dir, download_folder

LINK = (
    "https://raw.githubusercontent.com/YingzhenLi/Sprites/3ce4048c5227802bd8f1888e293fd3afdba91c0c/"
)
SHEETS = {
    "body": (
        "27d1ac78db37c42f35a20d15c42705efc5e58d47c236cc01423879d4f797f151",
        "1535e9228357b884df80f777a0d1dac10ac35e550e4d8d077105ccad014a1460",
        "7c241033b4897501cb3721b6c3a9ebfa94b13db10a539edbd9bcc3e0c2a4bcb9",
        "055f5aa33fc112d8444b42fce2cf50608a9fbbf2466c54ceaa46c777589a717a",
        "57f3b9c510482379aba9a32fc0de7d48e9cbe3dc40f2447283547f773b77ca72",
        "91e49453aeab5ebbb4fd2b48253812895dcfb4cb1829b84e24425c66de8f04ff",
        "5b9678d177c0c33bcac9c47ef74460e9401b99cc4be7dffdccc0951e9eba3993",
    ),
    "eyes": (
        "7a278e8fe89ea2af10f0bfeeb4eac39d1c785dc445a3cc8fbaa526f0b060a3b8",
        "a5c3a7929257c5a58d33ef31edff546cd90f91d376436432491a9f7cda12ed22",
        "1bf864e03c357ab6f7fdce9a8da77ea2ec1c0c4fb84fd01d3bfa6be493e520cb",
        "7bb7d944c688022804e0a816533825b556c75ac3fc43b5ad05fa76d1a58a1669",
        "be95a908108064a17436783cea6a11ffde5ffd50dd9b60521d8788f6bbc9b51d",
    ),
    "bottomwear": (
        "4ec356c488e272fde2d2d0d722b12a80217871e41161d43ba784caf243969ec2",
        "0674312eaa4ab548f8bb31ef95d7dbd46b41555758cec51bd6c3e9fac9a0f936",
        "3b464feb0d20ff34b0ca2a6d1fd00766ad86e2229c3d56ff91379fe27588a893",
        "b366e84ea0519d06cf693f51e0ee2f9ac32b3132d27c75dfdc4b6f52fca072de",
        "4ed7e7702e4f50b9692c0043be04b7296a108d85ea97230fb50d13c150d98771",
        "a5c5e7e33f13fe5ad37b5836a5a74fb0d2094a0877c2146961b88688ff85840d",
        "a50af1e08421c4fcc4b6365c75c81c8b328f0d4a7bf93b5a1cb97d45e3b72bde",
    ),
    "topwear": (
        "b917edcf2b3c35d51ef57a6fad67557c5edf048785bea29db09a640d09ac9a90",
        "e33c6cb31ed1268a2c0dc73b665b1c9b9420e22baf3321880222bdb22682368b",
        "2b9b8fefa08894b7ea536cd62b86d494aefe6e54495c5c1d83460827b13b6448",
        "807f5b628592f6747e2814be9435963069dba6c360577168c02f57bbe903433d",
        "b51b17878503877e179ce4f9231713bf2b2d2d666c3ec9ee29f4e784469867a2",
        "1b6049d43f83ebfda857cc405d1936ac9fd80be480fa6ad239024a6a75ad0372",
        "b1da999190e2c41f2e5861d34adc551ad68016ecdcb125ab1371d8af8f7f36cb",
    ),
    "hair": (
        "e4007b0635a239ad16cdebfe90759349ccc73dfc6836c9d19625714be185f43d",
        "fa6369f84d3310705df6d8ca8c9d515a7d211e73d2826c50a9cb5bb285652c66",
        "1b8046752be7233e829ebe9b11048e171d8d181ee6f68e07042b34f57bb8af0d",
        "333783285c5fd94ff434ae5000d2da39aac7940269f173119eaa70d34c8acfa1",
        "24df8e9b291cbd444f6c4d12d35b3d43d909cd13f04e6401e0fd8ab10216d5a2",
        "4dd471cc20e0b1cf71adcaab01c88598767e5cfe680adacdf560ca91574f17ae",
        "383c2297bf411091dfcb9e250c30912b97a13094fb2465987e961d475855d331",
        "c4460119998811c4a1bcb8ccbb22f5d9a8ee84abe30880677e70b7106341e67d",
        "ea2cd93e23bafd8962caf6f7e7e4c97e73f5742bd9527254abeb6ddfd510d34a",
        "94939929ec5fc142671090a1d83b9e6f89784f3022925fad2e1e19c5dced133d",
    ),
    "shoes": (
        "f58fd946a82304ac49c9d824461ba343651106015bffdd2c71189131d28aadfc",
        "d56a561616a20a12030d2d40a52eeec63e6d048871bf3b6994221869362151f1",
        "faba8fc036f0494f144ff5dfd5185214f4138b4d39257da42186b0e60e5e2c5e",
    ),
}
"""SHA-256 of each sheet: `PART/NUMBER.png`. A later part lies over the earlier ones."""

CELL = 64  # side of a cell in pixels; a sheet has 13 columns of them
SMALLEST = 48  # of a smaller clip the hair would be cut off
SKINS = ("pale", "tanned", "grey", "blue", "brown", "dark", "green")
ORC = 6  # the last body is that of an orc
EYES = ("blue", "brown", "red", "green", "orange")
BOTTOMS = (
    ("white trousers", "white pants"), ("golden leggings", "golden leg armour"),
    ("red trousers", "red pants"), ("steel leggings", "steel leg armour"),
    ("teal trousers", "teal pants"), ("green trousers", "green pants"),
    ("a brown skirt", "a long brown skirt"),
)  # fmt: skip
TOPS = (
    ("a maroon shirt", "a maroon sweater"), ("a blue shirt", "a blue sweater"),
    ("a white shirt", "a white sweater"), ("a steel breastplate", "steel armour"),
    ("a leather vest", "leather armour"), ("a white jacket", "a jacket and tie"),
    ("chain mail", "a chain shirt"),
)  # fmt: skip
HAIR = (
    ("green hair", "spiky green hair"), ("blue hair", "a blue bun"),
    ("blond hair", "spiky blond hair"), ("white hair", "silver hair"),
    ("crimson hair", "short crimson hair"), ("purple hair", "curly purple hair"),
    ("black hair", "half shaved black hair"), ("red hair", "short red hair"),
    ("pink hair", "spiky pink hair"), ("orange hair", "curly orange hair"),
)  # fmt: skip
SHOES = (("brown shoes", "brown boots"), ("golden shoes", "golden boots"),
         ("iron shoes", "iron boots"))  # fmt: skip
PHRASES = {"bottomwear": BOTTOMS, "topwear": TOPS, "hair": HAIR, "shoes": SHOES}


class Action(NamedTuple):
    """Where a sheet has the frames of an action: in four rows, one for each side."""

    row: int
    columns: range
    phrases: tuple[str, ...]


ACTIONS = {
    "spell": Action(0, range(7), ("casting a spell", "casts a spell")),
    "thrust": Action(4, range(8), ("thrusting", "stabbing")),
    "walk": Action(8, range(1, 9), ("walking", "walks")),  # column 0 stands still
    "slash": Action(12, range(6), ("slashing", "striking")),
    "shoot": Action(16, range(13), ("shooting", "shooting an arrow")),
}
SIDES = {
    "back": ("away", "up"), "left": ("left", "to the left"), "front": ("down", "to the front"),
    "right": ("right", "to the right"),
}  # fmt: skip
"""Where a character looks, in the order of the sheets' rows."""
PEOPLE = ("person", "character", "hero")
SAID, SELDOM = 0.8, 0.15
"""How often a caption names a part; and its shoes or its eyes."""

WORDS = sorted(
    {"a", "an", "orc", "someone", "with", "and", "in", "wearing", "skin", "eyes", "facing", "on",
     "background", *SKINS, *EYES, *PEOPLE, *COLORS}
    | {word for parts in (*PHRASES.values(), SIDES.values()) for texts in parts for text in texts
       for word in text.split()}
    | {word for action in ACTIONS.values() for text in action.phrases for word in text.split()}
)  # fmt: skip


class Plan(NamedTuple):
    """What a clip shows: the number of each part's sheet, the action, the side, the background."""

    body: int
    eyes: int
    bottomwear: int
    topwear: int
    hair: int
    shoes: int
    action: str
    side: str
    background: str

    @property
    def is_held_out(self) -> bool:
        """Whether training never shows it: some hair of each skin, some action of each top."""
        action = list(ACTIONS).index(self.action)
        return (self.hair - self.body) % 10 == 3 or (self.topwear - action) % 7 == 2


class Sprites:
    """An endless data set of captioned clips; the same index gives the same clip.

    With `held_out` clips show what training never shows: see `Plan.is_held_out`. Clips smaller than
    64 pixels are cut out of the cells, from the feet up, larger ones have a margin.
    """

    size = None
    words = WORDS
    prompts = (
        "an orc with purple hair in a leather vest and red trousers walking left",
        "a pale person with pink hair in chain mail and teal trousers walking down",
        "a dark person with blond hair in a blue shirt and white trousers walking right",
        "a blue person with white hair in a white jacket and a brown skirt casting a spell down",
        "a tanned person with red hair in a steel breastplate and steel leggings slashing left",
        "a brown person with green hair in a maroon shirt and green trousers walking away",
        "a grey person with orange hair in a white shirt and golden leggings thrusting right",
        "an orc with blue hair in chain mail and red trousers shooting to the front",
    )
    """Examples to draw while training, which never shows the first and the last of them."""
    captions: tuple[str, ...] = ()
    """None to be encoded in advance by a tower: there are billions."""
    about = "characters of 39 sheets in 5 actions"

    def __init__(self, config: DataConfig, *, held_out: bool = False):
        got = f"{config.channels} and {config.size}: change --channels or --size"
        what = f"3 channels and a size of at least {SMALLEST}"
        expect(config.channels == 3 and config.size >= SMALLEST, what, got)
        folder = Path(config.sprites_dir) if config.sprites_dir else download_sheets()
        self.sheets = load_sheets(folder)
        self.config, self.held_out = replace(config, sprites_dir=str(folder)), held_out

    def __getitem__(self, index: int) -> tuple[UInt8[np.ndarray, "f h w 3"], str]:
        return self.example(index, self.config.frames)

    def example(self, index: int, frames: int) -> tuple[UInt8[np.ndarray, "{frames} h w 3"], str]:
        """So many frames of a clip, from a random one on, and its caption."""
        rng = np.random.default_rng([1 if self.held_out else 0, index])
        plan = draw_plan(rng, self.sheets, held_out=self.held_out)
        text, whole = caption(rng, plan), self.config.frames
        start = 0 if frames == whole else int(rng.integers(whole))
        clip = self.sheets.draw(plan, whole, self.config.size)
        return clip[(start + np.arange(frames)) % whole], text


# ---- captions --------------------------------------------------------------------------------


def draw_plan(rng: np.random.Generator, sheets: "Sheets", *, held_out: bool = False) -> Plan:
    """A random character and action, of those that training shows or of those held out."""
    while True:
        numbers = [int(rng.integers(len(digests))) for digests in SHEETS.values()]
        parts = dict(zip(SHEETS, numbers))
        action, side = str(rng.choice(list(ACTIONS))), str(rng.choice(list(SIDES)))
        background = "white" if rng.random() < 0.75 else str(rng.choice(list(COLORS)))
        plan = Plan(**parts, action=action, side=side, background=background)
        if plan.is_held_out == held_out and sheets.has(plan):
            return plan


def caption(rng: np.random.Generator, plan: Plan) -> str:
    """A random sentence that is true of a plan. It leaves out some parts, in any order."""
    say = lambda part: str(rng.choice(PHRASES[part][getattr(plan, part)]))  # noqa: E731
    has = [say("hair")] if rng.random() < SAID else []
    if plan.body != ORC and plan.side != "back" and rng.random() < SELDOM:
        has.append(f"{EYES[plan.eyes]} eyes")
    wears = [say(part) for part, share in
             (("topwear", SAID), ("bottomwear", SAID), ("shoes", SELDOM))
             if rng.random() < share]  # fmt: skip
    action = str(rng.choice(ACTIONS[plan.action].phrases))
    facing = "facing " if rng.random() < 0.2 else ""
    clauses = [f"{action} {facing}{rng.choice(SIDES[plan.side])}"]
    if has:
        clauses.append(f"with {' and '.join(rng.permutation(has))}")
    if wears:
        clauses.append(f"{rng.choice(['in', 'wearing'])} {' and '.join(rng.permutation(wears))}")
    if rng.random() < 0.5:  # the usual order, or any
        clauses = clauses[1:] + clauses[:1]
    else:
        clauses = list(rng.permutation(clauses))
    words = [subject(rng, plan.body), *clauses]
    if plan.background != "white" or rng.random() < 0.1:
        words.append(f"on a {plan.background} background")
    return " ".join(words)


def subject(rng: np.random.Generator, body: int) -> str:
    """Who is shown, with the skin or without."""
    if rng.random() >= SAID:
        return f"a {rng.choice(PEOPLE)}" if body != ORC and rng.random() < 0.5 else "someone"
    if body == ORC:
        return str(rng.choice(["an orc", "a green orc"]))
    person = str(rng.choice(PEOPLE))
    return str(rng.choice([f"a {SKINS[body]} {person}", f"a {person} with {SKINS[body]} skin"]))


# ---- pixels ----------------------------------------------------------------------------------


class Sheets(NamedTuple):
    """All sheets, with colours as numbers: 0 is transparent, n is `colors[n]`."""

    colors: UInt8[np.ndarray, "n 3"]
    cells: dict[str, Int[np.ndarray, "sheets 21 13 64 64"]]

    def layers(self, plan: Plan, frames: int) -> Int[np.ndarray, "parts {frames} 64 64"]:
        """The pixels of each part, in the order in which they lie on each other.

        An action is spread over the frames without mixing any; walking closes its loop.
        """
        action = ACTIONS[plan.action]
        row = action.row + list(SIDES).index(plan.side)
        columns = [action.columns[i * len(action.columns) // frames] for i in range(frames)]
        cells = [self.cells[part][getattr(plan, part), row, columns] for part in self.cells]
        if plan.body == ORC:
            cells[1] = np.zeros_like(cells[1])  # an orc's eyes are not where a man's are
        return np.stack(cells)

    def has(self, plan: Plan) -> bool:
        """Whether all that the character wears is drawn in every frame of the action."""
        action = ACTIONS[plan.action]
        layers = self.layers(plan, len(action.columns))
        return bool((layers[[0, 2, 3, 4, 5]] > 0).any((2, 3)).all())

    def draw(self, plan: Plan, frames: int, size: int) -> UInt8[np.ndarray, "f size size 3"]:
        """The clip of a plan."""
        clip = np.zeros((frames, CELL, CELL), np.int16)
        for layer in self.layers(plan, frames):
            clip = np.where(layer > 0, layer, clip)
        colors = self.colors.copy()
        colors[0] = COLORS[plan.background]
        return fit(colors[clip], size, COLORS[plan.background])


def fit(
    clip: UInt8[np.ndarray, "f 64 64 3"], size: int, paper: tuple[int, int, int]
) -> UInt8[np.ndarray, "f {size} {size} 3"]:
    """Cut a clip, or give it a margin; the feet stay at the lower edge."""
    if size <= CELL:
        left = (CELL - size) // 2
        return clip[:, CELL - size :, left : left + size]
    room, left = size - CELL, (size - CELL) // 2
    large = np.empty((len(clip), size, size, 3), np.uint8)
    large[:] = paper
    large[:, room:, left : left + CELL] = clip
    return large


@lru_cache(maxsize=1)
def load_sheets(folder: Path) -> Sheets:
    """The 39 sheets of a folder. Raises TinygifError for missing or damaged ones."""
    pixels = {}
    for part, digests in SHEETS.items():
        for number in range(len(digests)):
            file = folder / part / f"{number}.png"
            try:
                with Image.open(file) as image:
                    x = np.asarray(image.convert("RGBA"))
            except (OSError, SyntaxError, ValueError) as error:
                raise TinygifError(
                    f"expected the sheet {part}/{number}.png in {folder}, got: {error}. Point "
                    "--sprites-dir at a folder with the 39 undamaged sheets; or delete these and "
                    "leave it out: then they are downloaded."
                ) from error
            expect(x.shape == (21 * CELL, 13 * CELL, 4), f"{file} of 832 x 1344 pixels", x.shape)
            rgb = x[..., :3].astype(np.int32) @ (65536, 256, 1)
            pixels[part, number] = np.where(x[..., 3] < 128, -1, rgb)
    codes = np.unique(np.concatenate([np.unique(x) for x in pixels.values()] + [[-1]]))
    colors = np.stack([codes >> 16 & 255, codes >> 8 & 255, codes & 255], -1).astype(np.uint8)
    cells = {}
    for part, digests in SHEETS.items():
        sheets = [np.searchsorted(codes, pixels[part, n]) for n in range(len(digests))]
        stack = np.stack(sheets).astype(np.int16).reshape(-1, 21, CELL, 13, CELL)
        cells[part] = np.ascontiguousarray(stack.swapaxes(2, 3))
    return Sheets(colors, cells)


def download_sheets() -> Path:
    """The folder of the cache, after downloading those of the 39 sheets that it lacks.

    Raises TinygifError if there is no network: unlike digits, sprites are not in the package.
    """
    digests = {f"{part}/{n}.png": digest for part, digests in SHEETS.items()
               for n, digest in enumerate(digests)}  # fmt: skip
    try:
        return download_folder(cache_dir() / "sprites", [LINK], digests, "sprites")
    except OSError as error:
        raise TinygifError(
            f"sprites: no download ({error}). Put the sheets of the public repository "
            "YingzhenLi/Sprites into a folder and name it with --sprites-dir."
        ) from error
