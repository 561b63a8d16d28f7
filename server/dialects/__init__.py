"""The APIs in which a model is asked: each its own way to say a request, an answer, a stream and an error."""
