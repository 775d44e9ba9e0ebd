"""Who owes whom: wallets, terms of a path session, tickets, and the engines on which they are settled.

Start at `terms.py` for what consumer and relays agree on, `ticket.py` for what the consumer signs, `settlement.py` for what an engine does.
"""
