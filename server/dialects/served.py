"""All of them: the routes on which a model answers."""

from __future__ import annotations

from server.dialects.completions import CHAT, COMPLETIONS
from server.dialects.embeddings import EMBEDDINGS
from server.dialects.messages import MESSAGES_API
from server.dialects.responses import RESPONSES

DIALECTS = (CHAT, COMPLETIONS, RESPONSES, MESSAGES_API, EMBEDDINGS)
