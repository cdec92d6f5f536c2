"""The engines in this process, with as many threads as a worker would use."""

from __future__ import annotations

import os

from whisper_inference.engines.limits import usable_cores

# Before the tests import whisper, and numba with it: both engines' expectations need one number of threads throughout.
os.environ.setdefault("NUMBA_NUM_THREADS", str(usable_cores()))
