"""Classification heads over proxies: margins, losses and sparse updates."""
