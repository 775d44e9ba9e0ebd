"""The native data plane, L2: SR packets through C, in a thread of its own, beside the portable plane that does all the rest.

Optional: the extension module `_core` is built at installation where there are a C compiler and the headers of Python and OpenSSL, and
left out elsewhere; `srwan.routing.planes` finds out and says why. Nothing here is imported unless it is there.

    forwarder.py  NativeForwarder: a PortableForwarder with the fast path in front
    transport.py  NativeTransport: the node's UDP sockets, read by the plane's thread once a NativeForwarder uses them
    tables.py     NativeTables: keeps the plane's tables as `Sessions` and the view have them
    plane.h       the C side: theory of operation and invariants
"""

from __future__ import annotations

__all__: list[str] = []
