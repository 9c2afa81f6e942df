"""The project's settings with stand-in slices."""

from novawf_site.settings import *  # noqa: F403

SLICE_JOBS = dict.fromkeys(("loops", "work"), "tests.processes.stand_in.run_slice")
ROOT_URLCONF = "tests.processes.urls"
