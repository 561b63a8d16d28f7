"""Commands of the endpoint and of the processes on this machine."""
