"""What a sweep does: the job of a trial, the journal of all, and one trial run."""
