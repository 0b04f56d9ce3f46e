"""Judging a model and its data beside Evidently, Fairlearn and Great Expectations: equal answers first, then seconds.

Run: python -m benchmarks.judging [--columns 50] [--rows 10000]. The last line is JSON: drift_ratio checks_ratio
fairness_ratio (theirs / ours), bootstrap_s (1,000 repetitions of all rates of 40 groups), clinical_s.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.measuring import show
from validation import checks, clinical, drift, expectations, fairlearn_rates, group_rates, model_protocol, shift
from validation.checks import AtLeast, Between, InSet, NotNull, Unique


def timed(call: Callable[[], Any], repetitions: int = 1) -> tuple[Any, float]:
    """Return a call's result and the least seconds it took."""
    best, result = float("inf"), None
    for _ in range(repetitions):
        before = time.perf_counter()
        result = call()
        best = min(best, time.perf_counter() - before)
    return result, best


def drifts(rows: int, columns: int) -> tuple[float, float]:
    """Return seconds of ours and of Evidently's, by PSI, on the same columns with values equal to 1e-9."""
    generator = np.random.default_rng(0)
    before, after = generator.normal(size=(rows, columns)), generator.normal(0.1, 1, size=(rows, columns))
    pairs = [(f"f{place}", "psi", before[:, place], after[:, place]) for place in range(columns)]
    drift.evidently_distances(pairs[:1])  # its import is not what is compared
    theirs, their_s = timed(lambda: drift.evidently_distances(pairs))
    ours, our_s = timed(lambda: [shift.distance(method, one, other) for _, method, one, other in pairs], 3)
    assert np.allclose(ours, theirs, rtol=0, atol=1e-9)
    return our_s, their_s


def row_checks(rows: int) -> tuple[float, float]:
    """Return seconds of ours and of Great Expectations', 40 rules on 20 columns, with the same answers."""
    generator = np.random.default_rng(0)
    table = pd.DataFrame(generator.normal(size=(rows, 18)), columns=[f"c{place}" for place in range(18)])
    table["concept"] = generator.integers(1, 90, rows)
    table["minute"] = np.arange(rows)
    table.loc[::50, "c3"] = np.nan
    rules: list[checks.Rule] = [NotNull(name=f"there_{name}", column=name) for name in table.columns]
    rules += [Between(name=f"range_{name}", column=name, low=-4, high=4, mostly=0.999) for name in table.columns[:14]]
    rules += [AtLeast(name=f"order_{place}", column=f"c{place}", other=f"c{place + 1}") for place in range(4)]
    rules += [
        InSet(name="known", column="concept", values=frozenset(range(1, 90))),
        Unique(name="once", columns=("concept", "minute")),
    ]
    columns = {name: table[name].to_numpy() for name in table.columns}
    expectations.great_expectations_results(table.head(10), rules)
    theirs, their_s = timed(lambda: expectations.great_expectations_results(table, rules))
    ours, our_s = timed(lambda: {rule.name: checks.evaluate(rule, columns).is_kept for rule in rules}, 3)
    assert ours == theirs, "the same answers"
    return our_s, their_s


def fairness(rows: int) -> tuple[float, float, float]:
    """Return seconds of ours, of Fairlearn's MetricFrame with equal rates, and of our 1,000 bootstrap repetitions."""
    generator = np.random.default_rng(0)
    outcome, said = generator.random(rows) < 0.14, generator.random(rows)
    index = generator.integers(0, 40, rows)
    members = np.asarray([f"g{place:02d}" for place in index])
    fairlearn_rates.metric_frame(outcome[:400], said[:400], members[:400], 0.3)
    theirs, their_s = timed(lambda: fairlearn_rates.metric_frame(outcome, said, members, 0.3))

    def ours() -> tuple[Any, Any, list[float]]:
        cells = group_rates.confusion_by_group(outcome, said >= 0.3, index, 40)
        return (
            cells,
            group_rates.rates(cells),
            [group_rates.ranking(outcome[index == place], said[index == place]).area for place in range(40)],
        )

    (cells, rates, areas), our_s = timed(ours, 3)
    for name, values in rates.items():
        assert np.allclose(values, theirs[name].to_numpy(), rtol=0, atol=1e-9)
    assert np.allclose(areas, theirs["auroc"].to_numpy(), rtol=0, atol=1e-9)
    _, boot_s = timed(lambda: group_rates.rates(group_rates.draws(cells, 1000, np.random.default_rng(0))))
    return our_s, their_s, boot_s


def clinical_seconds(stays: int = 1200) -> float:
    """Return seconds of a whole clinical verdict: 1,000 bootstrap repetitions of 11 metrics, five hours."""
    protocol = model_protocol.load()
    generator = np.random.default_rng(0)
    hours = np.asarray(protocol.timing.judged_hours)
    odds = generator.normal(-2.6, 1.9, stays)
    died = generator.random(stays) < 1 / (1 + np.exp(-odds))
    stay, hour = np.repeat(np.arange(stays), len(hours)), np.tile(hours, stays)
    label, said = np.repeat(died, len(hours)).astype(int), np.repeat(1 / (1 + np.exp(-odds)), len(hours))
    return timed(lambda: clinical.judge(protocol, stay, hour, label, said), 2)[1]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--columns", type=int, default=50)
    parser.add_argument("--rows", type=int, default=10_000)
    arguments = parser.parse_args()
    our_drift, evidently = drifts(arguments.rows, arguments.columns)
    our_checks, great_expectations = row_checks(arguments.rows * 10)
    our_rates, fairlearn, bootstrap = fairness(arguments.rows * 10)
    whole = clinical_seconds()
    show(
        [
            ("what", "Vigil [s]", "peer [s]", "ratio"),
            (
                f"drift, {arguments.columns} columns x {arguments.rows} rows, PSI (Evidently)",
                f"{our_drift:.3f}",
                f"{evidently:.2f}",
                f"{evidently / our_drift:.0f}",
            ),
            (
                f"40 rules, {arguments.rows * 10} rows x 20 columns (Great Expectations)",
                f"{our_checks:.3f}",
                f"{great_expectations:.2f}",
                f"{great_expectations / our_checks:.0f}",
            ),
            (
                f"5 rates of 40 groups, {arguments.rows * 10} rows (Fairlearn)",
                f"{our_rates:.3f}",
                f"{fairlearn:.2f}",
                f"{fairlearn / our_rates:.0f}",
            ),
            ("1,000 bootstrap repetitions of 4 rates, 40 groups", f"{bootstrap:.3f}", "", ""),
            ("clinical verdict, 1,200 stays, 1,000 repetitions", f"{whole:.3f}", "", ""),
        ]
    )
    print(
        json.dumps(
            {
                "drift_ratio": round(evidently / our_drift, 1),
                "checks_ratio": round(great_expectations / our_checks, 1),
                "fairness_ratio": round(fairlearn / our_rates, 1),
                "bootstrap_s": round(bootstrap, 4),
                "clinical_s": round(whole, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
