"""The monthly report: what a month was like for one model, from the record, for people and for programs."""
