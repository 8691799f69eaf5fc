"""Tests of models/drafts."""
