"""`load_prior`: an embedded name, a folder, or a Hugging Face hub id."""

from __future__ import annotations

from pathlib import Path

from ambient_solve.errors import AmbientSolveError, suggestion
from ambient_solve.priors.ambient import AmbientPrior
from ambient_solve.priors.network import CARD, CONFIG, WEIGHTS, NetworkPrior
from ambient_solve.priors.pipeline import INDEX, PipelinePrior

EMBEDDED = Path(__file__).parent / "weights"
PIPELINE = (INDEX, "unet/*.safetensors", "unet/*.json", "scheduler/*.json")
NONE_EMBEDDED = "No prior is embedded in this installation: give a folder or a hub id."


def embedded_priors() -> list[str]:
    """Names of the priors that ship with the package."""
    return sorted(p.parent.name for p in EMBEDDED.glob(f"*/{WEIGHTS}"))


def prior_folder(name: str | Path) -> Path:
    """The folder of a prior: embedded if `name` is that of an embedded prior, else a local folder, else the hub's."""
    known = embedded_priors()
    if str(name) in known:
        return EMBEDDED / str(name)
    if Path(name).is_dir():
        return Path(name)
    text = str(name)
    if text.count("/") == 1 and not text.startswith((".", "/", "~")) and all(text.split("/")):
        return _from_hub(text)
    raise AmbientSolveError(
        f"There is no prior {text!r}: it is neither embedded, nor a folder, nor a hub id (owner/name). "
        + (suggestion(text, known) if known else NONE_EMBEDDED)
    )


def load_prior(
    name: str | Path = "photos", precision: str = "auto", device: str = "cpu"
) -> NetworkPrior | AmbientPrior | PipelinePrior:
    """Load a prior by embedded name, folder or hub id (owner/name), ready for `Solver`, on `device`.

    A `NetworkPrior`; round one that is told masks an `AmbientPrior`, which draws them by the `survival` of its
    config.json; a `PipelinePrior` for a pipeline of diffusers. Only safetensors and JSON are ever read or fetched.
    """
    folder = prior_folder(name)
    if (folder / INDEX).is_file():
        return PipelinePrior.load(folder).to(device)
    network = NetworkPrior.load(folder, precision).to(device)
    planes, survival = network.config.planes, network.config.survival
    if (planes > 0) != (survival is not None):
        raise AmbientSolveError(
            f"{folder / CONFIG} says planes = {planes} and survival = {survival}: a network told masks of pixels has "
            "the share that it was used to seeing, any other none. NetworkPrior.load gives the network; one told masks "
            "of k-space is used as AmbientPrior(network, policy='measurement', mask=mask, maps=maps)."
        )
    return network if survival is None else AmbientPrior(network, survival, planes=planes).eval()


def _from_hub(repo: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, allow_patterns=[WEIGHTS, CONFIG, CARD, *PIPELINE]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        known = embedded_priors()
        reason = str(error).strip().splitlines()[0]
        raise AmbientSolveError(
            f"{repo!r} is no local folder and could not be fetched from the hub ({reason}). "
            + (f"Give a folder, or one of the embedded priors: {', '.join(known)}." if known else NONE_EMBEDDED)
        ) from None
