"""Stages: functions from a reduction to a reduction."""
