"""`python -m srwan` is the `srwan` command."""

from srwan.cli import main

raise SystemExit(main())
