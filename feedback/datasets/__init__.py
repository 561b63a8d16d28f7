"""From what users said to data worth training on: triage, curation, frozen dataset versions, evaluation cases."""
