"""A trained policy as a file that needs this package no more."""
