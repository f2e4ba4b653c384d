"""`load_prior`: an embedded name, a folder, or a Hugging Face hub id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ambient_solve.distributed import choose_device
from ambient_solve.errors import AmbientSolveError, first_line, suggestion
from ambient_solve.priors.ambient import AmbientPrior
from ambient_solve.priors.autoencoder import AUTOENCODER
from ambient_solve.priors.conditioning import CONDITIONING, NONE
from ambient_solve.priors.convert import is_converted, load_converted
from ambient_solve.priors.denoiser import DenoiserPrior
from ambient_solve.priors.field import Field, FieldPrior
from ambient_solve.priors.foreign import INDEX, SCHEDULER, UNET_WEIGHTS, is_pipeline
from ambient_solve.priors.latent import CODE, LatentPrior, is_latent
from ambient_solve.priors.latent_pipeline import PARTS, is_latent_pipeline, load_latent_pipeline
from ambient_solve.priors.network import CARD, WEIGHTS, NetworkPrior
from ambient_solve.priors.network_config import CONFIG
from ambient_solve.priors.pipeline import PipelinePrior

EMBEDDED = Path(__file__).parent / "weights"
"""Folder of the embedded priors."""
PIPELINE = (
    INDEX,
    CONDITIONING,
    "unet/*.safetensors",
    "unet/*.json",
    "scheduler/*.json",
    SCHEDULER,
    AUTOENCODER,
    CODE,
    f"{UNET_WEIGHTS}*.safetensors",
    f"{UNET_WEIGHTS}*.safetensors.index.json",
    *(f"{part}*/{files}" for part in PARTS for files in ("*.safetensors", "*.json", "*.txt", "*.model")),
)
"""Files of a diffusers pipeline that are downloaded."""
NONE_EMBEDDED = "No prior is embedded in this installation: give a folder or a hub id."
"""What is said where no prior is embedded."""


def embedded_priors() -> list[str]:
    """Names of the priors that ship with the package."""
    return sorted(p.parent.name for p in EMBEDDED.glob(f"*/{WEIGHTS}"))


def prior_folder(name: str | Path) -> Path:
    """The folder of a prior: that of an embedded prior, else a local folder, else one fetched from the hub.

    Args:
        name: Name of an embedded prior, a folder, or a hub id as owner/name or owner/name@revision.

    Raises:
        AmbientSolveError: it is none of these, or cannot be fetched.
    """
    known = embedded_priors()
    if str(name) in known:
        return EMBEDDED / str(name)
    if Path(name).is_dir():
        return Path(name)
    text = str(name)
    if _is_hub_id(text):
        return _from_hub(*_at_revision(text))
    raise AmbientSolveError(
        f"There is no prior {text!r}: it is neither embedded, nor a folder, nor a hub id (owner/name). "
        + (suggestion(text, known) if known else NONE_EMBEDDED)
    )


def pinned(name: str) -> str:
    """`name`, a hub id with the revision (owner/name@commit) that is here now; other names as they are.

    Nothing is fetched: where the hub id was never loaded, it stays without.
    """
    if name in embedded_priors() or Path(name).exists() or not _is_hub_id(name) or "@" in name:
        return name
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, allow_patterns=[WEIGHTS, CONFIG], local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        return name
    return f"{name}@{folder.name}"


@torch.inference_mode(False)
def load_prior(
    name: str | Path = "photos", precision: str = "auto", device: str = "cpu"
) -> NetworkPrior | AmbientPrior | FieldPrior | PipelinePrior | LatentPrior | DenoiserPrior:
    """Load a prior, ready for `Solver`. Only safetensors and JSON are ever read or fetched.

    Args:
        name: Name of an embedded prior (`embedded_priors`), a folder, or a hub id as owner/name or owner/name@revision.
        precision: Arithmetic of a `NetworkPrior`: "auto", "float32" or "bfloat16"; a pipeline keeps its own.
        device: Where the weights go, as torch names devices: "cpu", "cuda", "cuda:1".

    Returns:
        A `NetworkPrior`; around one that is conditioned on masks of pixels an `AmbientPrior`, which draws masks by the
        `keep_probability` of its config.json; around one trained with field noise a `FieldPrior`; a `LatentPrior` for
        one of latents with its autoencoder; a `PipelinePrior` for a pipeline of diffusers; what `convert` made of other
        checkpoints.

    Raises:
        AmbientSolveError: there is no such prior, or its files are unreadable or do not fit each other.
    """
    folder = prior_folder(name)
    if is_latent_pipeline(folder):
        return load_latent_pipeline(folder).to(device)
    if is_pipeline(folder):
        return _of_masks(PipelinePrior.load(folder).to(device))
    if is_converted(folder):
        return _of_masks(load_converted(folder).to(device))
    if is_latent(folder):
        return LatentPrior.load(folder, precision).to(device)
    network = NetworkPrior.load(folder, precision).to(device)
    mask_channels, keep_probability = network.config.mask_channels, network.config.keep_probability
    if (mask_channels > 0) != (keep_probability is not None):
        raise AmbientSolveError(
            f"{folder / CONFIG} says mask_channels = {mask_channels} and keep_probability = {keep_probability}: a "
            "network conditioned on masks of pixels has the share that it was used to seeing, any other none. "
            "NetworkPrior.load gives the network; one conditioned on masks of k-space is used as "
            "AmbientPrior(network, policy='measurement', mask=mask, maps=maps)."
        )
    if network.config.noise_length is not None:
        return FieldPrior(network, Field(length=network.config.noise_length)).eval()
    if keep_probability is None:
        return network
    return AmbientPrior(network, keep_probability, mask_channels=mask_channels).eval()


def _of_masks(prior: PipelinePrior | DenoiserPrior) -> PipelinePrior | DenoiserPrior | AmbientPrior:
    """A network of others, as a mask-conditioned prior where fine-tuning has made it one."""
    shown = prior.conditioning if isinstance(prior, PipelinePrior) else NONE
    if shown.keep_probability is None:
        return prior
    return AmbientPrior(prior, shown.keep_probability, mask_channels=shown.mask_channels).eval()


def _is_hub_id(text: str) -> bool:
    return text.count("/") == 1 and not text.startswith((".", "/", "~")) and all(text.split("/"))


def _at_revision(text: str) -> tuple[str, str | None]:
    """The hub id and the revision that it names, if it does."""
    repo, _, revision = text.partition("@")
    return repo, revision or None


def _from_hub(repo: str, revision: str | None = None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=[WEIGHTS, CONFIG, CARD, *PIPELINE]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        known = embedded_priors()
        reason = first_line(error)
        raise AmbientSolveError(
            f"{repo!r} is no local folder and could not be fetched from the hub ({reason}). "
            + (f"Give a folder, or one of the embedded priors: {', '.join(known)}." if known else NONE_EMBEDDED)
        ) from None


def named_prior(prior: str, device: str) -> Any:
    """The prior that a command names.

    Args:
        prior: As for `load_prior`.
        device: "auto", which is the GPU where there is one, "cpu" or "cuda".

    Returns:
        What `load_prior` returns.

    Raises:
        AmbientSolveError: there is no such prior or device.
    """
    return load_prior(prior, device=choose_device(device))
