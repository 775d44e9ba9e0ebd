"""The market for segments: what relays ask for, what a path costs, and what is bought for whom.

Start at `offer.py` for what a seller signs, `book.py` for the offers a buyer knows, `quote.py` for the price of a path; `network.py` buys
whole virtual networks, `sla.py` detours around a bad path, and `service.py` takes offers from router to router.
"""
