"""Emoji drawings of several vendors, and tables that leave one vendor out."""
