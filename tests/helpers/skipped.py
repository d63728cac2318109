"""What a run of tests skipped, in a few lines."""

from collections import Counter


def lines_of_reasons(reasons, most):
    """Lines such as ``skipped 12: needs a browser``, the most frequent reasons first.

    Reasons that begin alike, up to a colon, are one reason. What does not fit into ``most`` lines
    is counted in the last of them.
    """
    counts = Counter(reason.removeprefix("Skipped: ").partition(":")[0] for reason in reasons)
    ranked = counts.most_common()
    shown, rest = (ranked, []) if len(ranked) <= most else (ranked[: most - 1], ranked[most - 1 :])
    lines = [f"skipped {count}: {reason}" for reason, count in shown]
    if rest:
        number = sum(count for _, count in rest)
        lines.append(f"skipped {number} for {len(rest)} other reasons: pytest -rs lists them")
    return lines
