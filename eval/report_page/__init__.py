"""The page that report.py writes: the run's files, its charts, and the template with its style and script."""
