"""How often does the gate say what it should not? Candidates of known truth, drawn over and over, through `judge`.

At the margin the candidate is truly just as bad as the rule allows: it may pass 5 % of the time, and fail 5 %. Then one
that is clearly better than the limit, and one that is clearly worse: each by four standard errors. Of `within` at
several places on either side of one edge.
`python tests/helpers/gate_simulation.py [--draws 4000] [--only within]` prints the tables of docs/gate.md.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]

from gate_fakes import cell, row
from gate_scenarios import (
    Scenario,
    frechet_scenarios,
    mean_scenarios,
    prompt_scenarios,
    share_scenarios,
    statistic_scenarios,
    within_scenarios,
)

from evalkit.gate import judge, make_gates
from evalkit.results.table import ResultTable


def simulate(scenario: Scenario, draws: int, beyond: float = 0.0) -> Counter[str]:
    """The verdicts of so many draws; each scenario has its own random numbers."""
    names = ("new", "old") if {"no_worse_than", "within"} & scenario.rule.keys() else ("new",)
    cells = [cell(name, scenario.n) for name in names]
    option = {"rules": [{"metric": "m", "where": {"model": "new"}, **scenario.rule}]}
    gates = make_gates({"g": option}, cells, {"m": None})
    pairing = dict.fromkeys(names, "common") if scenario.paired else {name: name for name in names}
    rng = np.random.default_rng([*scenario.name.encode(), scenario.n, round(10 + beyond)])
    found: Counter[str] = Counter()
    prompts = scenario.n // scenario.per_prompt
    clusters = {name: [i // scenario.per_prompt for i in range(scenario.n)] for name in names}
    known: dict[str, Any] = {} if scenario.per_prompt == 1 else {"clusters": clusters}
    for _ in range(draws):
        drawn = scenario.draw(rng, beyond)
        rows = [row(name, "m", *drawn[name][:2], scenario.n, scenario.better, clusters=prompts) for name in names]
        influences = {(name, "m"): each.tolist() for name, (_, _, each) in drawn.items() if each is not None}
        found[judge(ResultTable({}, rows), gates, influences=influences, pairing=pairing, **known).status] += 1
    return found


HEADING = (
    f"{'':34s} {'N':>5s} | {'at the margin:':>14s} {'':>6s} | {'better:':>7s} | {'worse:':>7s}\n"
    f"{'':34s} {'':>5s} | {'pass %':>14s} {'fail %':>6s} | {'pass %':>7s} | {'fail %':>7s}"
)


def line(scenario: Scenario, draws: int) -> str:
    at, better, worse = (simulate(scenario, draws, beyond) for beyond in (0.0, -4.0, 4.0))
    shares = (100 * at["pass"] / draws, 100 * at["fail"] / draws, 100 * better["pass"] / draws)
    return (
        f"{scenario.name:34s} {scenario.n:5d} | {shares[0]:14.1f} {shares[1]:6.1f} | {shares[2]:7.1f} | "
        f"{100 * worse['fail'] / draws:7.1f}"
    )


BEYOND = (-6.0, -3.0, 0.0, 1.0, 2.0, 4.0)
WITHIN_HEADING = (
    f"{'truth, standard errors beyond:':30s} {'N':>5s} | "
    + " | ".join(f"{f'{beyond:+g}' if beyond else 'the edge':>11s}" for beyond in BEYOND)
    + f"\n{'':30s} {'':>5s} | "
    + " | ".join(["pass% fail%"] * len(BEYOND))
)


def within_line(scenario: Scenario, draws: int) -> str:
    found = [simulate(scenario, draws, beyond) for beyond in BEYOND]
    shares = (f"{100 * each['pass'] / draws:5.1f} {100 * each['fail'] / draws:5.1f}" for each in found)
    return f"{scenario.name.removeprefix('within, '):30s} {scenario.n:5d} | {' | '.join(shares)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--only", choices=("limits", "within"), help="one of the two tables")
    given = parser.parse_args()
    if given.only != "within":
        limits(given.draws)
    if given.only != "limits":
        within(given.draws)


def limits(draws: int) -> None:
    """Rules with one edge."""
    print(f"{draws} draws; 4 standard errors to either side\n{HEADING}")
    for n in (20, 60, 560):
        for scenario in (*mean_scenarios(n), *share_scenarios(n)):
            print(line(scenario, draws), flush=True)
    for per_prompt in (1, 4, 8):
        for scenario in prompt_scenarios(240 // per_prompt, per_prompt):
            print(line(scenario, draws), flush=True)
    for n, per_prompt in ((60, 1), (400, 1), (2000, 1), (2000, 8)):
        for scenario in statistic_scenarios(n, per_prompt):
            print(line(scenario, draws), flush=True)
    for d, n in ((8, 16), (8, 40), (8, 200), (32, 128), (32, 560)):
        for scenario in frechet_scenarios(d, n, draws):
            if "within" not in scenario.rule:
                print(line(scenario, draws), flush=True)


def within(draws: int) -> None:
    """Rules with an edge on either side."""
    frechet_draws = min(draws, 1000)  # each draw is two distances
    what = "the margin is 6 standard errors: at -6 both are truly the same"
    print(f"{draws} draws ({frechet_draws} of Frechet distances); {what}\n{WITHIN_HEADING}")
    for n, per_prompt in ((20, 1), (60, 1), (560, 1), (240, 8)):
        for scenario in within_scenarios(n, per_prompt):
            print(within_line(scenario, draws), flush=True)
    for d, n in ((8, 40), (8, 200), (32, 128)):
        for scenario in frechet_scenarios(d, n, frechet_draws):
            if "within" in scenario.rule:
                print(within_line(scenario, frechet_draws), flush=True)


if __name__ == "__main__":
    main()
