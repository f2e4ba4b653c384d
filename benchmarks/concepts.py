"""Concepts by resolution on toy pictures: does a coarse resolution keep the shape of a subject and forget its texture?

    python benchmarks/concepts.py --out runs/concepts                    train the network
    python benchmarks/concepts.py --out runs/concepts --part modes       shape and texture by mode and resolution
    python benchmarks/concepts.py --out runs/concepts --part noisy       concepts from noisy pictures
    python benchmarks/concepts.py --out runs/concepts --part restore     a damaged picture of a subject
    python benchmarks/concepts.py --out runs/subjects --restore my_pipeline/ --subjects SUBJECTS     that of photographs

Each does so many minutes of its work; the same command goes on, and prints its table when all is done.

Pictures of 16 x 16: four shapes, at a random place, in four faint textures. A conditional U-Net of diffusers with a
text encoder of CLIP, both small, learns 21 words: one for each pair of shape and texture, one for each shape, and one
for anything. A subject is one pair, whose word is withheld: it is inverted from six pictures, and begins as the word
for anything. Samples are classified by the nearest of all templates at all places; how right that is on true pictures,
the first table says.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

import subjects
from ambient_solve.evaluate.metrics import Metrics
from ambient_solve.noise import Streams
from ambient_solve.objectives.base import Batch
from ambient_solve.operators import inpaint_random
from ambient_solve.priors.autoencoder import Autoencoder
from ambient_solve.priors.concepts import TimeDependentEmbedding
from ambient_solve.priors.latent import LatentPrior
from ambient_solve.priors.latent_networks import LatentNetwork
from ambient_solve.priors.latent_pipeline import with_concepts
from ambient_solve.priors.text import GuidedPrior, Words
from ambient_solve.sampling import generate
from ambient_solve.saving import replace_text, save_tensors
from ambient_solve.solver import Solver
from ambient_solve.training.inversion import Inversion, fill_below, new_concept, optimizer_of, take_step

SIDE = 16
SHAPES = 4
TEXTURES = 4
AMPLITUDE = 0.7
"""Of a shape against its ground."""
FAINT = 0.3
"""Of a texture inside a shape."""
SHIFT = 2
"""Pixels by which a shape may lie off the middle."""
SCHEDULE = {"_class_name": "DDIMScheduler", "beta_schedule": "linear", "clip_sample": False}
STEPS = 3000
BATCH = 32
RATE = 2e-3
SAMPLES = 24
SUBJECTS = ((0, 3), (1, 0), (2, 1), (3, 2), (0, 1))
"""Shape and texture of the subject of each seed."""
PICTURES = 6
CONCEPT_STEPS = 100
NOISE = 0.5
"""Of the noisy pictures of a subject, in [-1, 1]."""
PROMPTS = ("<c|0|>", "<c[0]>", "<c[6]>", "<c(6)>")
ANYTHING = "u"


class Pixels(Autoencoder):
    """Squares of 2 x 2 pixels as the four channels of a latent, in [-1, 1]."""

    channels, factor, pictures = 4, 2, 1

    def encode(self, x: Tensor) -> Tensor:
        """See `Autoencoder.encode`."""
        return F.pixel_unshuffle(2 * x - 1, 2)

    def decode(self, latent: Tensor) -> Tensor:
        """See `Autoencoder.decode`."""
        return (F.pixel_shuffle(latent, 2) + 1) / 2


def word(shape: int, texture: int | None = None) -> str:
    """The letter of a pair, or of a shape."""
    return chr(97 + shape * TEXTURES + texture) if texture is not None else chr(97 + SHAPES * TEXTURES + shape)


def templates() -> Tensor:
    """Every pair in the middle of its picture, (SHAPES, TEXTURES, SIDE, SIDE)."""
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    masks = [np.hypot(x, y) < 5.2, (np.maximum(abs(x), abs(y)) < 5.4) & (np.maximum(abs(x), abs(y)) > 2.6)]
    masks += [(abs(x) < 1.6) | (abs(y) < 1.6), (y > -4) & (y < 4.5) & (abs(x) < (y + 5) * 0.62)]
    masks[2] = masks[2] & (np.maximum(abs(x), abs(y)) < 5.6)
    row, column = np.mgrid[:SIDE, :SIDE]
    waves = [row % 2, column % 2, (row + column) % 2, ((row + column) // 2) % 2]
    pictures = [[AMPLITUDE * (2.0 * m - 1) + FAINT * m * (2.0 * w - 1) for w in waves] for m in masks]
    return torch.tensor(np.array(pictures)).float()


def shifted(pictures: Tensor, moves: np.ndarray) -> Tensor:
    """Pictures (n, SIDE, SIDE) moved by `moves` (n, 2), edges wrapped round, where there is ground alone."""
    moved = [torch.roll(p, (int(m[0]), int(m[1])), (0, 1)) for p, m in zip(pictures, moves, strict=True)]
    return torch.stack(moved)[:, None]


def drawn(rng: np.random.Generator, count: int, pair: tuple[int, int] | None = None) -> tuple[Tensor, np.ndarray]:
    """Pictures (count, 1, SIDE, SIDE), and the pair of each, (count, 2)."""
    pairs = rng.integers(0, (SHAPES, TEXTURES), (count, 2)) if pair is None else np.tile(pair, (count, 1))
    moves = rng.integers(-SHIFT, SHIFT + 1, (count, 2))
    return shifted(templates()[pairs[:, 0], pairs[:, 1]], moves), pairs


def classified(pictures: Tensor) -> np.ndarray:
    """Shape and texture of pictures (n, 1, SIDE, SIDE): those of the nearest template at any place, (n, 2)."""
    moves = [(i, j) for i in range(-SHIFT, SHIFT + 1) for j in range(-SHIFT, SHIFT + 1)]
    every = torch.stack([torch.roll(templates(), move, (2, 3)) for move in moves], 2).flatten(3)
    nearest = torch.cdist(pictures.flatten(1), every.flatten(0, 2)).argmin(1)
    nearest = nearest // len(moves)
    return torch.stack([nearest // TEXTURES, nearest % TEXTURES], 1).numpy()


def network(folder: Path) -> tuple[Any, Any]:
    """The pipeline without an autoencoder, and its U-Net, as they were made."""
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    letters = [chr(c) for c in range(33, 127)]
    words = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=4)
    last = len(words) - 1
    config = CLIPTextConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        projection_dim=32, max_position_embeddings=4, bos_token_id=last - 1, eos_token_id=last, pad_token_id=last,
    )  # fmt: skip
    unet = diffusers.UNet2DConditionModel(
        sample_size=SIDE // 2, in_channels=4, out_channels=4, block_out_channels=(32, 64), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8, cross_attention_dim=32, attention_head_dim=16,
    )  # fmt: skip
    pipeline = diffusers.StableDiffusionPipeline(
        None, CLIPTextModel(config), tokenizer, unet, diffusers.DDIMScheduler.from_config(SCHEDULE), None, None,
        requires_safety_checker=False,
    )  # fmt: skip
    return pipeline, unet


def prior_of(pipeline: Any, unet: Any) -> LatentPrior:
    """The prior of toy pictures."""
    inner = LatentNetwork(unet, SCHEDULE, 4, 2)
    words = Words(pipeline, lambda: inner.device, share=inner.rule.share)
    return LatentPrior(GuidedPrior(inner, words), Pixels()).eval()


def train(folder: Path, minutes: float) -> bool:
    """Go on with the training of the network for so long; whether it is done."""
    pipeline, unet = network(folder)
    modules, state = torch.nn.ModuleList([pipeline.text_encoder, unet]), folder / "network.safetensors"
    averages = {k: v.clone() for k, v in modules.state_dict().items()}
    optimizer = torch.optim.Adam(modules.parameters(), lr=RATE)
    done, begun = 0, time.perf_counter()
    if (folder / "train.json").is_file():
        done = json.loads((folder / "train.json").read_text())["step"]
        stored = load_file(state)
        modules.load_state_dict({k.removeprefix("now."): v for k, v in stored.items() if k.startswith("now.")})
        averages = {k: stored[f"mean.{k}"] for k in averages}  # in the order of the modules
        moments = load_file(folder / "optimizer.safetensors")
        held = {int(k.split(".")[0]): {} for k in moments}
        for key, value in moments.items():
            number, name = key.split(".", 1)
            held[int(number)][name] = value
        optimizer.load_state_dict({"state": held, "param_groups": optimizer.state_dict()["param_groups"]})
    prior = prior_of(pipeline, unet)
    names = [word(s, t) for s in range(SHAPES) for t in range(TEXTURES)] + [word(s) for s in range(SHAPES)] + [ANYTHING]
    ids = pipeline.tokenizer(names, padding="max_length", return_tensors="pt").input_ids
    rule, losses = prior.inner.inner.rule, []
    for step in range(done, STEPS):
        if time.perf_counter() - begun > 60 * minutes:
            break
        rng = np.random.default_rng((0, step))
        x, pairs = drawn(rng, BATCH)
        x = F.pixel_unshuffle(x, 2)
        kind, pick = rng.random(BATCH), pairs[:, 0] * TEXTURES + pairs[:, 1]
        pick = np.where(kind < 0.2, SHAPES * TEXTURES + pairs[:, 0], np.where(kind < 0.3, len(names) - 1, pick))
        shares = (rng.permutation(BATCH) + rng.random(BATCH)) / BATCH
        shares[::2] = 0.15 + 0.35 * shares[::2]  # half of them where a texture is decided
        sigma = torch.from_numpy(rule.level(shares)).float()
        s = sigma[:, None, None, None]
        noise = Streams([step], BATCH).normal(x)
        state_of, time_of = rule.state(x + s * noise, s), torch.from_numpy(rule.share(sigma.numpy()) * rule.steps)
        tokens = pipeline.text_encoder(ids)[0][pick]
        found = unet(state_of, time_of, encoder_hidden_states=tokens, return_dict=False)[0]
        loss = F.mse_loss(found, noise)
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 100, max(0.02, 1.5 * (1 - step / STEPS)))
        torch.nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        torch._foreach_lerp_(
            [v for v in averages.values() if v.is_floating_point()],
            [v.detach() for v in modules.state_dict().values() if v.is_floating_point()],
            1 - min(0.998, (step + 1) / (step + 10)),
        )
        done, losses = step + 1, [*losses[-199:], float(loss.detach())]
    tensors = {f"now.{k}": v for k, v in modules.state_dict().items()} | {f"mean.{k}": v for k, v in averages.items()}
    save_tensors({k: v.detach().clone().contiguous() for k, v in tensors.items()}, state)
    moments = {f"{i}.{k}": v.clone() for i, s in optimizer.state_dict()["state"].items() for k, v in s.items()}
    save_tensors(moments, folder / "optimizer.safetensors")
    replace_text(folder / "train.json", json.dumps({"step": done}))
    print(f"step {done} of {STEPS}, loss {np.mean(losses or [0.0]):.4f}, {time.perf_counter() - begun:.0f} s")
    return done == STEPS


def trained(folder: Path) -> LatentPrior:
    """The prior with the averaged weights, frozen."""
    pipeline, unet = network(folder)
    modules, stored = torch.nn.ModuleList([pipeline.text_encoder, unet]), load_file(folder / "network.safetensors")
    modules.load_state_dict({k.removeprefix("mean."): v for k, v in stored.items() if k.startswith("mean.")})
    modules.eval().requires_grad_(False)
    return prior_of(pipeline, unet)


def learned(prior: LatentPrior, folder: Path, seed: int, pair: tuple[int, int], init: str, noise: str = "") -> Any:
    """The prior that knows the concept of a pair as <c>, learned from six pictures; kept in the folder.

    Args:
        prior: The trained one.
        folder: Of the run.
        seed: Of the pictures and of the training.
        pair: Shape and texture.
        init: Word that the embeddings begin as.
        noise: "" for clean pictures; "ambient" or "naive" for noisy ones, by what is stated of them.
    """
    place = folder / f"concept-{seed}-{word(*pair)}-{init}{noise and '-'}{noise}"
    if not (place / "concept.json").is_file():
        settings, zero = Inversion(steps=CONCEPT_STEPS, batch=8, lr=2e-2, seed=seed), torch.zeros(PICTURES)
        x = F.pixel_unshuffle(drawn(np.random.default_rng((1, seed)), PICTURES, pair)[0], 2)
        if noise:
            x = x + NOISE * Streams([seed], PICTURES).normal(x)
        latents = Batch(x, zero, zero + (NOISE if noise == "ambient" else 0.0), zero, zero)
        concept = new_concept(prior, "c", init, settings.bands).requires_grad_(True)
        knowing, optimizer = with_concepts(prior, [concept]), optimizer_of(concept, settings)
        for step in range(settings.steps):
            take_step(knowing, concept, latents, optimizer, settings, step)
        fill_below(concept, latents, prior.inner.inner.rule)
        concept.save(place)
    return with_concepts(prior, [TimeDependentEmbedding.load(place)])


@torch.no_grad()
def kept(prior: LatentPrior, prompt: str, pair: tuple[int, int], seed: int) -> list[float]:
    """The shares of samples of a prompt with the shape, and with the texture, of a subject."""
    how = {"size": SIDE // 2, "steps": 30, "order": 1, "eta": 1.0, "batch": SAMPLES, "progress": False}
    pictures = F.pixel_shuffle(generate(prior, SAMPLES, seed=seed, cond=prompt, **how), 2)
    return (classified(pictures) == np.array(pair)).mean(0).tolist()


def modes(prior: LatentPrior, folder: Path, seed: int) -> dict[str, list[float]]:
    """Shares of shape and texture by how the concept is prompted, and those of the words."""
    pair = SUBJECTS[seed]
    knowing = learned(prior, folder, seed, pair, ANYTHING)
    rows = {f"the concept | `{prompt}`": kept(knowing, prompt, pair, seed) for prompt in PROMPTS}
    rows |= {"the word itself | ": kept(prior, word(*pair), pair, seed)}
    return rows | {"the word for anything | ": kept(prior, ANYTHING, pair, seed)}


def noisy(prior: LatentPrior, folder: Path, seed: int) -> dict[str, list[float]]:
    """The same of concepts from noisy pictures, with the ambient loss and with the naive one, at one budget."""
    pair = SUBJECTS[seed]
    return {
        f"{noise} | `<c>`": kept(learned(prior, folder, seed, pair, ANYTHING, noise), "<c>", pair, seed)
        for noise in ("ambient", "naive")
    }


def restored(prior: LatentPrior, folder: Path, seed: int) -> dict[str, list[float]]:
    """PSNR, reduced chi2, V/B, and the shares of shape and texture, of a damaged picture of a subject."""
    pair = (seed % SHAPES, (seed + seed // SHAPES) % TEXTURES)
    x = (drawn(np.random.default_rng((2, seed)), 1, pair)[0] + 1) / 2
    op = inpaint_random((1, SIDE, SIDE), missing=0.8, sigma=0.25, seed=seed)
    torch.manual_seed(seed)
    y, rows = op(x), {}
    knowing = learned(prior, folder, seed, pair, word(pair[0]))
    for name, prompt in (("the concept", "<c>"), ("the word of its shape", word(pair[0])), ("no prompt", ANYTHING)):
        found = Solver(knowing, "latino", steps=30).solve(y, op, n_samples=8, cond=prompt, progress=False)
        samples, mean = found.samples[0], found.mean[0]
        b, v = float((mean - x[0]).square().mean()), float(samples.var(0).mean())
        right = (classified(2 * samples - 1) == np.array(pair)).mean(0).tolist()
        rows[f"{name} | "] = [-10 * math.log10(b), float(found.chi2.mean()), v * (1 + 1 / 8) / b, *right]
    return rows


PARTS = {
    "modes": (modes, len(SUBJECTS), "| | prompt | shape kept | texture kept |"),
    "noisy": (noisy, len(SUBJECTS), "| loss | prompt | shape kept | texture kept |"),
    "restore": (restored, 10, "| stated | | PSNR, dB | chi2 | V/B | shape | texture |"),
}
"""What is measured: the function of a seed, how many seeds, and the head of the table."""


def measure(folder: Path, part: str, minutes: float) -> None:
    """Measure seed after seed for so long, and print the table once all are there."""
    import ambient_solve.training.inversion as inversion

    inversion.TEMPLATES = ("{}",)  # the network knows single words alone
    function, seeds, head = PARTS[part]
    prior, begun, found = trained(folder), time.perf_counter(), []
    for seed in range(seeds):
        place = folder / f"{part}-{seed}.json"
        if not place.is_file():
            if time.perf_counter() - begun > 60 * minutes:
                return print(f"{part}: {seed} of {seeds} seeds are done")
            replace_text(place, json.dumps(function(prior, folder, seed)))
        found.append(json.loads(place.read_text()))
    if part == "modes":
        x, pairs = drawn(np.random.default_rng(9), 2000)
        right = (classified(x + 0.05 * Streams([0], len(x)).normal(x)) == pairs).mean(0)
        print(f"The classifier on true pictures with noise of 0.05: shape {right[0]:.1%}, texture {right[1]:.1%}.\n")
    print(head, re.sub(r"[^|]+", " --- ", head), sep="\n")
    for key in found[0]:
        values = np.array([f[key] for f in found])
        mean, error = values.mean(0), values.std(0, ddof=1) / len(values) ** 0.5
        shares = [i >= len(mean) - 2 for i in range(len(mean))]
        pairs_of = zip(mean, error, shares, strict=True)
        words = [f"{100 * m:.0f} ± {100 * e:.0f} %" if s else f"{m:.2f} ± {e:.2f}" for m, e, s in pairs_of]
        began, _, prompt = key.partition(" | ")
        prompt = prompt.replace("|", "\\|")
        print(f"| {began} | {prompt} | {' | '.join(words)} |")
    return None


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=5.0, help="of work at a time")
    parser.add_argument("--part", default="train", choices=("train", *PARTS), help="what is done")
    parser.add_argument("--restore", default="", help="pipeline of words, in place of the toy; see subjects.py")
    parser.add_argument("--subjects", type=Path, help="folder with a folder of pictures for each subject")
    parser.add_argument("--task", default="holes", choices=tuple(subjects.TASKS), help="what is done to a picture")
    parser.add_argument("--lpips", type=Path, help="the features of AlexNet, as safetensors")
    parser.add_argument("--steps", type=int, default=600, help="of the learning of a concept")
    parser.add_argument("--guidance", type=float, default=1.0, help="of the prompts; 1 draws from the posterior")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.restore:
        if given.subjects is None:
            parser.error("--restore needs --subjects")
        plan = subjects.Plan(given.restore, given.task, inversion=Inversion(steps=given.steps), guidance=given.guidance)
        lpips = None if given.lpips is None else Metrics(given.lpips)
        print(subjects.restore_subjects(given.subjects, plan, given.out, given.minutes, lpips))
    elif given.part == "train":
        train(given.out, given.minutes)
    else:
        measure(given.out, given.part, given.minutes)


if __name__ == "__main__":
    main()
