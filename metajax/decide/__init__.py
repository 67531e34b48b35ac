"""From predictions to decisions: environments, policies, and what a log of decisions tells."""
