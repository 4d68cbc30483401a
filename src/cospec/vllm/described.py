"""What an exported folder's config.json says of the ensemble: written by `export`, read by the model within vLLM."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..core.combine import Combination, combination_settings, make_combination
from ..core.params import SamplingParams
from ..errors import InvalidEnsemble, shown

# The key of config.json, and the version of what stands there.
KEY, FORMAT = "cospec", 1


@dataclass(frozen=True, kw_only=True)
class DescribedMember:
    """A member as vLLM is to load it. model: an absolute path. trust_remote_code: whether its own code may run."""

    name: str
    model: str
    trust_remote_code: bool = False


@dataclass(frozen=True, kw_only=True)
class Description:
    """The target r, as far as vLLM computes it. vocab_size: the entries that all members' tokenizers have in common.
    member_temperature, member_top_p: of every request, see SamplingParams."""

    members: tuple[DescribedMember, ...]
    combination: Combination
    vocab_size: int
    member_temperature: float = 1.0
    member_top_p: float = 1.0

    @property
    def shaping(self) -> SamplingParams:
        """What changes the members' rows before they are combined. Raises InvalidSampling."""
        return SamplingParams(member_temperature=self.member_temperature, member_top_p=self.member_top_p)

    def to_json(self) -> dict[str, Any]:
        """Raises InvalidCombination for a combination that no file can name."""
        return {
            "format": FORMAT,
            "members": [asdict(member) for member in self.members],
            "combine": combination_settings(self.combination),
            "vocab_size": self.vocab_size,
            "member_temperature": self.member_temperature,
            "member_top_p": self.member_top_p,
        }

    @classmethod
    def from_json(cls, value: object) -> "Description":
        """Raises InvalidEnsemble for what another version wrote, and what a combination raises."""
        if not isinstance(value, Mapping) or value.get("format") != FORMAT:
            raise InvalidEnsemble(
                f"config.json has {KEY!r}: {shown(value)}, and format {FORMAT} is read; export the ensemble again "
                "(cospec export --for vllm) with the version that serves it"
            )
        members = tuple(DescribedMember(**member) for member in value["members"])
        combine = dict(value["combine"])
        combination = make_combination(combine.pop("type"), len(members), **combine)
        combination.check(len(members))
        return cls(
            members=members,
            combination=combination,
            vocab_size=value["vocab_size"],
            member_temperature=value["member_temperature"],
            member_top_p=value["member_top_p"],
        )
