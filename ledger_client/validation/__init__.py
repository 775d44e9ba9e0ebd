"""Validators: every claim recomputed from what its parties signed, accepted or refused with a reason, settled by a quorum.

Start with `validator.py`; what makes a claim good is in `checks.py`.
"""
