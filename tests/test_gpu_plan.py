"""benchmarks/gpu.py: what fits into the minutes, by hand."""

from gpu_plan import EPOCHS, Job, Part, ends, epochs_that_fit, next_job, time_shares


def test_time_is_shared_by_weight_and_what_one_cannot_use_goes_to_the_others() -> None:
    parts = [Part("a", 1, 0, 1000), Part("b", 3, 0, 1000)]
    assert time_shares(parts, 100) == {"a": 25, "b": 75}
    parts = [Part("a", 2, 0, 10), Part("b", 1, 0, 1000), Part("c", 1, 0, 1000)]
    assert time_shares(parts, 100) == {"a": 10, "b": 45, "c": 45}
    assert time_shares(parts, 4000) == {"a": 10, "b": 1000, "c": 1000}


def test_a_part_without_the_time_it_needs_is_left_out_the_last_one_first() -> None:
    parts = [Part("a", 1, 20, 1000), Part("b", 1, 40, 1000), Part("c", 1, 40, 1000)]
    assert time_shares(parts, 90) == {"a": 45, "b": 45}
    assert time_shares(parts, 30) == {"a": 30}
    assert time_shares(parts, 10) == {}
    assert time_shares([], 10) == {}


def test_each_job_goes_to_the_worker_that_is_free_first() -> None:
    assert ends([3, 1, 1, 1, 5], workers=2) == [3, 1, 2, 3, 8]
    assert ends([3, 1, 2], workers=1) == [3, 4, 6]


def test_as_many_epochs_as_end_in_time() -> None:
    def costs(epochs: int) -> list[float]:
        return [10 + 2 * epochs] * 6

    assert EPOCHS[:5] == (1, 2, 4, 8, 16)
    assert epochs_that_fit(costs, 2 * (10 + 2 * 8), workers=3) == 8
    assert epochs_that_fit(costs, 2 * (10 + 2 * 8) - 0.1, workers=3) == 4
    assert epochs_that_fit(costs, 1, workers=3) == 1
    assert epochs_that_fit(costs, 1e9, workers=3) == 200


def test_a_job_waits_for_the_rows_of_its_own_seed_and_for_failed_ones_forever() -> None:
    jobs = [Job("t", "base", 0), Job("t", "a", 0, ("base",)), Job("t", "base", 1), Job("t", "a", 1, ("base",))]
    assert next_job(jobs, set(), set()) == jobs[0]
    assert next_job(jobs, set(), {jobs[0]}) == jobs[2]
    assert next_job(jobs, {jobs[0]}, {jobs[2]}) == jobs[1]
    assert next_job(jobs, {jobs[0]}, {jobs[1], jobs[2]}) is None
    assert next_job(jobs, set(jobs), set()) is None
