"""Replicas of models: started, watched, replaced, and chosen for each request."""
