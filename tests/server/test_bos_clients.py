"""lm-eval's own clients of a server, unmodified, against a model whose tokenizer puts a long BOS in front."""

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.gguf import GGUFLM
from lm_eval.models.openai_completions import LocalCompletionsAPI
from tokenizers import processors

from cospec import Ensemble, SamplingParams

from ..models import tiny
from ..text.tokenizers import CHAT, byte_level, finished
from .conftest import Served

BOS = CHAT[0]
PAIRS = [("the cat sat on the mat and", " the dog sat"), ("Hello world, this is", " a small text")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    words = byte_level()
    words.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, words.token_to_id(BOS))]
    )
    made, path = finished(words, bos_token=BOS), tmp_path_factory.mktemp("bos") / "model"
    tiny("llama", vocab_size=len(made), bos_token_id=made.bos_token_id, eos_token_id=2).save_pretrained(path)
    made.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def bos(folder):
    return Ensemble([folder], schedule="plain")


@pytest.fixture(scope="module")
def bos_server(bos):
    with Served(bos, model="m") as running:
        yield running


def expected(ensemble, context, continuation, *, is_whole=True):
    """is_whole: whether the special tokens that the model wants stand in front."""
    encode = ensemble.tokenizer.encode if is_whole else ensemble.tokenizer.encode_bare
    ids, before = encode(context + continuation), encode(context)
    assert ids[: len(before)] == before
    (own,) = ensemble.generate(ids, SamplingParams(max_tokens=0, prompt_logprobs=0))
    return sum(entry.logprob for entry in own.prompt_logprobs[len(before) :])


def scores(lm):
    requests = [Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=0) for pair in PAIRS]
    return [score for score, _ in lm.loglikelihood(requests, disable_tqdm=True)]


def test_the_gguf_client_scores_as_the_library_does(bos, bos_server):
    own = [expected(bos, *pair) for pair in PAIRS]
    assert scores(GGUFLM(base_url=bos_server.url)) == pytest.approx(own, abs=1e-3)


@pytest.mark.parametrize("adds_bos", [True, False])
def test_the_local_completions_client_scores_as_the_library_does(bos, bos_server, folder, adds_bos):
    """It sends token ids, with BOS in front where it is told to put one there."""
    client = LocalCompletionsAPI(
        model="m",
        base_url=f"{bos_server.url}/v1/completions",
        tokenizer=folder,
        tokenizer_backend="huggingface",
        add_bos_token=adds_bos,
    )
    own = [expected(bos, *pair, is_whole=adds_bos) for pair in PAIRS]
    assert scores(client) == pytest.approx(own, abs=1e-3)
