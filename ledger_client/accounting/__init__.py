"""Who owes what for traffic that flows: plans, receipts, counters, claims, and the accounts of consumer, relay and egress.

Start at `plan.py` for what a session is about, `payer.py`, `relay_account.py` and `egress_account.py` for the three sides, `journal.py` for
what survives a crash, `service.py` for how they talk.
"""
