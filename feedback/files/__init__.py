"""Files that clients keep here under an id, as OpenAI's API has them: whole, or sent in parts."""
