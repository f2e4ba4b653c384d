"""Folders of latent pipelines of diffusers as priors: LDM, Stable Diffusion 1 to 3 and XL, DiT, Flux."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ambient_solve.errors import AmbientSolveError, reason
from ambient_solve.priors.autoencoder import TAEF2, Autoencoder
from ambient_solve.priors.autoencoder_diffusers import DiffusersAutoencoder
from ambient_solve.priors.base import NO_WORDS, Prior
from ambient_solve.priors.concepts import TimeDependentEmbedding
from ambient_solve.priors.finite import require_finite
from ambient_solve.priors.foreign import INDEX, checked_scheduler
from ambient_solve.priors.latent import CODE, LatentPrior, is_latent, read_code
from ambient_solve.priors.latent_networks import LatentNetwork
from ambient_solve.priors.pipeline import PipelinePrior
from ambient_solve.priors.text import Classes, GuidedPrior, Words
from ambient_solve.reading.limits import read_json

UNCONDITIONAL = "LDMPipeline"
LABELLED = "DiTPipeline"
WORDED = ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "StableDiffusion3Pipeline", "FluxPipeline")
"""Pipelines that are conditioned on words."""
PARTS = ("unet", "transformer", "vae", "vqvae", "scheduler", "text_encoder", "tokenizer")
"""How the parts of such a pipeline begin, for what is downloaded."""
LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts that are never read."""


def is_latent_pipeline(folder: Path) -> bool:
    """Whether a folder's index is that of a latent pipeline that is read."""
    path = folder / INDEX
    index = read_json(path) if path.is_file() else None
    return isinstance(index, dict) and index.get("_class_name") in (UNCONDITIONAL, LABELLED, *WORDED)


def load_latent_pipeline(folder: Path) -> LatentPrior:
    """Read a latent pipeline as diffusers' `save_pretrained` writes it; safetensors and JSON only.

    Args:
        folder: With model_index.json.

    Returns:
        The prior on the CPU, its weights frozen. Its `cond` is words (`Prompt`), a class (`Label`), or nothing.

    Raises:
        AmbientSolveError: a part is missing or unreadable, or the parts do not fit each other.
    """
    index = read_json(folder / INDEX)
    name = index["_class_name"]
    _check_folders(folder, index)
    pipeline = _pipeline(folder, name, index)
    scheduler = checked_scheduler(dict(pipeline.scheduler.config), folder / "scheduler")
    network = pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer
    autoencoder = pipeline.vqvae if name == UNCONDITIONAL else pipeline.vae
    own = autoencoder is None and is_latent(folder)  # the code of `LatentPrior.save`, which diffusers has no class for
    if autoencoder is None and not own:
        raise AmbientSolveError(
            f"{folder} has no autoencoder: neither {INDEX} names one, nor is there {CODE} of LatentPrior.save."
        )
    for part in (network, autoencoder, *(getattr(pipeline, f"text_encoder{i}", None) for i in ("", "_2", "_3"))):
        if part is not None:
            require_finite(part, folder)
            part.float().eval().requires_grad_(False)  # text encoders keep the type that they were stored in
    code: Autoencoder = TAEF2.load(folder) if own else DiffusersAutoencoder(autoencoder)
    units = read_code(folder) if own else (None, None)
    if name == UNCONDITIONAL:
        inner: Prior = PipelinePrior(network, scheduler)
        inner.sigma_data, inner.sigma_jacobian = 1.0, 10.0
        return LatentPrior(inner, code, *units).eval().requires_grad_(False)
    inner = LatentNetwork(network, scheduler, code.channels, code.factor)
    as_input = bool(getattr(network.config, "guidance_embeds", False))
    place = lambda: inner.device  # noqa: E731
    given = (
        Classes(network.config.num_embeds_ada_norm, place)
        if name == LABELLED
        else Words(pipeline, place, as_input=as_input, share=inner.rule.share)
    )
    return LatentPrior(GuidedPrior(inner, given, as_input=as_input), code, *units).eval().requires_grad_(False)


def words_of(prior: Prior) -> Words:
    """What reads the prompts of a prior.

    Args:
        prior: Any prior.

    Returns:
        Its reader.

    Raises:
        AmbientSolveError: it takes no words.
    """
    guided = prior.inner if isinstance(prior, LatentPrior) else prior
    if not isinstance(guided, GuidedPrior) or not isinstance(guided.reader, Words):
        raise AmbientSolveError(NO_WORDS)
    return guided.reader


def own_side(prior: Prior) -> int | None:
    """The side in pixels of the pictures that a latent pipeline was trained on; None where it does not say."""
    guided = prior.inner if isinstance(prior, LatentPrior) else prior
    network = getattr(guided.inner, "network", None) if isinstance(guided, GuidedPrior) else None
    side = getattr(getattr(network, "config", None), "sample_size", None)
    return side * prior.autoencoder.factor if isinstance(side, int) and isinstance(prior, LatentPrior) else None


def known_concepts(prior: Prior) -> tuple[TimeDependentEmbedding, ...]:
    """The concepts that the prompts of a prior may name; none where it takes no words."""
    guided = prior.inner if isinstance(prior, LatentPrior) else prior
    return guided.reader.concepts if isinstance(guided, GuidedPrior) and isinstance(guided.reader, Words) else ()


def with_concepts(prior: Prior, concepts: Sequence[TimeDependentEmbedding]) -> LatentPrior:
    """A prior whose prompts may name concepts, such as "a photo of <cat(3)>"; see `ambient_solve.priors.concepts`.

    Args:
        prior: A latent prior with text encoders, as `load_prior` reads one; it stays as it is.
        concepts: What its prompts may name, and no others; their embeddings are read at each call.

    Returns:
        A prior with the same network, which shares all weights.

    Raises:
        AmbientSolveError: the prior takes no words, or a concept does not fit it.
    """
    words_of(prior)
    if not isinstance(prior, LatentPrior) or not isinstance(prior.inner, GuidedPrior):
        raise AmbientSolveError(NO_WORDS)
    made = LatentPrior(
        prior.inner.with_concepts(concepts), prior.autoencoder, prior.mean.flatten(), prior.std.flatten()
    )
    return made.eval()


def _check_folders(folder: Path, index: dict[str, Any]) -> None:
    """Raise unless each part of the index has its folder, and no pickle in place of safetensors."""
    for part, value in index.items():
        named = isinstance(value, list) and len(value) == 2 and all(isinstance(v, str) for v in value)
        if not named or part.startswith(LEFT_OUT):
            continue
        if value[0] not in ("diffusers", "transformers"):
            raise AmbientSolveError(
                f"{folder / INDEX}: the part {part[:40]!r} comes from {value[0][:40]!r}, whose code is never run; "
                "diffusers and transformers were expected."
            )
        if not (folder / part).is_dir():
            raise AmbientSolveError(f"{folder} has no folder {part[:40]!r}, which its {INDEX} names: copy it whole.")
        weights = [*(folder / part).glob("*.safetensors")]
        pickles = [*(folder / part).glob("*.bin")]
        if pickles and not weights:
            raise AmbientSolveError(
                f"{folder / part} holds only {pickles[0].name}, a pickle, which is never read; save it with "
                "safe_serialization=True."
            )


def _pipeline(folder: Path, name: str, index: dict[str, Any]) -> Any:
    """The pipeline itself."""
    try:
        import diffusers
    except ImportError:
        raise AmbientSolveError("This prior needs diffusers: pip install 'ambient-solve[train]'.") from None
    if name in WORDED:
        try:
            import transformers  # noqa: F401
        except ImportError:
            raise AmbientSolveError(f"{folder} is conditioned on words: pip install 'ambient-solve[latent]'.") from None
    left_out = {part: None for part in LEFT_OUT if part in index}
    left_out |= {"vae": None} if index.get("vae") in (None, [None, None]) and is_latent(folder) else {}
    try:
        return getattr(diffusers, name).from_pretrained(
            folder, use_safetensors=True, local_files_only=True, trust_remote_code=False, **left_out
        )
    except Exception as error:  # noqa: BLE001 - diffusers raises whatever its layers raise
        raise AmbientSolveError(f"{folder} cannot be read as a {name} ({reason(error)}).") from None
