"""llama.cpp's own server, which xllamacpp starts: MODEL.gguf PORT THREADS SLOTS."""

import signal
import sys

import xllamacpp

_TOKENS = 512  # of context for each slot


def main() -> None:
    """Serves in float32 until told to stop."""
    path, port, threads, slots = sys.argv[1], *map(int, sys.argv[2:5])
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.hostnames, params.port = ["127.0.0.1"], port
    params.n_parallel, params.n_ctx = slots, slots * _TOKENS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.cache_type_k = params.cache_type_v = 0  # float32
    params.warmup = True
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    del server


if __name__ == "__main__":
    main()
