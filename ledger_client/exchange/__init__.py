"""How operators' stores become equal: digest tree, messages, session, service; and what is read out: segments, search, export."""
