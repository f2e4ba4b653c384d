"""The loops behind `ambient-solve train`, `em` and `annotate`, and what they share."""
