"""Rewrite rules: patterns and replacements that leave the computed function unchanged."""
