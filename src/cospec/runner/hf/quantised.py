"""Quantised weights: which packages read them, and whether they are installed."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

from ...errors import MissingExtra, UnsupportedModel

# What transformers imports for each method, all named at once; for others it names the first itself.
_PACKAGES = {
    "gptq": ("optimum", "gptqmodel"),
    "awq": ("gptqmodel", "accelerate"),
    "bitsandbytes": ("bitsandbytes", "accelerate"),
    "compressed-tensors": ("compressed-tensors", "accelerate"),
}
# bitsandbytes stands for both of its widths.
_METHODS = sorted({method.removesuffix("_4bit").removesuffix("_8bit") for method in AUTO_QUANTIZER_MAPPING})


def check_quantisation(name: str, settings: object) -> None:
    """Raises UnsupportedModel for a method that is not known, MissingExtra where its packages are not installed.

    settings: a quantization_config, of the options or of a config.json.
    """
    if not isinstance(settings, Mapping):
        raise UnsupportedModel(f"{name!r}: its quantization_config is {settings!r}; it must be keys and values")
    method = _method(settings)
    if method not in _METHODS:
        raise UnsupportedModel(
            f"{name!r} is quantised by {method!r}, which transformers does not know; it knows {', '.join(_METHODS)}"
        )
    missing = [package for package in _PACKAGES.get(method, ()) if find_spec(package.replace("-", "_")) is None]
    if missing:
        raise MissingExtra(
            f"{name!r} is quantised by {method}, for which {' and '.join(missing)} must be installed: "
            f"pip install {' '.join(missing)}"
        )


def _method(settings: Mapping[str, Any]) -> str:
    if settings.get("load_in_4bit") or settings.get("load_in_8bit"):
        return "bitsandbytes"
    return str(settings.get("quant_method")).removesuffix("_4bit").removesuffix("_8bit")
