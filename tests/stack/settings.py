"""The project's settings, with a loop worker that stops where a test tells it to."""

from novawf_site.settings import *  # noqa: F403

SLICE_JOBS = {"loops": "tests.stack.stopping.run_loop_slice", "work": "workflow.jobs.run_work_slice"}
