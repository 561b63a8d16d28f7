"""The one request that everybody is sent: some 640 bytes, answered with some 700."""

from __future__ import annotations

from typing import Any

MESSAGES = [
    {
        "role": "system",
        "content": "You are a careful assistant. Answer in at most three sentences, in the language of the question, "
        "and say so when you do not know.",
    },
    {
        "role": "user",
        "content": "We pass every request of our users through a gateway now. Tell me what it costs to pass one on, "
        "how much of that is for keeping what was asked and answered, and whether anybody would notice that it is "
        "there. Please leave out what we know already, and give a figure where there is one.",
    },
]


def completion(model: str) -> dict[str, Any]:
    """The body, with the name by which a contender calls the model."""
    return {"model": model, "messages": MESSAGES, "temperature": 0.2, "max_tokens": 128, "user": "user-17"}
