"""The endpoint: the only package that knows Litestar and that talks to vLLM."""
