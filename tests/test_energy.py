"""Energy from power traces of known truth.

Statistical tests: a coverage of 95 % that is tested as at least 90 % in 200 cases fails by chance with
p < 0.002 (binomial, 180 of 200), each with fixed seeds.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.clocks import Probe, fit
from results import energy
from results.codec import to_json
from results.errors import MeterError, StoreError
from results.evaluations import history
from results.front import front
from results.plateau import Uncertainty, least_plateau_s, of_plateau, trim
from results.power import ClockFit, MeterTraits, Plateau, PowerTrace
from results.records import Interval, Metric, Problem
from results.store import Run, Store
from tests.fixtures_results import PI, ask, config, make_measurement, make_session, measured, told, trained
from tests.power_scenes import BOARD, OTHER, Scene, measurement, record

SPANS = {"idle_before_s": (100.0, 110.0), "active_s": (111.0, 121.0), "idle_after_s": (122.0, 132.0)}
ONE = Plateau(0, BOARD, 1000, **SPANS)
QUICK = MeterTraits(period_s=0.01)


def trace_of(times_s: list[float], powers_w: list[float], **more: object) -> PowerTrace:
    values = {"meter": QUICK} | more
    return PowerTrace("known", "module", BOARD, tuple(times_s), tuple(powers_w), **values)  # type: ignore[arg-type]


def seeds(count: int) -> list[np.random.Generator]:
    return [np.random.default_rng((20_24, k)) for k in range(count)]


# --------------------------------------------------------------------------- exact


def test_constant_power_is_exact() -> None:
    times = np.arange(99.0, 133.0, 0.01)
    figures = of_plateau(ONE, trace_of(times.tolist(), [5.0] * len(times)))
    assert figures.gross_j == pytest.approx(5.0 * 10.0 / 1000, rel=1e-9)
    assert figures.gross_u.half_width() < 1e-12


def test_piecewise_linear_power_is_exact() -> None:
    """A ramp whose knots are readings: the mean of what is left of it after trimming."""
    times = np.arange(99.0, 133.0, 0.01)
    powers = 3.0 + 0.001 * (times - 99.0) + np.where((times > 110.5) & (times < 121.5), 2.0, 0.0)
    figures = of_plateau(ONE, trace_of(times.tolist(), powers.tolist()))
    trim_s = trim(QUICK)
    low, high = 111.0 + trim_s, 121.0 - trim_s
    mean = 5.0 + 0.001 * ((low + high) / 2 - 99.0)
    assert figures.gross_j == pytest.approx(mean * 10.0 / 1000, rel=1e-9)
    assert figures.net_j == pytest.approx(2.0 * 10.0 / 1000, rel=1e-9)  # a linear drift cancels


def test_a_triangle_is_exact_at_uneven_times() -> None:
    rng = np.random.default_rng(1)
    times = np.unique(np.concatenate((np.arange(99.0, 133.0, 0.02), 99 + 34 * rng.random(500), [116.0])))
    powers = 3.0 - 0.004 * np.abs(times - 116.0)
    figures = of_plateau(ONE, trace_of(times.tolist(), powers.tolist(), meter=MeterTraits(period_s=0.02)))
    half = 5.0 - trim(MeterTraits(period_s=0.02))
    assert figures.gross_j == pytest.approx((3.0 - 0.004 * half / 2) * 10.0 / 1000, rel=1e-9)


def test_a_counter_is_exact_whatever_the_power_did() -> None:
    """Its mean powers between readings add up to what it counted."""
    rng = np.random.default_rng(2)
    times = np.cumsum(0.05 + 0.1 * rng.random(400)) + 98.0
    joules = np.cumsum(rng.random(400))
    means = np.diff(joules) / np.diff(times)
    trace = trace_of(times.tolist(), [means[0], *means], means=True, meter=MeterTraits(period_s=0.1))
    figures = of_plateau(ONE, trace)
    trim_s = trim(trace.meter)
    first, last = (
        np.searchsorted(times, 111.0 + trim_s),
        np.searchsorted(times, 121.0 - trim_s, side="right") - 1,
    )
    expected_w = (joules[last] - joules[first]) / (times[last] - times[first])
    assert figures.active_w == pytest.approx(expected_w, rel=1e-9)


# --------------------------------------------------------------------------- random


def covered(scene: Scene, count: int = 200, *, net: bool = False) -> float:
    """Share of the intervals that hold the truth; no more than 3 % of the plateaus may be refused."""
    hits = kept = 0
    for rng in seeds(count):
        found = energy.energy(measurement(record(scene, rng)))
        interval = found and (found.net if net else found.gross)
        if interval is not None:
            kept += 1
            truth = scene.net_j if net else scene.gross_j
            hits += interval.low <= truth <= interval.high
    assert kept >= 0.97 * count
    return hits / kept


PULSES = Scene(swing=0.35 * 5 / 2, run_s=0.0213)


def test_pulses_are_covered_and_averaged_away() -> None:
    """CV 35 % at n = 1500 readings; rms within 1.2 times CV / sqrt(n)."""
    errors = []
    for rng in seeds(200):
        found = energy.energy(measurement(record(PULSES, rng)))
        assert found is not None
        errors.append(found.gross.value / PULSES.gross_j - 1)
    n = PULSES.active_s / PULSES.period_s
    assert math.sqrt(np.mean(np.square(errors))) <= 1.2 * 0.35 / math.sqrt(n)
    assert covered(PULSES) >= 0.90


@pytest.mark.parametrize(
    "scene",
    [
        Scene(noise_w=0.5),
        Scene(slow_noise_w=0.3, slow_noise_s=0.05),
        Scene(period_s=0.1, noise_w=0.3, active_s=20.0),
        Scene(noise_w=0.3, step_w=0.04),
    ],
    ids=["noise", "slow noise", "few readings", "steps"],
)
def test_noise_is_covered(scene: Scene) -> None:
    assert covered(scene) >= 0.90
    assert covered(scene, net=True) >= 0.90


def test_runs_as_long_as_the_sampling_period() -> None:
    """On a fixed grid the phase decides; with jitter the error is a few percent at the most."""
    scene = Scene(swing=1.0, idle_w=1.0, run_s=0.0066, jitter=True)
    jittered = [of_plateau(*record(scene, rng)).gross_j / scene.gross_j - 1 for rng in seeds(20)]
    assert max(map(abs, jittered)) <= 0.05
    fixed = of_plateau(*record(replace(scene, jitter=False), np.random.default_rng(1)))
    assert abs(fixed.gross_j / scene.gross_j - 1) > 0.30


@pytest.mark.parametrize("averaged", [16, 64])
def test_a_sensor_that_averages(averaged: int) -> None:
    """What it still remembers of the idle part is cut off."""
    scene = Scene(cycle_s=0.0066, averaged=averaged, noise_w=0.05, active_s=20.0)
    found = [of_plateau(*record(scene, rng)) for rng in seeds(10)]
    assert abs(np.mean([f.gross_j for f in found]) / scene.gross_j - 1) <= 0.005
    assert abs(np.mean([f.net_j for f in found]) / scene.net_j - 1) <= 0.005


@pytest.mark.parametrize("averaged", [1, 16, 64])
def test_coarse_steps_are_in_the_budget_or_net_is_not_resolved(averaged: int) -> None:
    """Steps of 0.4 W and 1 W net: averaging on the chip removes the noise that would have helped."""
    base = Scene(net_w=1.0, noise_w=0.15, step_w=0.4, cycle_s=0.0066, averaged=averaged, active_s=20.0)
    hits = total = 0
    for rng in seeds(60):
        scene = replace(base, idle_w=3.0 + 0.4 * rng.random())
        found = energy.energy(measurement(record(scene, rng)))
        assert found is not None
        if found.net is not None:
            total += 1
            hits += found.net.low <= scene.net_j <= found.net.high
        assert found.gross.low <= scene.gross_j <= found.gross.high
    assert hits >= 0.9 * total


def test_a_figure_without_noise_has_half_a_step_in_its_budget() -> None:
    scene = Scene(step_w=0.4, idle_w=3.11, net_w=2.0)
    found = energy.energy(measurement(record(scene, np.random.default_rng(0))))
    assert found is not None
    assert found.gross.low <= scene.gross_j <= found.gross.high
    assert found.gross.high - found.gross.value == pytest.approx(
        1.96 * 0.4 / math.sqrt(12) * scene.run_s, rel=0.01
    )


def test_idle_that_drifts_cancels() -> None:
    scene = Scene(drift_per_min=0.01, net_w=1.0, noise_w=0.02)
    nets = [of_plateau(*record(scene, rng)).net_j for rng in seeds(20)]
    assert abs(np.mean(nets) / scene.net_j - 1) <= 0.002


# --------------------------------------------------------------------------- clocks


def test_another_clock_moves_nothing() -> None:
    """5 s ahead, 50 ppm, unequal ways of 2 and 6 ms: the energy stays within 0.1 %."""
    here = Scene(noise_w=0.01)
    there = replace(here, offset_s=5.0, skew=50e-6, round_trip_s=(0.002, 0.006))
    for k in range(10):
        expected = of_plateau(*record(here, np.random.default_rng(k)))
        found = of_plateau(*record(there, np.random.default_rng(k)))
        assert not found.problems
        assert found.gross_j == pytest.approx(expected.gross_j, rel=1e-3)
        assert found.net_j == pytest.approx(expected.net_j, rel=1e-3)


def test_a_fit_is_never_worse_than_half_the_round_trip() -> None:
    """Any delays whatever, 200 cases."""
    for rng in seeds(200):
        offset, skew = 1e4 * rng.random(), 1e-4 * (rng.random() - 0.5)

        def probes(
            start: float, rng: np.random.Generator = rng, a: float = offset, b: float = skew
        ) -> list[Probe]:
            found = []
            for k in range(40):
                sent = start + 0.02 * k
                there = sent + rng.exponential(0.003)
                found.append(Probe(sent, there + a + b * there, there + rng.exponential(0.0005)))
            return found

        got = fit(OTHER, probes(1000.0), probes(1040.0), 0)
        for moment in (1001.0, 1020.0, 1039.0):
            theirs = moment + offset + skew * moment
            assert abs(theirs + got.offset_s + got.drift * theirs - moment) <= got.bound_s + 1e-9


def test_a_clock_that_jumps_is_refused() -> None:
    before = [Probe(10.0, 110.0, 10.001)]
    with pytest.raises(MeterError, match="it jumped"):
        fit(OTHER, before, [Probe(50.0, 152.0, 50.001)], 0)
    with pytest.raises(MeterError, match="it jumped"):
        fit(OTHER, before, [Probe(50.0, 90.0, 50.001)], 0)


def test_clocks_that_were_not_compared() -> None:
    plateau, trace, _ = record(Scene(offset_s=5.0), np.random.default_rng(0))
    assert of_plateau(plateau, trace, []).problems == (
        "the clocks of the meter's machine and of the board were not compared",
    )


# --------------------------------------------------------------------------- what is refused


def problems(scene: Scene) -> str:
    return "; ".join(of_plateau(*record(scene, np.random.default_rng(3))).problems)


def test_a_few_readings_may_be_lost_and_a_gap_may_not() -> None:
    scene = Scene(noise_w=0.05)
    lost = [of_plateau(*record(replace(scene, lost=0.05), rng)) for rng in seeds(10)]
    assert not any(f.problems for f in lost)
    assert abs(np.mean([f.gross_j for f in lost]) / scene.gross_j - 1) <= 0.005
    assert "values are missing for 30" in problems(replace(scene, gap_s=3.0))


def test_a_meter_that_is_too_slow_says_how_long_it_needs() -> None:
    scene = Scene(period_s=6.0)
    figures = of_plateau(*record(scene, np.random.default_rng(0)))
    assert figures.needs_s == pytest.approx(100 * 6.0 + 2 * 12.0)
    assert figures.problems == ("simulated is too slow for 9.99 s: a value every 6 s needs runs of 624 s",)
    assert least_plateau_s(MeterTraits(period_s=1.0, least_s=120.0)) == 120.0


def test_power_that_drifts_while_it_runs_is_refused() -> None:
    assert "power drifted while it ran" in problems(Scene(drift_per_min=0.3, idle_w=10.0))


def test_throttling_and_a_costly_reader_are_refused() -> None:
    plateau, trace, fits = record(Scene(), np.random.default_rng(0))
    assert of_plateau(replace(plateau, throttle_events=2), trace, fits).problems == ("2 throttle events",)
    costly = replace(trace, meter=replace(trace.meter, cpu_share=0.2))
    assert of_plateau(plateau, costly, fits).problems == (
        "reading the meter took 20% of a CPU of the board itself",
    )


def test_a_trace_that_does_not_reach_over_the_plateau_is_refused() -> None:
    plateau, trace, _ = record(Scene(), np.random.default_rng(0))
    half = replace(trace, times_s=trace.times_s[:2000], powers_w=trace.powers_w[:2000])
    assert "no values towards the end" in of_plateau(plateau, half).problems[0]
    half = replace(trace, times_s=trace.times_s[2000:], powers_w=trace.powers_w[2000:])
    assert "no values in the beginning" in of_plateau(plateau, half).problems[0]


def test_net_that_cannot_be_told_from_nothing() -> None:
    found = energy.energy(measurement(record(Scene(net_w=0.01, noise_w=0.5), np.random.default_rng(0))))
    assert found is not None
    assert found.net is None
    assert "above idle, known to" in found.net_problem
    plug = Scene(net_w=0.5, noise_w=0.01, traits=MeterTraits(least_net_w=1.0))
    found = energy.energy(measurement(record(plug, np.random.default_rng(0))))
    assert found is not None
    assert found.net_problem == "0.5 W above idle is less than the 1 W that this meter can tell"


def test_idle_parts_that_disagree_leave_no_net() -> None:
    plateau, trace, _ = record(Scene(noise_w=0.01), np.random.default_rng(0))
    later = np.array(trace.times_s) > plateau.active_s[1]
    powers = np.array(trace.powers_w) + np.where(later, 0.5, 0.0)
    found = energy.energy(measurement((plateau, replace(trace, powers_w=tuple(powers.tolist())), [])))
    assert found is not None
    assert found.net_problem.startswith("idle power before and after differs by 0.5")


# --------------------------------------------------------------------------- several plateaus, notes


def test_plateaus_of_several_agents_cover_what_differs_between_them() -> None:
    scene = Scene(noise_w=0.1, session_spread=0.05)
    hits = 0
    for rng in seeds(200):
        found = energy.energy(measurement(*(record(scene, rng, number) for number in range(5))))
        assert found is not None
        assert found.plateaus == 5
        hits += found.gross.low <= scene.gross_j <= found.gross.high
    assert hits >= 180


def test_uncertainties_combine_as_the_guide_says() -> None:
    """GUM H.1.6: u = 32 nm of 25 (18), 9.7 (25.6), 2.9 (50), 16.6 (2): 16 degrees of freedom or so."""
    parts = [Uncertainty(25, 18), Uncertainty(9.7, 25.6), Uncertainty(2.9, 50), Uncertainty(16.6, 2)]
    total = Uncertainty.combined(parts)
    assert total.standard == pytest.approx(31.7, abs=0.1)
    assert total.freedom == pytest.approx(16.7, abs=0.3)
    assert Uncertainty(1.0, 19).half_width() == pytest.approx(2.093, abs=1e-3)
    assert Uncertainty.combined([]).half_width() == 0.0


def test_the_systematic_part_stands_beside_the_interval() -> None:
    scene = Scene(noise_w=0.05, traits=MeterTraits(gain=0.006, offset_w=0.05))
    found = energy.energy(measurement(record(scene, np.random.default_rng(0))))
    assert found is not None
    assert found.net is not None
    assert found.systematic_j == pytest.approx(1.96 * scene.run_s * math.hypot(0.006 * 5.0, 0.05), rel=0.01)
    assert found.net_systematic_j == pytest.approx(1.96 * 0.006 * scene.net_j, rel=0.02)  # the zero cancels


def test_notes_say_where_a_figure_comes_from_or_why_there_is_none() -> None:
    traits = MeterTraits(gain=0.006, leaves_out="carrier board")
    good = measurement(record(Scene(noise_w=0.05, traits=traits), np.random.default_rng(0)))
    assert energy.note(good) == (
        "simulated (module, without carrier board); active 5 W, idle 3 W; plateaus: 1; systematic ±1.2%"
    )
    assert isinstance(energy.interval(good), Interval)
    bad = measurement(record(Scene(gap_s=3.0), np.random.default_rng(0)))
    assert energy.interval(bad) is None
    assert "values are missing" in energy.note(bad)
    assert energy.note(measurement()) == "not measured: no power meter was read"
    why = replace(measurement(), energy_note="rapl: Permission denied; sudo chmod a+r ...")
    assert energy.note(why) == "rapl: Permission denied; sudo chmod a+r ..."


def test_figures_of_two_meters_are_never_ranked_together(tmp_path: Path) -> None:
    """The meter was changed in between: candidates of the newest make the front."""
    body = config((PI,), ())
    body["problem"] = to_json(Problem((Metric("accuracy", maximise=True), Metric("energy", (PI.name,)))))
    with Store.open(tmp_path / "store.sqlite") as store:
        run = store.begin("demo", body)
        for number, source in enumerate(("module sensor", "smart plug")):
            add_energy(run, number, source)
        members = front(history(run), PI.name)
    assert [(m.candidate.known.trial.number, m.place) for m in members] == [
        (1, "certain"),
        (0, "other environment"),
    ]


def add_energy(run: Run, number: int, source: str) -> None:
    """A finished trial of 10 ms whose power a meter has seen."""
    plateau, trace, _ = record(Scene(noise_w=0.05), np.random.default_rng(number))
    sessions = [make_session([0.01] * 20, started_at=1_700_000_000.0 + number) for _ in range(3)]
    found = make_measurement(sessions, plateaus=(plateau,), traces=(replace(trace, source=source),))
    ask(run, number)
    measured(run, number, found)
    trained(run, number, 0.9)
    told(run, number)


def test_a_plateau_that_is_none_is_refused() -> None:
    with pytest.raises(StoreError, match="needs runs"):
        Plateau(0, BOARD, 0, **SPANS)
    with pytest.raises(StoreError, match="begin before they end"):
        Plateau(0, BOARD, 1, (2.0, 1.0), (3.0, 4.0), (5.0, 6.0))
    with pytest.raises(StoreError, match="one finite power per time"):
        trace_of([1.0, 2.0], [math.nan, 1.0])
    assert ClockFit(BOARD, 0.0, 0.0, 0.0).plateau == 0
