"""The managed engine: vLLM as a child process that is spoken to over HTTP and never imported."""
