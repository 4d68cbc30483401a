"""A study whose prompts are chats."""

import json
from dataclasses import replace

import pytest

from cospec import Chat, Ensemble, Member
from cospec.errors import InvalidPrompt
from cospec.study.pilot_settings import check_prompts
from cospec.study.report import write
from cospec.study.results import Results

from ..chat_models import write_chat_models
from ..cli_models import CONTEXT
from .studies import NOTHING, PROMPTS, finished, settings_for, study

CHATS = [replace(each, prompt=Chat(messages=({"role": "user", "content": each.prompt},))) for each in PROMPTS]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """One of two members has a system message of its own."""
    folder = write_chat_models(tmp_path_factory.mktemp("chats"))
    members = [Member(model=folder / "a", system="two models decode one text"), folder / "b"]
    return Ensemble(members, max_sequences=8)


def test_a_study_of_chats_ends_in_a_report(pair, tmp_path):
    """Everything that is measured of texts is measured of chats, the peers' perplexities too."""
    found = finished(pair, questions=CHATS[:2], num_prompts=2, concurrencies=(1,), criteria=NOTHING)
    write(found, tmp_path, "en")
    assert (tmp_path / "report.html").stat().st_size
    first = [len(pair.rendered(question.prompt)[0]) for question in CHATS[:2]]
    assert [prompt.num_tokens for prompt in found.settings.prompts] == first
    assert len({prompt.digest for prompt in found.settings.prompts}) == 2
    assert found.kept.checks
    assert all(check.is_passed for check in found.kept.checks)
    values = {row.method: row for row in found.gained.perplexities if row.category == "a"}
    assert {"single:a", "single:b", "ensemble"} <= {*values}
    assert Results.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_measurements_of_a_chat_that_has_changed_are_not_gone_on_with(pair, tmp_path):
    made = study(pair, tmp_path / "kept.json", questions=CHATS)
    made.ledger.save(tmp_path / "kept.json")
    assert study(pair, tmp_path / "kept.json", questions=CHATS)
    system = {"role": "system", "content": "one"}
    changed = [replace(each, prompt=Chat(messages=(system, *each.prompt.messages))) for each in CHATS]
    with pytest.raises(Exception, match="has changed"):
        study(pair, tmp_path / "kept.json", questions=changed)
    # A text is no chat of the same words.
    assert settings_for(pair, questions=CHATS).binding({}) != settings_for(pair, questions=PROMPTS).binding({})


def test_a_chat_that_leaves_no_room_for_its_reference_is_named_with_its_line(pair):
    room = CONTEXT - max(map(len, pair.rendered(CHATS[0].prompt)))
    fits, longer = (replace(CHATS[0], reference="x" * num) for num in (room - 1, room))
    check_prompts(pair, [fits], {})
    with pytest.raises(InvalidPrompt, match="test:1, with its continuation: the prompt of a has"):
        check_prompts(pair, [longer], {})
