"""Batches: a file of requests that is answered beside the users' traffic, as OpenAI's API has it."""
