"""Scorers: functions that say how much each component matters for a task.

``catalogue`` lists them without importing torch; ``localize`` runs them.
"""
