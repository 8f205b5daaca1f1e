"""Runs beside certificates: attacks, corruptions, plans, second draws, and answers from votes."""
