"""law/1, as logs of the first version were decided: plans of one dataset or a one-to-one join, with COUNT, SUM and AVG. Never changed."""
