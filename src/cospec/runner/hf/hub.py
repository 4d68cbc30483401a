"""Models of the Hugging Face hub, fetched into its cache; without a network, or with HF_HUB_OFFLINE, from there."""

from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ...errors import CospecError, ModelNotFound, one_line
from ..gguf import SUFFIX
from ..options import LoadOptions
from ..parts import ADAPTER, DRAFTER, HEAD_WEIGHTS
from .checkpoint import CONFIG, check_pickle, files_of, read_config, weights_among

# Seconds that the hub has to answer whether it has a model.
PATIENCE = 10.0
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".ot", ".npz")


def fetch(name: str, options: LoadOptions, hint: str = "") -> Path:
    """The folder of the cache that holds the model, into which what it lacks is fetched: the small files, and then, if
    their check passes, the weights. Where a GGUF file is meant that file, which alone is fetched.

    hint: added to a refusal. Raises ModelNotFound or UnsupportedModel.
    """
    try:
        return _fetch(name, options)
    except CospecError:
        raise
    except HFValidationError:
        raise ModelNotFound(f"{name!r} is no folder here and no hub id (owner/name){hint}") from None
    except OfflineModeIsEnabled:
        reason = "HF_HUB_OFFLINE is set; unset it"
    except GatedRepoError:
        reason = f"its owner asks for consent; give it at {constants.ENDPOINT}/{name} and run `hf auth login`"
    except RepositoryNotFoundError:
        reason = (
            "no folder here and no model on the hub has this name; check the spelling, run `hf auth login` if it is "
            "private"
        )
    except RevisionNotFoundError:
        reason = f"it has no revision {options.revision!r}; give one of its branches, tags or commits"
    except Exception as error:  # whatever a network, a server or a disk may do
        reason = _reason(error)
    return _cached(name, options, f"{reason}, or give a folder{hint}")


def _fetch(name: str, options: LoadOptions) -> Path:
    info = HfApi().model_info(name, revision=options.revision, timeout=PATIENCE)
    listed = [each.rfilename for each in info.siblings or []]
    if file := _gguf_among(name, listed, options):
        return _download(name, options.revision, [file]) / file
    names = [each for each in listed if "/" not in each]
    folder = _download(name, options.revision, [each for each in names if not each.endswith(_WEIGHTS)])
    chosen = weights_among(names)
    if chosen is not None:
        check_pickle(name, chosen, options)
        if ADAPTER not in names and chosen != HEAD_WEIGHTS:
            read_config(name, folder, options)
        _download(name, folder.name, files_of(name, folder, chosen))
    return folder


def _gguf_among(name: str, names: list[str], options: LoadOptions) -> str | None:
    """The GGUF file that is meant: the one that the options name, or the only one of a model without a configuration.
    Raises ModelNotFound where it is not there, or could be any of several."""
    files = [each for each in names if each.lower().endswith(SUFFIX)]
    listed = ", ".join(files) or "none"
    if options.gguf_file is not None:
        if options.gguf_file not in names:
            raise ModelNotFound(f"{name!r} has no file {options.gguf_file!r} (gguf_file); its GGUF files: {listed}")
        return options.gguf_file
    if CONFIG in names or not files:
        return None
    if len(files) > 1:
        raise ModelNotFound(f"{name!r} holds {len(files)} GGUF files; name one as gguf_file: {listed}")
    return files[0]


def is_cached(name: str) -> bool:
    """Whether any revision of the hub's model lies in the cache."""
    return (Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}").is_dir()


def _download(name: str, revision: str | None, files: list[str]) -> Path:
    return Path(snapshot_download(name, revision=revision, allow_patterns=files, etag_timeout=PATIENCE))


def _in_cache(name: str, options: LoadOptions) -> Path | None:
    """The model's folder in the cache, as complete as it is; None where there is none."""
    found = (try_to_load_from_cache(name, file, revision=options.revision) for file in (CONFIG, ADAPTER, DRAFTER))
    return next((Path(config).parent for config in found if isinstance(config, str)), None)


def _cached(name: str, options: LoadOptions, reason: str) -> Path:
    """What the cache holds of it, where it cannot be fetched. Raises ModelNotFound, with the reason."""
    if options.gguf_file is not None:
        file = try_to_load_from_cache(name, options.gguf_file, revision=options.revision)
        if isinstance(file, str):
            return Path(file)
    folder = _in_cache(name, options)
    chosen = weights_among({file.name for file in folder.iterdir()}) if folder else None
    if folder and chosen and all((folder / file).exists() for file in files_of(name, folder, chosen)):
        return folder
    lacking = "has not all weights of it" if folder else "does not have it"
    revision = f" in revision {options.revision!r}" if options.revision else ""
    raise ModelNotFound(
        f"the hub's model {name!r}{revision} cannot be fetched, and the cache ({constants.HF_HUB_CACHE}) {lacking}: "
        f"{reason}"
    )


def _reason(error: Exception) -> str:
    """Why the hub could not be asked, or not be written to the cache, and what to do."""
    if isinstance(error, HfHubHTTPError):
        return f"{constants.ENDPOINT} answered {one_line(error)}; try again later"
    if isinstance(error, OSError) and error.errno is not None:
        where = error.filename or constants.HF_HUB_CACHE
        return f"{where} cannot be written ({error.strerror}); make room, or set HF_HUB_CACHE to another folder"
    return f"{constants.ENDPOINT} cannot be reached ({one_line(error)}); check the network"
