"""Whether a teacher is worth what is expected of it: on the test images, which published figures are of.

The figure decides nothing but whether the run goes on; it is measured once for each teacher, and kept in the cache.
"""

import logging
from dataclasses import asdict
from pathlib import Path

from compress.errors import OWN, SettingError, settings_under
from compress.io.files import JSON, digest_of
from compress.io.paths import MODEL
from compress.io.stage_folder import StageFolder
from compress.measure.accuracy import accuracy
from compress.run.job import Job
from compress.run.store import Store

log = logging.getLogger(__name__)

NOISE = 1e-9  # of floats, so that a figure that is off by exactly what is allowed passes


def check_expected(job: Job, name: str, made: Path | None, store: Store) -> None:
    """Measure a teacher of the job, where a top-1 is expected of it; `made` is the folder of the stage that made it.

    Raises:
        SettingError: its top-1 is another.
    """
    teacher = job.teachers[name]
    expected, tolerance = teacher.settings.expect_top1, teacher.settings.top1_tol
    if expected is None:
        return
    own = teacher.converts(job.data)
    depends = {
        "settings": {"images": job.data.fingerprint(), "normalisation": None if own is None else asdict(own)},
        "network": teacher.source.digest() if made is None else digest_of(made / MODEL),
        "version": 1,
    }

    def measure(work: StageFolder) -> JSON:
        network = teacher.load(made, job.data).to(job.device)
        top1 = accuracy(network, job.data.ordered("test", job.evaluate.batch_size, job.device)).top1
        return {"made": "top-1 on the test images", "top1": top1, "seconds": round(work.seconds(), 3)}

    measured = store.stage("teacher_top1", depends, measure, redo=False, on_row=lambda row: None, called=name)
    top1 = float(measured.result["top1"])
    log.info("%s: its top-1 on the test images is %.2f %%, expected were %g", name, top1, expected)
    if abs(top1 - expected) > tolerance + NOISE:
        with settings_under(job.keys.teachers[name]):
            raise SettingError(
                f"{OWN}expect_top1={expected:g}: the teacher's top-1 on the test images is {top1:.2f} %, off by more "
                f"than {OWN}top1_tol={tolerance:g} points; is it the right file, and are the images normalised as "
                "those that it was trained on?"
            )
