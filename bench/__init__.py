"""Benchmarks: `python -m bench`. Every figure stands beside a peer, or a limit, that was measured or set in the same run."""
