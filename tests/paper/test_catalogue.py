"""T6 in the paper: where its registered claim holds, and what leaving out a part costs."""

import dataclasses

import numpy as np
from small_records import record

from metajax.results import records as report
from paper import catalogue, edition
from paper.build import CLAIMS
from paper.edition import Results

NOTHING = Results(edition.editions()["small"], {}, {})


def said_of(claim: str, **logs: report.Record) -> str:
    return CLAIMS[claim](dataclasses.replace(NOTHING, ranking=logs))


def ranked(ahead_of_ease: tuple[float, ...]) -> report.Record:
    """A catalogue ranked for 40 users: the ridge head is ahead of EASE by so much at 1, 3 and 5."""
    scores = {}
    for k, ahead in zip((1, 3, 5), ahead_of_ease, strict=True):
        levels = (*dict.fromkeys(catalogue.RIVALS, 0.05).items(), ("R5 meta ridge", 0.1 + ahead))
        for arm, level in (*levels, ("R2 EASE", 0.1)):
            values = np.full((2, 40), level) + np.arange(40) / 1e4
            scores[report.Key("user_cold", arm, f"k={k}", "ndcg@10")] = values
    arms = report.arms_of((*catalogue.RIVALS, "R5 meta ridge"))
    made = record("ranking", arms=arms, method="R5 meta ridge", shots=(1, 3, 5))
    return dataclasses.replace(made, scores=scores)


def test_a_registered_claim_holds_only_where_all_of_its_comparisons_do():
    assert said_of("ranking") == said_of("ranking-verdict") == said_of("ablations") == ""
    logs = {"a": ranked((0.1, 0.1, 0.1)), "b": ranked((0.1, 0.1, -0.01))}
    said = said_of("ranking", **logs)
    assert said_of("ranking-before", **logs) == ""
    later = said_of("ranking-before", a=dataclasses.replace(logs["a"], method="R2 EASE"))
    assert later.startswith(
        "Of three earlier claims on other draws, one for a meta-learned ridge head"
    )
    assert said.startswith("it holds on one of two logs: on made it is ahead of EASE at one and")
    rest = "ahead of iALS at one, three and five, ahead of EDLAE at one, three and five"
    assert f"{rest} and behind EASE at five; on made it is" in said
    grids = catalogue.catalogue_tables(dataclasses.replace(NOTHING, ranking=logs))
    assert list(grids) == ["T6-users-ndcg"] and len(grids["T6-users-ndcg"].sections) == 2
    assert grids["T6-users-ndcg"].rows[1][1].endswith("*"), "of EASE at one the head is ahead"


def test_parts_of_a_ranking_are_told_by_where_leaving_them_out_costs():
    made, part = ranked((0.1, -0.1, 0.0)), "R7d K-shot EASE, no discount"
    arms = (*made.arms, report.Arm(part, report.ABLATION, {}, 0.0))
    scores = {
        key._replace(arm=part): values for key, values in made.scores.items() if "R2" in key.arm
    }
    more = dataclasses.replace(made, arms=arms, scores=made.scores | scores)
    assert said_of("ranking-parts", a=made) == said_of("ranking-stack", a=made) == ""
    assert said_of("ranking-parts", a=more, b=more) == (
        "beside no discount of popular items, it is ahead in two and behind in two of six "
        "comparisons"
    )
    stack = {key._replace(arm="R9 stack"): values for key, values in scores.items()}
    arms = (*made.arms, report.Arm("R9 stack", report.BASELINE, {}, 0.0))
    beside = dataclasses.replace(made, arms=arms, scores=made.scores | stack)
    assert said_of("ranking-stack", a=beside) == (
        "beside this stack, it is ahead in one and behind in one of three comparisons"
    )
