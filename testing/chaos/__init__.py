"""Random faults under a stream of jobs, and an oracle that knows every accepted job."""
