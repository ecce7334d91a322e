"""joblib over sysclone's processes: `joblib.parallel_config("sysclone")` once this module is imported.

Each batch runs in a process of its own kind of Executor: copied by default, so closures need no pickling; options such as
timeout or memory_bytes are the backend's: `parallel_config("sysclone", n_jobs=4, kind="fresh", memory_bytes=1 << 30)`.
Needs joblib 1.4 or newer (`sysclone[joblib]`).
"""

from __future__ import annotations

import os

import joblib
from joblib.parallel import ParallelBackendBase, SequentialBackend

from .executor import Executor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__: list[str] = []


class _Backend(ParallelBackendBase):  # type: ignore[misc, unused-ignore]
    """A joblib backend whose batches run in processes that can be ended, limited and asked why they died.

    Args:
        options: of sysclone.Executor; kind is "copied" if not given.
    """

    supports_retrieve_callback = True
    supports_return_generator = True
    supports_timeout = True
    default_n_jobs = -1

    def __init__(
        self, nesting_level: int | None = None, inner_max_num_threads: int | None = None, **options: Any
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self._options = {"kind": "copied", **options}
        self._executor: Executor | None = None

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many processes n_jobs asks for: -1 is one a processor, -2 one fewer."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        cores = len(os.sched_getaffinity(0))
        if n_jobs is None:
            return 1
        return max(1, cores + 1 + n_jobs) if n_jobs < 0 else n_jobs

    def configure(self, n_jobs: int = 1, parallel: Any = None, **_: Any) -> int:
        """Called before the first batch."""
        count = self.effective_n_jobs(n_jobs)
        self._executor = Executor(count, **self._options)
        self.parallel = parallel
        return count

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], None] | None = None) -> Any:
        """Run a batch."""
        assert self._executor is not None
        future = self._executor.submit(func)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out: Any) -> Any:
        """What a batch came to; called with its future."""
        return out.result()

    def terminate(self) -> None:
        """Called after the last batch."""
        if self._executor is not None:
            self._executor.shutdown()
            self._executor = None

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """End what runs, and be ready for more if asked."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True, cancel_running=True)
            self._executor = None
        if ensure_ready:
            self.configure(n_jobs=self.parallel.n_jobs, parallel=self.parallel)

    def get_nested_backend(self) -> tuple[Any, None]:
        """What Parallel in a batch uses: nothing parallel."""
        return SequentialBackend(nesting_level=(self.nesting_level or 0) + 1), None


joblib.register_parallel_backend("sysclone", _Backend)
