"""Live direction over the network: a server of films, a page to direct them on, and a client.

``server.py`` has the addresses, ``conversation.py`` what is said over one WebSocket and
``protocol.py`` every message of it. ``films.py`` has the films of a server, ``shared_model.py``
what makes them all, ``admissions.py`` who plays now. A film (``live_film.py``) is one session whose
frames are paced (``pace.py``), encoded once (``player.py``, ``fragments.py``), kept
(``recording.py``) and handed to all who watch (``viewers.py``); directors ask it for something
(``film_asks.py``). ``ray_app.py`` runs many servers, and ``door.py`` is the one address of them
all.
"""
