"""The demonstration behind `srwan demo`: a swarm of router processes, an application, congestion and crashes."""
