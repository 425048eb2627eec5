"""From SQL text to what a plan is made of: sqlglot reads the text, and whatever has no meaning here is refused by name and place."""
