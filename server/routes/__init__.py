"""One file for each family of addresses: handlers parse, call and show, and hold no rules of their own."""
