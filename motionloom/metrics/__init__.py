"""How good a set of clips is: one file a metric, one row of `catalog.METRICS` each."""
