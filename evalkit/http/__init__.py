"""How services are asked over HTTP: `client.py` sends and limits, `job.py` retries, `keys.py` keeps keys unseen."""
