"""No engine: how fast this machine's memory is, read by XLA and copied by NumPy."""

import sys
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import jax
import jax.numpy as jnp
import numpy as np
from worker import serve

_BYTES = 512 * 2**20


class MemoryPeer:
    """Two large arrays, and threads to copy one to the other."""

    version = f"jax {jax.__version__}, numpy {np.__version__}"

    def __init__(self, threads: int) -> None:
        """Fills the arrays and compiles the sum."""
        self._source = np.ones(_BYTES // 4, np.float32)
        self._target = np.empty_like(self._source)
        self._on_device = jnp.asarray(self._source)
        self._sum = jax.jit(jnp.sum)
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads)
        self.read(), self.copy()

    def read(self) -> float:
        """Returns the bytes that a sum reads in a second."""
        start = perf_counter()
        self._sum(self._on_device).block_until_ready()
        return _BYTES / (perf_counter() - start)

    def copy(self) -> float:
        """Returns the bytes that a copy moves in a second, read and written."""
        sources = np.array_split(self._source, self._threads)
        targets = np.array_split(self._target, self._threads)
        start = perf_counter()
        list(self._pool.map(np.copyto, targets, sources))
        return 2 * _BYTES / (perf_counter() - start)


if __name__ == "__main__":
    serve(MemoryPeer(int(sys.argv[1])))
