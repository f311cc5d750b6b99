"""Which model, size, method and settings fit a task, its data and a machine, with reasons; pure rules, no torch."""
