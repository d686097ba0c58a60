"""Regions in a plan: which part of which photo an edit is about, known without a mask being made."""
