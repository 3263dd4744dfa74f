"""Live direction over the network: a server of films, a page to direct them on, and a client.

``server.py`` has the addresses, ``conversation.py`` what is said over one WebSocket and
``protocol.py`` every message of it. A film (``live_film.py``) is one session whose frames are
paced, encoded once (``fragments.py``), kept (``recording.py``) and handed to all who watch
(``viewer.py``). ``ray_app.py`` runs many servers, and ``door.py`` is the one address of them all.
"""
