"""Statistics over the record: pure functions on arrays, no I/O. They load SciPy, so no gateway worker imports them."""
