"""The target as a formula over the members' names, by which a pilot's ensemble and a server's are told apart."""

from ..core.combine import Arithmetic, Combination, Contrastive, Guided, Mixture, Product


def target_formula(combination: Combination, members: tuple[str, ...]) -> str:
    """The combination as a formula over the members' names, such as `0.5 math + 0.5 general`."""
    match combination:
        case Mixture():
            return _weighted_sum(combination.weights, members)
        case Product():
            powers = zip(members, combination.weights, strict=True)
            return " · ".join(f"{name}^{weight:.3g}" for name, weight in powers)
        case Arithmetic():
            return f"softmax({_weighted_sum(combination.weights, members)})"
        case Contrastive():
            mask = f", plausibility {combination.plausibility:g}" if combination.plausibility else ""
            return f"softmax({members[0]} − {combination.mu:g} {members[1]}){mask}"
        case Guided():
            return f"softmax({members[1]} + {combination.scale:g} ({members[0]} − {members[1]}))"
    return f"{combination.name}({', '.join(members)})"


def _weighted_sum(weights: tuple[float, ...], members: tuple[str, ...]) -> str:
    return " + ".join(f"{weight:.3g} {name}" for weight, name in zip(weights, members, strict=True))
