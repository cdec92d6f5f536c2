"""The running operator: watches, work queue, workers, leader election, metrics."""
