"""A small pipeline of words and latents with random weights, to be trained; and a sheet of what one draws.

    python trainers/latents.py encode --data PACK.npz --autoencoder taef2.safetensors --captions classes.txt \\
        --template "a photo of a {}" --enlarge 2 --out runs/words-latents
    python trainers/words.py start --latents runs/words-latents --vocabulary clip_merges.txt.gz --out runs/words-start
    python trainers/finetune.py --config trainers/configs/words_latent.yaml --data-root runs --out runs/words
    python trainers/words.py sheet --prior runs/words/prior --prompts "a photo of a goldfish"

The classes are those of Stable Diffusion 1 (CLIPTokenizer, CLIPTextModel, UNet2DConditionModel, a scheduler), but for
the autoencoder: diffusers has no class for TAEF2. The index of the folder names none, and `autoencoder.safetensors` and
`autoencoder.json` lie beside it, as `LatentPrior.save` writes them.
"""

from __future__ import annotations

import gzip
import json
import shutil
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ambient_solve.data.corruption import MANIFEST
from ambient_solve.errors import AmbientSolveError, reason
from ambient_solve.figures.sheet import Row, contact_sheet, picture_tile
from ambient_solve.priors.autoencoder import AUTOENCODER, TAEF2
from ambient_solve.priors.latent import CODE, LatentPrior, read_code
from ambient_solve.priors.latent_pipeline import words_of
from ambient_solve.priors.load import load_prior
from ambient_solve.priors.network import CARD
from ambient_solve.priors.text import Prompt
from ambient_solve.sampling import generate

SHEET = "samples.png"
"""The sheet in the folder of a prior."""
SCHEDULE: dict[str, Any] = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "steps_offset": 1,
    "prediction_type": "v_prediction",
}
"""The levels of Stable Diffusion. Of latents of unit deviation, EDM's weight of an estimate is 1 for a velocity."""
BEGIN, END = "<|startoftext|>", "<|endoftext|>"
"""Tokens around each text of CLIP."""
MERGES = 48_894
"""Merges of CLIP's vocabulary of 49,408 tokens."""
MAX_VOCABULARY = 50_000_000
"""Bytes of the longest vocabulary that is read, unpacked."""


def start_pipeline(
    latents: str | Path,
    vocabulary: str | Path,
    out: str | Path,
    *,
    widths: Sequence[int] = (96, 192, 256),
    layers: int = 1,
    heads: int = 32,
    text_width: int = 128,
    text_layers: int = 3,
    tokens: int = 24,
    merges: int = MERGES,
    seed: int = 0,
) -> Path:
    """Write a pipeline with random weights that learns latents: the --init of a training.

    Args:
        latents: Folder that `training.latents.encode_pictures` wrote.
        vocabulary: Merges of a byte-pair encoding, one a line, after a line about the file; CLIP's, packed or not.
        out: Folder of the pipeline.
        widths: Channels of the U-Net at each resolution.
        layers: Its blocks at each.
        heads: Channels of each head of its attention.
        text_width: Features of a token.
        text_layers: Layers of the text encoder.
        tokens: Tokens of the longest text, both ends included; 77 is CLIP's.
        merges: At most this many merges, the first ones.
        seed: Of the weights.

    Returns:
        The folder.

    Raises:
        AmbientSolveError: a file cannot be read, or the sizes make no network.
    """
    import diffusers
    import transformers

    latents, out, code = Path(latents), Path(out), TAEF2.load(latents)
    read_code(latents)
    if (out / CODE).exists():
        raise AmbientSolveError(f"{out} holds a prior already: choose another folder.")
    side = _side(latents)
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as place:
        tokenizer = transformers.CLIPTokenizer(*map(str, _vocabulary(Path(vocabulary), merges, Path(place))))
    tokenizer.model_max_length = tokens
    count = len(widths)
    try:
        config = transformers.CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=text_width,
            intermediate_size=4 * text_width,
            num_hidden_layers=text_layers,
            num_attention_heads=max(1, text_width // 32),
            projection_dim=text_width,
            max_position_embeddings=tokens,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        encoder = transformers.CLIPTextModel(config)
        unet = diffusers.UNet2DConditionModel(
            sample_size=side,
            in_channels=code.channels,
            out_channels=code.channels,
            block_out_channels=tuple(widths),
            layers_per_block=layers,
            down_block_types=("CrossAttnDownBlock2D",) * count,
            up_block_types=("CrossAttnUpBlock2D",) * count,
            norm_num_groups=8,
            cross_attention_dim=text_width,
            attention_head_dim=[max(1, width // heads) for width in widths],
        )
    except (ValueError, RuntimeError, TypeError, ZeroDivisionError) as error:
        raise AmbientSolveError(f"Of these sizes no network can be made ({reason(error)}).") from None
    scheduler = diffusers.DDIMScheduler(**SCHEDULE)
    diffusers.StableDiffusionPipeline(
        None, encoder, tokenizer, unet, scheduler, None, None, requires_safety_checker=False
    ).save_pretrained(out)
    for file in (AUTOENCODER, CODE):
        shutil.copyfile(latents / file, out / file)
    numbers = sum(p.numel() for part in (encoder, unet) for p in part.parameters())
    (out / CARD).write_text(f"# A pipeline before its training\n\nRandom weights, seed {seed}: {numbers:,} numbers.\n")
    return out


def sheet(
    prior: str | Path,
    prompts: Sequence[str],
    *,
    each: int = 6,
    guidance: float = 3.0,
    steps: int = 30,
    seed: int = 0,
    out: str | Path = "",
) -> Path:
    """Draw samples of prompts, a row for each.

    Args:
        prior: Folder or hub id of a prior of words.
        prompts: The prompts; none is the empty one.
        each: Samples of each.
        guidance: Scale of classifier-free guidance.
        steps: Noise levels.
        seed: Of the samples, the same in each row.
        out: The file; samples.png in the folder of the prior by default.

    Returns:
        The file.

    Raises:
        AmbientSolveError: the prior takes no words, or not these.
    """
    model = load_prior(prior)
    words_of(model)
    own: Any = model.inner.inner.network.config.sample_size if isinstance(model, LatentPrior) else None
    conditions = [Prompt(text, guidance=guidance if text else 1.0) for text in prompts or ("",)]
    for condition in conditions:
        model.check_condition(condition)
    rows = []
    for condition in conditions:
        z = generate(model, each, size=own, steps=steps, seed=seed, cond=condition, batch=each, progress=False)
        with torch.no_grad():
            tiles = [picture_tile(x) for x in model.decode(z).clamp(0, 1)]
        rows.append(Row(condition.text or "without words", f"guidance {condition.guidance:g}", tiles))
    file = Path(out) if out else Path(prior) / SHEET
    title = "Samples by prompt"
    contact_sheet(title, [f"seed {seed}, {i}" for i in range(each)], rows, 128).save(file)
    return file


def _side(latents: Path) -> int:
    """Places along one side of the first latent."""
    from ambient_solve.data.corruption import read_corrupted

    if not (latents / MANIFEST).is_file():
        raise AmbientSolveError(f"{latents} holds no latents: python trainers/latents.py encode --out {latents}.")
    return int(next(iter(read_corrupted(latents))).z.shape[-1])


def _vocabulary(path: Path, most: int, folder: Path) -> tuple[Path, Path]:
    """The files of a tokenizer of CLIP from a list of merges: all bytes, those that end a word, and the merges."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            held = file.read(MAX_VOCABULARY + 1)
        lines = held.decode("utf-8").split("\n")[1 : most + 1]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise AmbientSolveError(f"The vocabulary {path} cannot be read ({reason(error)}).") from None
    pairs = [tuple(line.split()) for line in lines if line.strip()]
    if len(held) > MAX_VOCABULARY or not all(len(pair) == 2 for pair in pairs):
        raise AmbientSolveError(f"{path} is no vocabulary: lines of two tokens, which are merged, were expected.")
    signs = _signs()
    tokens = [*signs, *(f"{sign}</w>" for sign in signs), *("".join(pair) for pair in pairs), BEGIN, END]
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    vocabulary.write_text(json.dumps({token: i for i, token in enumerate(dict.fromkeys(tokens))}))
    merges.write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in pairs), encoding="utf-8")
    return vocabulary, merges


def _signs() -> list[str]:
    """The sign that stands for each byte in CLIP's vocabulary: itself where it is printed, else one from 256 on."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printed]
    return [chr(byte) for byte in printed] + [chr(256 + i) for i in range(len(others))]
