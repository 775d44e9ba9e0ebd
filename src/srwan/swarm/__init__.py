"""Many routers on one machine: emulated links over real sockets, skewed clocks, one process per router."""
